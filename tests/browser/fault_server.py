"""An HTTP server for one artifact and the engine that does wrong what it is told to: the network of a bad day.

Plain asyncio, so that a connection can be cut, stalled or fed byte by byte. What a file's next requests meet is a list
of faults, taken one by one; after that, and everywhere else, it serves as it should, with ranges and ETags.
"""

import asyncio
import contextlib
import gzip
import hashlib
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from compiler.places import WEB
from compiler.serving.app import SECURITY_HEADERS
from compiler.serving.files import MEDIA_TYPES

PORTAL = b"<!doctype html><title>Welcome</title>Accept the terms to go on."
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer. Bytes count from its beginning."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of the file's, and as long as it is."""
    refuse: bool = False
    """The connection is closed without a word."""
    cut: int | None = None
    """The connection breaks after so many bytes..."""
    arrived: bool = False
    """...when the page has said that they have arrived: browsers drop what is not yet read."""
    stall: int | None = None
    """After so many bytes nothing more comes."""
    pieces: int | None = None
    """It comes in pieces of so many bytes..."""
    every: float = 0.0
    """...and so many seconds apart."""
    flip: int | None = None
    """This byte has another value."""
    ranges: bool = True
    compressed: bool = False


@dataclass
class Asked:
    path: str
    headers: dict[str, str]


class FaultServer:
    """Serves `artifacts` at /models/ and the engine at /static/. All of it may be changed between two requests."""

    def __init__(self, artifacts: Path, secured: bool = True) -> None:
        self.artifacts = artifacts
        self.secured = secured
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.asked: list[Asked] = []
        self.headers: dict[str, str] = {}
        """On every answer below /models/."""
        self.holds: dict[str, str] = {}
        """A file is answered when another has been asked for."""
        self.worker_prelude = ""
        self.told = threading.Event()
        self.writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    def names(self) -> list[str]:
        """The artifact's files in the order in which they were asked for."""
        return [asked.path.split("?")[0].split("/")[-1] for asked in self.asked]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            path = target.split("?")[0]
            if path.startswith("/models/"):
                await self.model_file(writer, method, target, headers)
            else:
                await self.page_file(writer, path)
        self.writers.discard(writer)
        writer.close()

    async def page_file(self, writer: asyncio.StreamWriter, path: str) -> None:
        secure = SECURITY_HEADERS if self.secured else {}
        name = path.removeprefix("/static/")
        file = WEB / "dist" / name
        if path == "/arrived":
            self.told.set()
            await send(writer, 200, secure, b"")
        elif path == "/blank":
            await send(writer, 200, {**secure, "Content-Type": "text/html"}, b"<!doctype html><title>blank</title>")
        elif path.startswith("/static/") and re.fullmatch(r"[\w.-]+", name) and file.is_file():
            body = file.read_bytes()
            if name == "worker.js":
                body = self.worker_prelude.encode() + body
            await send(
                writer, 200, {**secure, "Content-Type": MEDIA_TYPES[file.suffix], "Cache-Control": "no-store"}, body
            )
        else:
            await send(writer, 404, secure, b"")

    async def model_file(self, writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str]) -> None:
        path = target.split("?")[0].removeprefix("/models/")
        name = path.split("/")[-1]
        self.asked.append(Asked(target, headers))
        while name in self.holds and not any(self.holds[name] in asked.path for asked in self.asked):
            await asyncio.sleep(0.01)
        waiting = self.faults.get(name, [])
        fault = waiting.pop(0) if waiting else self.always.get(name, Fault())
        common = {**(SECURITY_HEADERS if self.secured else {}), **self.headers, **fault.headers}
        file = self.artifacts / path
        if fault.refuse:
            return
        if fault.status is not None or method == "OPTIONS":
            await send(writer, fault.status or 204, common, fault.body or b"")
            return
        if fault.body is None and not file.is_file():
            await send(writer, 404, common, b"")
            return
        body = file.read_bytes() if fault.body is None else fault.body
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
        media_type = MEDIA_TYPES.get(file.suffix, OCTETS)
        common = {"Content-Type": media_type, "ETag": tag, "Cache-Control": "no-cache", **common}
        status, size = 200, len(body)
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if wanted and fault.ranges and headers.get("if-range", tag) == tag:
            first = int(wanted[1])
            if first >= size:
                await send(writer, 416, {**common, "Content-Range": f"bytes */{size}"}, b"")
                return
            status, body = 206, body[first:]
            common["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        if fault.compressed:
            body = gzip.compress(body)
            common |= {"Content-Encoding": "gzip", "ETag": f"W/{tag}"}
        await send(writer, status, common, body, fault, self.told)


async def send(
    writer: asyncio.StreamWriter,
    status: int,
    headers: dict[str, str],
    body: bytes,
    fault: Fault = Fault(),
    told: threading.Event | None = None,
) -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    stop = min(len(body), *(n for n in (fault.cut, fault.stall) if n is not None), len(body))
    piece = fault.pieces or 65_536
    for at in range(0, stop, piece):
        writer.write(body[at : min(at + piece, stop)])
        await writer.drain()
        if fault.every:
            await asyncio.sleep(fault.every)
    if fault.stall is not None:
        await asyncio.sleep(3600)
    while fault.arrived and told is not None and not told.is_set():
        await asyncio.sleep(0.01)
    await writer.drain()


@contextlib.contextmanager
def faulty(artifacts: Path, *, secured: bool = True) -> Iterator[FaultServer]:
    """A running server, on a free port of the loopback. `secured`: with the headers of the real one."""
    server = FaultServer(artifacts, secured)
    ready: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def run() -> None:
        stop = asyncio.Event()
        listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        ready.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        listening.close()
        for writer in server.writers:
            writer.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))  # which cancels the answers that are still stalled
    thread.start()
    loop, stop = ready.get()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
