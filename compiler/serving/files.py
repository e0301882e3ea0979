"""Files as answers: whole, a range, compressed or 304, with their types and the time that they may be kept.

Knows HTTP's conditions (as nginx takes them) and content digests; nothing of models.
"""

import contextlib
import functools
import gzip
import hashlib
import os
import re
import threading
from collections import OrderedDict
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Receive, Scope, Send

from .catalogue import Sha256

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
IMMUTABLE = "public, max-age=31536000, immutable"


@functools.lru_cache(maxsize=1024)
def file_sha256(path: str, mtime_ns: int, size: int) -> Sha256:
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
        sha256 = file_sha256(str(full_path), stat_result.st_mtime_ns, stat_result.st_size)
        return file_response(Path(full_path), stat_result, sha256, scope)


def static_url(static_dir: Path, name: str, base: str = "/") -> str:
    """The URL of a built file with its `?v=`, so that the page may load it from the cache until it changes."""
    path = static_dir / name
    try:
        found = path.stat()
    except OSError:
        return f"{base}static/{name}"
    return f"{base}static/{name}?v={file_sha256(str(path), found.st_mtime_ns, found.st_size)[:16]}"
