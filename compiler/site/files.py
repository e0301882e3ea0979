"""What a host needs to serve the page and its models without Wisp's own server: files, their types, how long they keep.

Knows the layout, which is relative throughout: the page opens below any path. What a file's bytes mean, others know.

    index.html, offline.js, files.json, manifest.json, icons     the page, its service worker and what that keeps
    models.json                                                  the catalogue
    static/                                                      the engine, as `wisp serve` has it
    models/<id>/                                                 artifacts
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.templating import Jinja2Templates

from ..errors import WispError
from ..places import WEB
from ..serving.app import CONTENT_SECURITY_POLICY, SECURITY_HEADERS, ServeError, check_built
from ..serving.catalogue import Artifact, Catalogue
from ..serving.files import IMMUTABLE, MEDIA_TYPES, static_url

BUILT = WEB / "dist"
ICONS = WEB / "icons"
# Of web/dist what pages use, this one and others that import the engine from the site; the rest is for Node, for
# `wisp bench`, for compilers, and for the served page.
NOT_OF_A_PAGE = re.compile(r"(.*\.map|.*\.mjs|.*\.d\.ts|bench\.js|service-worker\.js|isolation\.js|offline\.js)")
# Of those what this page asks for: its own build, and what the engine's worker is made of.
STATIC_OFFLINE = re.compile(
    r"static/(?:(?:check|page|page-[\w-]+|worker|thread|jinja|tokenizer|template|grammar)\.js|page\.css)"
)
HASHED = re.compile(r"static/(?:shared|page)-[\w-]+\.js")  # a name that changes with its content
VERSION = b"wisp-version"  # in offline.js, for what files.json holds
POLICY = f"{CONTENT_SECURITY_POLICY}; manifest-src 'self'"
# A page cannot say this one of itself.
POLICY_OF_THE_PAGE = "; ".join(part for part in POLICY.split("; ") if not part.startswith("frame-ancestors"))
HEADERS = {**SECURITY_HEADERS, "content-security-policy": POLICY}


@dataclass(frozen=True)
class SiteFile:
    """A file of the site: its name, bytes or where they lie, and its SHA-256."""

    name: str
    content: bytes | Path
    sha256: str
    size: int

    @property
    def media_type(self) -> str:
        """What it is, with the encoding of what is text."""
        kind = TYPES.get(Path(self.name).suffix, "application/octet-stream")
        return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

    @property
    def immutable(self) -> bool:
        """Whether it is only ever asked for by an address that its content is part of."""
        of_a_model = self.name.startswith("models/") and not self.name.endswith("/model.json")
        return of_a_model or HASHED.fullmatch(self.name) is not None

    @property
    def cache_control(self) -> str:
        """For hosts that have one answer for an address, whatever its query."""
        return IMMUTABLE if self.immutable else "no-cache"

    @property
    def rank(self) -> int:
        """The order of publishing: what is pointed at comes before what points at it."""
        last = ("models.json", "files.json", "index.html", "offline.js")
        if self.name in last:
            return 2 + last.index(self.name)
        return 1 if self.name.endswith("/model.json") else 0


TYPES = {**MEDIA_TYPES, ".png": "image/png", ".md": "text/markdown"}


def site_files(artifacts: Path, models: Collection[str] = (), note: Callable[[str], None] = print) -> list[SiteFile]:
    """Every file of a site with these models (none named: all there are), in the order of publishing.

    Raises WispError when the page is not built, a model is not there, or there is none.
    """
    try:
        check_built(BUILT)
    except ServeError as error:
        raise WispError(str(error)) from error
    offered, chosen = _choose(artifacts, models, note)
    files = [*_static(), *_icons()]
    for key, artifact in chosen.items():
        for name, sha256 in artifact.files.items():
            files.append(SiteFile(f"models/{key}/{name}", artifact.directory / name, sha256, artifact.sizes[name]))
    catalogue = {"models": [{**model, "url": f"models/{model['id']}/"} for model in offered], "invalid": []}
    files += [_made("models.json", _json(catalogue)), _made("manifest.json", _json(APP_MANIFEST))]
    page = _made("index.html", _page().encode())
    kept = [file for file in files if _is_kept(file.name)]
    listed = _made("files.json", _json(["./", *(_address(file) for file in kept)]))
    version = "".join(file.sha256 for file in (page, listed, *kept)).encode()
    files += [page, listed, _made("offline.js", _versioned(hashlib.sha256(version).hexdigest()[:16]))]
    return sorted(files, key=lambda file: (file.rank, file.name))


def artifact_directory(artifacts: Path, model: str) -> Path:
    """Where the artifact of a model's id lies. Raises WispError."""
    _, chosen = _choose(artifacts, [model], lambda note: None)
    (artifact,) = chosen.values()
    return artifact.directory


def _choose(
    artifacts: Path, models: Collection[str], note: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, Artifact]]:
    if not artifacts.is_dir():
        raise WispError(f"{artifacts} is not a directory", remedy="compile a model into it first, or name another one")
    snapshot = Catalogue([artifacts]).read()
    for entry in snapshot.invalid:
        note(f"{entry['id']} is left out: {entry['error']}")
    known = [model["id"] for model in snapshot.models]
    unknown = [model for model in models if model not in known]
    if unknown:
        raise WispError(f"{artifacts} has no such model", got=", ".join(unknown), expected=" or ".join(known) or None)
    offered = [model for model in snapshot.models if not models or model["id"] in models]
    if not offered:
        raise WispError(
            f"there is no model in {artifacts}", remedy="compile one, for example `wisp compile configs/demo`"
        )
    return offered, {model["id"]: snapshot.by_key[model["id"]] for model in offered}


APP_MANIFEST = {
    "name": "Wisp",
    "short_name": "Wisp",
    "description": "Chat with a language model that runs on this device. Nothing you type leaves it.",
    "id": "./",
    "start_url": "./",
    "scope": "./",
    "display": "standalone",
    "background_color": "#ffffff",
    "theme_color": "#ffffff",
    "icons": [
        {"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"},
        {"src": "icon-192.png", "sizes": "192x192", "type": "image/png", "purpose": "any maskable"},
        {"src": "icon-512.png", "sizes": "512x512", "type": "image/png", "purpose": "any maskable"},
    ],
}


def _page() -> str:
    templates = Jinja2Templates(directory=WEB / "templates")
    templates.env.globals["static"] = lambda name: static_url(BUILT, name).removeprefix("/")
    facts = {
        "catalogue": "models.json",
        "service_worker": "offline.js",
        "app_manifest": "manifest.json",
        "app_icon": "icon-192.png",
        "policy": POLICY_OF_THE_PAGE,
    }
    return templates.get_template("index.html").render(facts)


def _static() -> list[SiteFile]:
    paths = sorted(path for path in BUILT.iterdir() if path.is_file() and not NOT_OF_A_PAGE.fullmatch(path.name))
    return [_read(f"static/{path.name}", path) for path in paths]


def _is_kept(name: str) -> bool:
    """Whether a visit without a network needs it; models are kept by the engine."""
    if name.startswith("static/"):
        return STATIC_OFFLINE.fullmatch(name) is not None
    return not name.startswith("models/")


def _icons() -> list[SiteFile]:
    return [_read(path.name, path) for path in sorted(ICONS.iterdir())]


def _address(file: SiteFile) -> str:
    """What the page asks for a file by."""
    named_by_the_page = file.name in ("static/check.js", "static/page.css", "static/page.js")
    return f"{file.name}?v={file.sha256[:16]}" if named_by_the_page else file.name


def _versioned(version: str) -> bytes:
    script = (BUILT / "offline.js").read_bytes()
    if script.count(VERSION) != 1:
        raise RuntimeError(f"offline.js holds {VERSION.decode()} {script.count(VERSION)} times, expected once")
    return script.replace(VERSION, version.encode())


def _read(name: str, path: Path) -> SiteFile:
    return _made(name, path.read_bytes())


def _made(name: str, content: bytes) -> SiteFile:
    return SiteFile(name, content, hashlib.sha256(content).hexdigest(), len(content))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def total_bytes(files: Sequence[SiteFile]) -> int:
    """What they take together."""
    return sum(file.size for file in files)
