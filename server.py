"""The HTTP server: a page, the engine's files and a directory of compiled artifacts, as static content.

It knows names, bytes and headers. It knows nothing about models beyond the few numbers of `model.json` that the
catalogue shows, imports nothing of the compiler and runs no inference. No request ever leaves the machine: the content
security policy allows no other origin, and nothing here opens a connection.

Files are found by looking a requested name up in what `model.json` lists, never by joining a requested path, so there
is no path to traverse. A request that carries `?v=` and the first 16 hex digits of the content's SHA-256 may be cached
for ever; every other one is revalidated by its ETag.
"""

import asyncio
import contextlib
import functools
import gzip
import hashlib
import ipaddress
import itertools
import json
import logging
import os
import re
import socket
import stat
import sys
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("wisp.server")

WEB = Path(__file__).resolve().parent / "web"
BUILT_FILES = (
    *("check.js", "page.js", "page.css", "wisp.js", "worker.js", "thread.js"),
    *("template.js", "grammar.js", "isolation.js", "offline.js"),
)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; style-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# COOP and COEP make the page cross-origin isolated, which WebAssembly threads need.
SECURITY_HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

# Spelled out because `mimetypes` answers from the system's files, and `nosniff` makes a wrong type fatal.
MEDIA_TYPES = {
    ".bin": "application/octet-stream",
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".wgsl": "text/wgsl",
}

NOT_COMPRESSED = ("application/octet-stream", "image/png", "image/webp", "image/jpeg", "font/woff2")
GZIP_LEVEL = 6
LEAST_COMPRESSED = 500  # bytes; below, a header more costs what is saved
LEAST_PIECE, LARGEST_PIECE, PIECES = 16 << 10, 256 << 10, 4 << 20  # bytes; of all that is being sent together
GRACE = 5  # seconds that answers under way have to end after an interrupt; a second one ends them at once
IMMUTABLE = "public, max-age=31536000, immutable"

Sha256 = str  # 64 lower-case hex digits


class ServeError(Exception):
    """The server cannot start for a reason that the person who started it can mend. The message is one line."""


# ---------------------------------------------------------------------------------------------------------- catalogue


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


# -------------------------------------------------------------------------------------------------------------- files


@functools.lru_cache(maxsize=1024)
def _file_sha256(path: str, mtime_ns: int, size: int) -> Sha256:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArtifactFile(FileResponse):
    """Reads in larger pieces, which halves the processor's time; in smaller ones while many are being sent.

    A visitor who reads slowly holds two of them.
    """

    sending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette takes a range that is none for a bad request; nginx ignores it, or says that it cannot be had."""
        headers = Headers(scope=scope)
        asked = headers.get("range", "").strip().lower()
        if "range" in headers and (not asked.startswith("bytes=") or asked == "bytes="):
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
        elif asked and "if-range" not in headers and not all(map(_is_range, asked.removeprefix("bytes=").split(","))):
            assert self.stat_result is not None
            refused = PlainTextResponse(status_code=416)
            refused.headers["content-range"] = f"bytes */{self.stat_result.st_size}"
            await refused(scope, receive, send)
            return
        ArtifactFile.sending += 1
        try:
            self.chunk_size = max(LEAST_PIECE, min(LARGEST_PIECE, PIECES // ArtifactFile.sending))
            await super().__call__(scope, receive, send)
        finally:
            ArtifactFile.sending -= 1


def _is_range(text: str) -> bool:
    match = re.fullmatch(r"\s*(?:-\s*\d{1,18}|(\d{1,18})\s*-\s*(\d{0,18}))\s*", text)
    return match is not None and (not match[2] or int(match[1]) <= int(match[2]))


class CompressedFiles:
    """Files as gzip, each compressed once; the least recently used ones go when there are too many bytes of them."""

    def __init__(self, largest: int = 64 << 20, capacity: int = 64 << 20) -> None:
        self.largest, self.capacity = largest, capacity
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, int, int], Future[bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, path: Path, found: os.stat_result) -> bytes:
        """The content of a file of this state. Whoever asks while it is being compressed waits for that."""
        key = (str(path), found.st_mtime_ns, found.st_size)
        with self._lock:
            ours = key not in self._files
            compressed = self._files.setdefault(key, Future())
            self._files.move_to_end(key)
        if ours:
            try:
                compressed.set_result(gzip.compress(path.read_bytes(), GZIP_LEVEL, mtime=0))
            except BaseException as error:
                compressed.set_exception(error)
                with self._lock:
                    del self._files[key]
                raise
            self._evict(len(compressed.result()))
        return compressed.result()

    def _evict(self, added: int) -> None:
        with self._lock:
            self._bytes += added
            for key, compressed in list(self._files.items()):
                if self._bytes <= self.capacity:
                    return
                if compressed.done():
                    self._bytes -= len(compressed.result())
                    del self._files[key]


compressed_files = CompressedFiles()


def file_response(path: Path, found: os.stat_result, sha256: Sha256, scope: Scope, *, trusted: bool = True) -> Response:
    """A whole file, a range of it or 304. `trusted` is false when the bytes on disk cannot be those of `sha256`."""
    query = scope["query_string"].decode("latin-1").split("&")
    media_type = MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream")
    headers = {
        "etag": f'"{sha256}"',
        "cache-control": IMMUTABLE if f"v={sha256[:16]}" in query else "no-cache",
    }
    if not trusted:
        headers = {"cache-control": "no-store"}
    response = ArtifactFile(path, headers=headers, media_type=media_type, stat_result=found)
    if trusted and (status := _condition(Headers(scope=scope), sha256, int(found.st_mtime))) is not None:
        return NotModifiedResponse(response.headers) if status == 304 else PlainTextResponse(status_code=status)
    if trusted and _wants_gzip(Headers(scope=scope), media_type, found.st_size):
        content = compressed_files.get(path, found)
        return Response(content, headers={**headers, "content-encoding": "gzip"}, media_type=media_type)
    return response


def _wants_gzip(headers: Headers, media_type: str, size: int) -> bool:
    """Whether to answer with a compressed copy; a range is one of the file itself."""
    accepted = "gzip" in headers.get("accept-encoding", "") and "range" not in headers
    return accepted and media_type not in NOT_COMPRESSED and LEAST_COMPRESSED <= size <= compressed_files.largest


def _condition(headers: Headers, sha256: Sha256, modified: int) -> int | None:
    """304 or 412 where the request's conditions want that, in the order of RFC 9110, section 13.2.2, and as nginx does:

    If-Modified-Since is about the very time that was told, not about any later one.
    """
    if "if-match" in headers:
        tags = [tag.strip() for tag in headers["if-match"].split(",")]
        if tags != ["*"] and f'"{sha256}"' not in tags:  # weak ones match nothing
            return 412
    elif (since := _time(headers.get("if-unmodified-since"))) is not None and modified > since:
        return 412
    if "if-none-match" in headers:
        tags = [tag.strip().removeprefix("W/") for tag in headers["if-none-match"].split(",")]
        return 304 if tags == ["*"] or f'"{sha256}"' in tags else None
    return 304 if _time(headers.get("if-modified-since")) == modified else None


def _time(text: str | None) -> int | None:
    """Seconds since 1970 of an HTTP date; None of what is none."""
    if text is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return int(parsedate_to_datetime(text).timestamp())
    return None


class BuiltFiles(StaticFiles):
    """`web/dist`, with the same ETag and `?v=` rule as artifacts."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if any(part.startswith(".") for part in path.split("/")):
            return "", None
        return super().lookup_path(path)

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        sha256 = _file_sha256(str(full_path), stat_result.st_mtime_ns, stat_result.st_size)
        return file_response(Path(full_path), stat_result, sha256, scope)


def static_url(static_dir: Path, name: str, base: str = "/") -> str:
    """The URL of a built file with its `?v=`, so that the page may load it from the cache until it changes."""
    path = static_dir / name
    try:
        found = path.stat()
    except OSError:
        return f"{base}static/{name}"
    return f"{base}static/{name}?v={_file_sha256(str(path), found.st_mtime_ns, found.st_size)[:16]}"


# ---------------------------------------------------------------------------------------------------------- endpoints


def page(request: Request) -> Response:
    return request.app.state.templates.TemplateResponse(request, "index.html", headers={"cache-control": "no-cache"})


def models(request: Request) -> Response:
    snapshot: Snapshot = request.app.state.catalogue.read()
    body = {"models": snapshot.models, "invalid": snapshot.invalid}
    return JSONResponse(body, headers={"cache-control": "no-cache"})


def artifact_file(request: Request) -> Response:
    """`/models/<id>/<file>`: both are looked up in what was read from the disk, nothing is joined from the request."""
    artifact = request.app.state.catalogue.read().by_key.get(request.path_params["id"])
    name = request.path_params["file"]
    if artifact is None or name not in artifact.files:
        raise HTTPException(404)
    path = artifact.directory / name
    try:
        found = path.stat()
        inside = path.resolve().is_relative_to(artifact.directory.resolve())
    except OSError:
        raise HTTPException(404) from None
    if not inside or not stat.S_ISREG(found.st_mode):
        raise HTTPException(404)
    trusted = found.st_size == artifact.sizes[name]
    if not trusted:
        log.warning("%s/%s has %d bytes, model.json says %s", artifact.id, name, found.st_size, artifact.sizes[name])
    return file_response(path, found, artifact.files[name], request.scope, trusted=trusted)


def isolation(request: Request) -> Response:
    """The service worker, beside the page: it may serve only what is below its own address."""
    path = request.app.state.static / "isolation.js"
    try:
        found = path.stat()
    except OSError:
        raise HTTPException(404) from None
    return file_response(path, found, _file_sha256(str(path), found.st_mtime_ns, found.st_size), request.scope)


def healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})


def internal_error(request: Request, error: Exception) -> Response:
    # Starlette answers this one outside every middleware, hence the headers here.
    return PlainTextResponse("Internal Server Error", status_code=500, headers=SECURITY_HEADERS)


# --------------------------------------------------------------------------------------------------------- middleware


class ResponseHeaders:
    """Security headers on every response, and an honest ETag on compressed ones.

    A strong ETag promises the same bytes, so a gzipped body gets the weak form of its file's ETag and offers no ranges;
    a range request is always answered from the file itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("cache-control", "no-cache")
                headers["vary"] = "Accept-Encoding"
                if "content-encoding" in headers:
                    del headers["accept-ranges"]
                    if headers.get("etag", "W/").startswith('"'):
                        headers["etag"] = f"W/{headers['etag']}"
            await send(message)

        await self.app(scope, receive, send_with_headers)


# ---------------------------------------------------------------------------------------------------------------- app


def check_built(static_dir: Path) -> None:
    """Raises ServeError when the page has not been built."""
    missing = [name for name in BUILT_FILES if not (static_dir / name).is_file()]
    if missing:
        raise ServeError(f"the page is not built: {static_dir} lacks {', '.join(missing)}; run `make build` first")


def _roots(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | os.PathLike) else [Path(each) for each in given]


def create_app(
    artifacts_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    static_dir: str | os.PathLike[str] = WEB / "dist",
    allowed_hosts: Sequence[str] = ("*",),
    first: str | None = None,
    base: str = "/",
) -> Starlette:
    """The application, for requests to any of these names, below the path `base`.

    `artifacts_dir` is a directory of artifacts, or several.
    `first` is the id of the model that leads the list and that the page chooses by itself.
    That the page is built is checked when it starts, so that importing this module never fails.
    """
    static = Path(static_dir)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        check_built(static)
        yield

    app = Starlette(
        routes=[
            Route(base, page),
            Route(f"{base}models", models),
            Route(f"{base}models/{{id}}/{{file:path}}", artifact_file),
            Mount(f"{base}static", BuiltFiles(directory=static, check_dir=False)),
            Route(f"{base}isolation.js", isolation),
            Route(f"{base}healthz", healthz),
        ],
        middleware=[
            Middleware(ResponseHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False),
            # What is made for each request; files come compressed.
            Middleware(GZipMiddleware, compresslevel=GZIP_LEVEL, exclude_content_types=NOT_COMPRESSED),
        ],
        exception_handlers={Exception: internal_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.static = static
    app.state.catalogue = Catalogue(_roots(artifacts_dir), first, base)
    app.state.templates = Jinja2Templates(directory=WEB / "templates")
    app.state.templates.env.globals["catalogue"] = f"{base}models"
    app.state.templates.env.globals["static"] = functools.partial(static_url, static, base=base)
    return app


# -------------------------------------------------------------------------------------------------------------- serve


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises ServeError naming the port when it cannot be had."""
    if not 0 <= port <= 65535:
        raise ServeError(f"port {port} on {host} does not exist; choose one from 1 to 65535 with --port or PORT=")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error}") from error
    try:
        if os.name == "posix":  # elsewhere this option would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise ServeError(
            f"port {port} on {host} cannot be used ({reason}); choose another with --port or PORT="
        ) from error
    return listener


def allowed_hosts(host: str, address: str, others: Sequence[str] = ()) -> list[str]:
    """The names in a request's Host header that are answered, for a server that was asked to listen on `host`.

    A page anywhere can have its own name resolve to this machine (DNS rebinding) and then read what is served on a
    loopback; so there only the loopback's names are answered, `host` itself, and `others`. On an interface that other
    machines reach, names are many and nothing is hidden by them: any, unless `others` says which. Raises ServeError.
    """
    for name in others:
        if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_.-]+|\*|\[?[0-9A-Fa-f:]+\]?", name):
            raise ServeError(f"--allowed-host {name!r} is no name; give one without port, or *.example.org, or *")
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback and not others:
        return ["*"]
    names = ["localhost", "127.0.0.1", "::1", host, *others]
    return [form for name in names for form in ((name, f"[{name}]") if ":" in name else (name,))]


class _Server(uvicorn.Server):
    """uvicorn's server, saying where it is once it answers, and asleep while nobody asks.

    uvicorn's own looks ten times a second whether it is to end, and what the time is for the Date header.
    """

    url = ""

    async def main_loop(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.set_date()
        if not self.should_exit:  # by a signal that came earlier
            await self._end.wait()

    def set_date(self) -> None:
        """In place: a response has the list already when its request gets here."""
        date = (b"date", formatdate(usegmt=True).encode())
        self.server_state.default_headers[:] = [date, *self.config.encoded_headers]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if hasattr(self, "_loop"):
            self._loop.call_soon_threadsafe(self._end.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            print(f"Wisp is at {self.url} (Ctrl+C stops it)", flush=True)


@contextlib.contextmanager
def _listening(host: str, port: int, base: str) -> Iterator[tuple[socket.socket, str]]:
    listener = bind(host, port)
    try:
        shown = f"[{host}]" if ":" in host else host
        yield listener, f"http://{shown}:{listener.getsockname()[1]}{base}"
    finally:
        listener.close()


def serve(
    artifacts_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    host: str = "127.0.0.1",
    port: int = 8000,
    other_hosts: Sequence[str] = (),
    *,
    first: str | None = None,
    base: str = "/",
    access_log: bool = False,
) -> None:
    """Serve until interrupted. Port 0 takes a free one. Raises ServeError before anything is served.

    `artifacts_dir` is a directory, or several. `other_hosts` are names that requests may be to, as `allowed_hosts`
    says; `first` is the model that leads the list; `base` the path that everything lies below.
    """
    roots = _roots(artifacts_dir)
    for root in roots:
        if not root.is_dir():
            raise ServeError(
                f"{root} is not a directory; compile a model into it first, for example `wisp compile configs/demo`"
            )
    if not re.fullmatch(r"/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*", base):
        raise ServeError(f"--base {base!r} is no path; give something like /sub/, with slashes at both ends")
    check_built(WEB / "dist")
    with _listening(host, port, base) as (listener, url):
        names = allowed_hosts(host, listener.getsockname()[0], other_hosts)
        application = create_app(roots, WEB / "dist", names, first, base)
        if not application.state.catalogue.read().models:
            print(
                f"no model in {' or '.join(map(str, roots))} yet; `wisp compile` puts one there, a reload shows it",
                file=sys.stderr,
            )

        async def dated(scope: Scope, receive: Receive, send: Send) -> None:
            server.set_date()
            await application(scope, receive, send)

        level = "info" if access_log else "warning"
        server = _Server(
            uvicorn.Config(
                dated, log_level="warning", access_log=access_log, server_header=False, timeout_graceful_shutdown=GRACE
            )
        )
        logging.getLogger("uvicorn.access").setLevel(level.upper())
        server.url = url
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _hosts_of_environment() -> list[str]:
    """Any by default: whoever starts `uvicorn server:app` has a proxy or a name that is not known here."""
    return [name.strip() for name in os.environ.get("WISP_ALLOWED_HOSTS", "*").split(",") if name.strip()]


app = create_app(
    os.environ.get("WISP_ARTIFACTS", "artifacts").split(os.pathsep),
    allowed_hosts=_hosts_of_environment(),
    base=f"/{path}/" if (path := os.environ.get("WISP_BASE", "").strip("/")) else "/",
)
