"""The application: a page, the engine's files and a directory of compiled artifacts, as static content.

It knows names, bytes and headers. It knows nothing about models beyond the few numbers of `model.json` that the
catalogue shows, imports nothing of the compiler and runs no inference. No request ever leaves the machine: the content
security policy allows no other origin, and nothing here opens a connection.

Files are found by looking a requested name up in what `model.json` lists, never by joining a requested path, so there
is no path to traverse. A request that carries `?v=` and the first 16 hex digits of the content's SHA-256 may be cached
for ever; every other one is revalidated by its ETag.
"""

import contextlib
import functools
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..places import WEB
from .catalogue import Catalogue, Snapshot
from .files import GZIP_LEVEL, NOT_COMPRESSED, BuiltFiles, file_response, file_sha256, static_url

log = logging.getLogger("wisp.server")

BUILT_FILES = (
    *("check.js", "page.js", "page.css", "wisp.js", "worker.js", "thread.js"),
    *("jinja.js", "tokenizer.js", "template.js", "grammar.js", "isolation.js", "offline.js"),
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


class ServeError(Exception):
    """The server cannot start for a reason that the person who started it can mend. The message is one line."""


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
    return file_response(path, found, file_sha256(str(path), found.st_mtime_ns, found.st_size), request.scope)


def healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})


def internal_error(request: Request, error: Exception) -> Response:
    # Starlette answers this one outside every middleware, hence the headers here.
    return PlainTextResponse("Internal Server Error", status_code=500, headers=SECURITY_HEADERS)


def _without_refused_encodings(scope: Scope) -> Scope:
    """As if gzip was not named where the request gives it no weight (RFC 9110, 12.5.3): the rest looks for the name."""
    accepted = Headers(scope=scope).get("accept-encoding", "")
    if not re.search(r"gzip\s*;\s*q=0(\.0*)?\s*(,|$)", accepted, re.IGNORECASE):
        return scope
    others = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    return {**scope, "headers": [*others, (b"accept-encoding", b"identity")]}


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

        scope = _without_refused_encodings(scope)

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


def check_built(static_dir: Path) -> None:
    """Raises ServeError when the page has not been built."""
    missing = [name for name in BUILT_FILES if not (static_dir / name).is_file()]
    if missing:
        raise ServeError(f"the page is not built: {static_dir} lacks {', '.join(missing)}; run `make build` first")


def is_base(path: str) -> bool:
    """Whether a site can lie below it: slashes at both ends, plain names between them."""
    return re.fullmatch(r"/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*", path) is not None


def check_base(base: str) -> None:
    """Raises ServeError."""
    if not is_base(base):
        raise ServeError(f"--base {base!r} is no path; give something like /sub/, with slashes at both ends")


def roots_of(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
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
    That the page is built is checked when it starts. Raises ServeError for a `base` that is none.
    """
    check_base(base)
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
    app.state.catalogue = Catalogue(roots_of(artifacts_dir), first, base)
    app.state.templates = Jinja2Templates(directory=WEB / "templates")
    app.state.templates.env.globals["catalogue"] = f"{base}models"
    app.state.templates.env.globals["static"] = functools.partial(static_url, static, base=base)
    return app
