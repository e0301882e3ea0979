"""Ranges and conditions: what nginx answers is the table, and the real nginx is held to it as our server is."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import servers
from tests.browser import toy_artifact
from tests.browser.site import serving_site
from tests.conftest import unavailable

OLD, NEW = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"


@dataclass(frozen=True)
class Served:
    client: httpx.Client
    path: str
    content: bytes
    etag: str
    modified: str


@pytest.fixture(scope="module", params=["nginx", "wisp"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("conditions")
    toy_artifact.write(root / "models" / "toy", toy_artifact.toy(), cpu=True)
    path = "models/toy/params_shard_0.bin"
    if request.param == "nginx":
        program = servers.nginx()
        if program is None:
            unavailable("nginx is not installed")
        running = servers.serving_nginx(program, root / "nginx", f"location / {{ root {root}; }}")
    else:
        running = _ours(root / "models")
    with running as url, httpx.Client(base_url=url, headers={"accept-encoding": "identity"}, timeout=60) as client:
        headers = client.head(path).headers
        content = (root / path).read_bytes()
        yield Served(client, path, content, headers["etag"], headers["last-modified"])


@contextlib.contextmanager
def _ours(artifacts: Path) -> Iterator[str]:
    with serving_site(artifacts) as site:
        yield site.url


# Request headers; the status; and of a part its first byte and the one behind its last (negative: from the end).
RANGES = [
    ({}, 200, None),
    ({"range": "bytes=0-0"}, 206, (0, 1)),
    ({"range": "bytes=10-19"}, 206, (10, 20)),
    ({"range": "bytes=100-"}, 206, (100, None)),
    ({"range": "bytes=-7"}, 206, (-7, None)),
    ({"range": "bytes=-999999999"}, 206, (0, None)),
    ({"range": "bytes=10-999999999"}, 206, (10, None)),
    ({"range": "bytes= 10-19"}, 206, (10, 20)),
    ({"range": "bytes=999999999-"}, 416, None),
    ({"range": "bytes=20-10"}, 416, None),
    ({"range": "bytes=x-y"}, 416, None),
    ({"range": "bytes="}, 200, None),
    ({"range": "lines=1-2"}, 200, None),
    ({"range": "bytes=10-19", "if-range": "{etag}"}, 206, (10, 20)),
    ({"range": "bytes=10-19", "if-range": '"other"'}, 200, None),
    ({"range": "bytes=10-19", "if-range": "W/{etag}"}, 200, None),
    ({"range": "bytes=10-19", "if-range": "{modified}"}, 206, (10, 20)),
    ({"range": "bytes=10-19", "if-range": OLD}, 200, None),
    ({"if-none-match": "{etag}"}, 304, None),
    ({"if-none-match": "W/{etag}"}, 304, None),
    ({"if-none-match": '"a", {etag}'}, 304, None),
    ({"if-none-match": "*"}, 304, None),
    ({"if-none-match": '"other"'}, 200, None),
    ({"if-none-match": "{etag}", "range": "bytes=10-19"}, 304, None),
    ({"if-none-match": '"other"', "range": "bytes=10-19"}, 206, (10, 20)),
    ({"if-modified-since": "{modified}"}, 304, None),
    ({"if-modified-since": OLD}, 200, None),
    ({"if-none-match": '"other"', "if-modified-since": "{modified}"}, 200, None),
    ({"if-match": "{etag}"}, 200, None),
    ({"if-match": "*"}, 200, None),
    ({"if-match": '"other"'}, 412, None),
    ({"if-match": "W/{etag}"}, 412, None),
    ({"if-unmodified-since": NEW}, 200, None),
    ({"if-unmodified-since": OLD}, 412, None),
    ({"if-match": '"other"', "range": "bytes=10-19"}, 412, None),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("headers", "status", "part"), RANGES, ids=[str(row[0]) for row in RANGES])
def test_as_nginx(
    served: Served, method: str, headers: dict[str, str], status: int, part: tuple[int, int | None] | None
) -> None:
    given = {k: v.replace("{etag}", served.etag).replace("{modified}", served.modified) for k, v in headers.items()}
    response = served.client.request(method, served.path, headers=given)
    assert response.status_code == status
    content, size = served.content, len(served.content)
    if status == 206:
        assert part is not None
        first, behind, _ = slice(*part).indices(size)
        assert response.headers["content-range"] == f"bytes {first}-{behind - 1}/{size}"
        content = content[first:behind]
    if status == 416:
        assert response.headers["content-range"] == f"bytes */{size}"
    if status in (200, 206):
        assert int(response.headers["content-length"]) == len(content)
        assert response.content == (content if method == "GET" else b"")
        assert response.headers["accept-ranges" if status == 200 else "etag"]
    if status == 304:
        assert response.content == b""
        assert response.headers["etag"] == served.etag


def test_several_ranges_come_in_parts(served: Served) -> None:
    response = served.client.get(served.path, headers={"range": "bytes=0-4,10-19"})
    assert response.status_code == 206
    kind, _, boundary = response.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = response.content.split(b"--" + boundary.encode())
    assert [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts[1:-1]] == [
        served.content[0:5],
        served.content[10:20],
    ]
