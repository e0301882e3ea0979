"""What is served: directories of artifacts, read from their `model.json` and read again when one changes.

Knows names, sizes, digests and the few numbers that the list of models shows; nothing of requests.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

log = logging.getLogger("wisp.server")

Sha256 = str  # 64 lower-case hex digits
TASKS = {"embedding": "embedding", "speech": "transcription"}  # of models that do not generate text, by what they state


class InvalidArtifact(ValueError):
    """A directory that cannot be served; the message says what was found and what was expected."""


@dataclass(frozen=True)
class Artifact:
    """One served directory. `files` maps every name that may be asked for to its SHA-256."""

    id: str
    directory: Path
    files: dict[str, Sha256]
    sizes: dict[str, int]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """The artifacts directory as read once: valid artifacts by id and by directory name, and what was passed over."""

    by_key: dict[str, Artifact] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    invalid: list[dict[str, str]] = field(default_factory=list)


def is_safe_name(name: object) -> bool:
    """Whether `name` is a plain relative path: no empty, `..` or hidden part, no backslash, no control character."""
    return (
        isinstance(name, str)
        and re.fullmatch(r"[^\\\x00-\x1f\x7f:]+", name) is not None
        and all(part and not part.startswith(".") for part in name.split("/"))
    )


def read_artifact(directory: Path) -> Artifact:
    """Read and check what the server needs of `directory/model.json`. Raises InvalidArtifact."""
    try:
        raw = (directory / "model.json").read_bytes()
        manifest = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArtifact(f"model.json cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "wisp":
        raise InvalidArtifact('model.json is not a Wisp manifest: expected "format": "wisp"')
    if manifest.get("format_version") != 1:
        raise InvalidArtifact(f"format_version is {manifest.get('format_version')!r}, expected 1; compile it again")
    identifier = manifest.get("id")
    if not isinstance(identifier, str) or not is_safe_name(identifier) or "/" in identifier:
        raise InvalidArtifact(f"id is {identifier!r}, expected a name without slashes or a leading dot")
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise InvalidArtifact("files is missing, expected a table of names with bytes and sha256")
    files, sizes = {"model.json": hashlib.sha256(raw).hexdigest()}, {"model.json": len(raw)}
    for name, entry in listed.items():
        if not is_safe_name(name):
            raise InvalidArtifact(f"files lists {name!r}, expected a relative path inside the artifact")
        if not isinstance(entry, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256"))):
            raise InvalidArtifact(f"files[{name!r}] has no sha256 of 64 hex digits")
        if type(entry.get("bytes")) is not int:
            raise InvalidArtifact(f"files[{name!r}] has no whole number of bytes")
        files.setdefault(name, entry["sha256"])
        sizes.setdefault(name, entry["bytes"])
    variants = manifest.get("variants")
    if not isinstance(variants, list) or not all(
        isinstance(v, dict) and isinstance(v.get("name"), str) for v in variants
    ):
        raise InvalidArtifact("variants is missing, expected a list of variants with names")
    for key in ("parameters", "context", "weight_bytes"):
        if type(manifest.get(key)) is not int or manifest[key] < 0:
            raise InvalidArtifact(f"{key} is {manifest.get(key)!r}, expected a whole number")
    summary = {
        "id": identifier,
        "name": str(manifest.get("name") or identifier),
        "task": TASKS.get(next((key for key in TASKS if key in manifest), ""), "text-generation"),
        "parameters": manifest["parameters"],
        "quantization": str(manifest.get("quantization")),
        "context": manifest["context"],
        "weight_bytes": manifest["weight_bytes"],
        "variants": [variant["name"] for variant in variants],
        "suggestions": [text for text in manifest.get("suggestions") or [] if isinstance(text, str)],
        "license": _text(manifest.get("license")),
        "homepage": _web_address(manifest.get("homepage")),
    }
    return Artifact(identifier, directory, files, sizes, summary)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _web_address(value: object) -> str | None:
    """What a page may link to; nothing that runs."""
    return value if isinstance(value, str) and re.fullmatch(r"https?://[!-~]+", value) else None


class Catalogue:
    """The artifacts under some directories, read again whenever a `model.json` comes, goes or changes.

    The smallest comes first, but for the one whose id is `first`.
    """

    def __init__(self, roots: Sequence[Path], first: str | None = None, base: str = "/") -> None:
        self.roots = [root.absolute() for root in roots]
        self.first, self.base = first, base
        self._fingerprint: object = None
        self._snapshot = Snapshot()

    def read(self) -> Snapshot:
        """The current state; a few `stat` calls when nothing changed."""
        directories = self._directories()
        fingerprint = tuple((str(path), *_stat_key(path / "model.json")) for path, _ in directories)
        if fingerprint != self._fingerprint:
            self._snapshot = self._scan(directories)
            self._fingerprint = fingerprint
        return self._snapshot

    def _directories(self) -> list[tuple[Path, Path]]:
        """Each with the root that it lies in."""
        return [(directory, root) for root in self.roots for directory in self._directories_of(root)]

    @staticmethod
    def _directories_of(root: Path) -> list[Path]:
        if (root / "model.json").is_file():  # the directory of one artifact was given, not their parent
            return [root]
        with contextlib.suppress(OSError):
            return sorted(path.parent for path in root.glob("*/model.json") if not path.parent.name.startswith("."))
        return []

    def _scan(self, directories: list[tuple[Path, Path]]) -> Snapshot:
        snapshot = Snapshot()
        valid: list[Artifact] = []
        for directory, root in directories:
            try:
                if not directory.resolve().is_relative_to(root.resolve()):
                    raise InvalidArtifact("the directory is a symbolic link that leads out of the artifacts directory")
                valid.append(read_artifact(directory))
            except InvalidArtifact as error:
                log.warning("artifact %s is not served: %s", directory.name, error)
                snapshot.invalid.append({"id": directory.name, "error": str(error)})
        # Two directories may hold the same id, and only names of directories in one root are sure to be unique.
        names = {artifact.directory.name for artifact in valid}
        for artifact in valid:
            name = artifact.directory.name
            if name in snapshot.by_key:  # of a root before this one
                name = next(
                    f"{name}-{i}" for i in itertools.count(2) if f"{name}-{i}" not in {*names, *snapshot.by_key}
                )
            taken = artifact.id in snapshot.by_key or artifact.id in names
            key = name if taken else artifact.id
            snapshot.by_key[key] = snapshot.by_key[name] = artifact
            snapshot.models.append({**artifact.summary, "id": key, "url": f"{self.base}models/{quote(key)}/"})
        snapshot.models.sort(key=lambda model: (model["id"] != self.first, model["weight_bytes"], model["id"]))
        return snapshot


def _stat_key(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
