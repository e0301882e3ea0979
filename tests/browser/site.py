"""A server that a test can watch and spoil, whichever browser asks: Wisp's own application in this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from compiler.serving.app import create_app
from compiler.serving.listen import bind

WITHOUT_ISOLATION = ("cross-origin-opener-policy", "cross-origin-embedder-policy")


@dataclass
class Site:
    """What a test sets it changes from the next request on."""

    url: str = ""
    requested: list[str] = field(default_factory=list)
    """Paths, in their order."""
    refused: list[str] = field(default_factory=list)
    """Paths that contain one of these get the status 503."""
    before: dict[str, str] = field(default_factory=dict)
    """Scripts that run before the script of a path, such as `/static/worker.js`."""
    without_headers: tuple[str, ...] = ()


class _Spoiled:
    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        site, path = self.site, scope["path"]
        site.requested.append(path)
        if any(part in path for part in site.refused):
            await PlainTextResponse("spoiled", status_code=503)(scope, receive, send)
            return
        script = site.before.get(path)
        if script is not None:  # whole and plain, whatever was asked for
            scope["headers"] = [(k, v) for k, v in scope["headers"] if k not in (b"accept-encoding", b"if-none-match")]
        first = True

        async def spoiled(message: Message) -> None:
            nonlocal first
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in site.without_headers:
                    del headers[name]
                if script is not None:
                    headers["cache-control"] = "no-store"
                    del headers["content-length"]
                    del headers["etag"]
            elif script is not None and first:
                message["body"] = script.encode() + b"\n" + message.get("body", b"")
                first = False
            await send(message)

        await self.app(scope, receive, spoiled)


@contextlib.contextmanager
def serving_site(artifacts: Path) -> Iterator[Site]:
    site = Site()
    listener = bind("127.0.0.1", 0)
    site.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    app = _Spoiled(create_app(artifacts), site)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        running.should_exit = True
        thread.join(10)
        listener.close()
