"""The application on a socket: which names are answered, what is said at the start, asleep while nobody asks."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from types import FrameType

import uvicorn
from starlette.types import Receive, Scope, Send

from ..places import WEB
from .app import ServeError, check_base, check_built, create_app, roots_of

GRACE = 5  # seconds that answers under way have to end after an interrupt; a second one ends them at once


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
    roots = roots_of(artifacts_dir)
    for root in roots:
        if not root.is_dir():
            raise ServeError(
                f"{root} is not a directory; compile a model into it first, for example `wisp compile configs/demo`"
            )
    check_base(base)
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
