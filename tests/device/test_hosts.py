"""The configuration that `wisp export` writes, in the real nginx and Caddy: types, headers, ranges, a sub-path."""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from compiler.progress import Silent
from compiler.serving.files import IMMUTABLE
from compiler.site.export import export
from compiler.site.files import HEADERS
from compiler.site.hosts import PLACE
from tests import servers
from tests.browser import toy_artifact
from tests.conftest import unavailable

BASE = "/sub/site/"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hosts")
    toy_artifact.write(root / "artifacts" / "toy", toy_artifact.toy(), name="Toy", cpu=True)
    export(root / "artifacts", root / "site", Silent(), base=BASE)
    return root / "site"


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def client(
    request: pytest.FixtureRequest, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    run, program, file = {
        "nginx": (servers.serving_nginx, servers.nginx(), "nginx.conf"),
        "caddy": (servers.serving_caddy, servers.caddy(), "Caddyfile"),
    }[request.param]
    if program is None:
        unavailable(f"{request.param} is not installed")
    part = (site / file).read_text()
    assert PLACE in part
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run(program, tmp_path_factory.mktemp(request.param), part.replace(PLACE, str(site))))
        plain = {"accept-encoding": "identity"}
        yield stack.enter_context(httpx.Client(base_url=url + BASE, headers=plain, timeout=60))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("", "text/html"),
        ("static/worker.js", "text/javascript"),
        ("static/page.css", "text/css"),
        ("manifest.json", "application/json"),
        ("icon-192.png", "image/png"),
        ("models/toy/wasm-simd/kernels.wasm", "application/wasm"),
        ("models/toy/webgpu-f32/kernels.wgsl", "text/wgsl"),
        ("models/toy/params_shard_0.bin", "application/octet-stream"),
    ],
)
def test_types_and_headers(client: httpx.Client, site: Path, name: str, media_type: str) -> None:
    response = client.get(name)
    assert response.status_code == 200
    assert response.content == (site / (name or "index.html")).read_bytes()
    assert response.headers["content-type"].split(";")[0] == media_type
    if media_type == "text/html":
        assert response.headers["content-type"].lower().replace(" ", "") == "text/html;charset=utf-8"
    for header, value in HEADERS.items():
        assert response.headers.get_list(header) == [value]
    assert response.headers.get_list("cache-control") == ["no-cache"]


def test_what_is_asked_for_by_its_hash_is_kept_for_ever(client: httpx.Client) -> None:
    response = client.get("models/toy/params_shard_0.bin", params={"v": "0123456789abcdef"})
    assert response.headers.get_list("cache-control") == [IMMUTABLE]
    missing = client.get("nothing", params={"v": "1"})
    assert missing.status_code == 404
    assert IMMUTABLE not in missing.headers.get_list("cache-control"), "it may come yet"
    assert client.get("nothing").status_code == 404


def test_what_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("static/worker.js")
    again = client.get("static/worker.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cross-origin-embedder-policy"] == "require-corp"


def test_ranges(client: httpx.Client, site: Path) -> None:
    content = (site / "models" / "toy" / "params_shard_0.bin").read_bytes()
    tag = client.get("models/toy/params_shard_0.bin").headers["etag"]
    for asked, expected in (("bytes=10-19", content[10:20]), ("bytes=-7", content[-7:])):
        response = client.get("models/toy/params_shard_0.bin", headers={"range": asked, "if-range": tag})
        assert (response.status_code, response.content) == (206, expected)
    changed = client.get("models/toy/params_shard_0.bin", headers={"range": "bytes=10-19", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, content)


def test_text_is_compressed_and_weights_are_not(client: httpx.Client, site: Path) -> None:
    accepts = {"accept-encoding": "gzip"}
    with client.stream("GET", "static/worker.js", headers=accepts) as response:
        assert response.headers["content-encoding"] == "gzip"
        assert "accept-encoding" in response.headers["vary"].lower()
        raw = b"".join(response.iter_raw())
    assert gzip.decompress(raw) == (site / "static" / "worker.js").read_bytes()
    assert "content-encoding" not in client.get("models/toy/params_shard_0.bin", headers=accepts).headers


def test_nothing_outside_the_directory_is_served(client: httpx.Client) -> None:
    for path in ("..%2f..%2f..%2f..%2fetc/passwd", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "models/"):
        response = client.get(path)
        # Caddy answers with nothing where nothing is configured.
        assert response.status_code in (400, 403, 404) or response.content == b""
