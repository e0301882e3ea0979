"""The server through its public client, on a tiny artifact directory. No device, no built page."""

import asyncio
import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from compiler.places import PACKAGE
from compiler.serving import files as serving_files
from compiler.serving import listen
from compiler.serving.app import BUILT_FILES, ServeError, create_app
from compiler.serving.files import IMMUTABLE, CompressedFiles
from compiler.serving.listen import allowed_hosts, bind, serve

ROOT = PACKAGE.parent
SHARD = bytes(range(256)) * 16
WGSL = b"// a shader\n" + b"fn f() { let x = 1 + 1; }\n" * 100


def write_artifact(directory: Path, identifier: str = "demo", **overrides: Any) -> dict[str, Any]:
    files = {
        "params_shard_0.bin": SHARD,
        "tokenizer.json": json.dumps({"vocab": ["token"] * 500}).encode(),
        "webgpu-f32/plan.json": b'{"format": "wisp-plan"}',
        "webgpu-f32/kernels.wgsl": WGSL,
    }
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    manifest: dict[str, Any] = {
        "format": "wisp",
        "format_version": 1,
        "id": identifier,
        "parameters": 5_000_000,
        "quantization": "q4f16_1",
        "weight_bytes": len(SHARD),
        "context": 1024,
        "variants": [{"name": "webgpu-f16-sg"}, {"name": "webgpu-f32"}],
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()},
    } | overrides
    (directory / "model.json").write_text(json.dumps(manifest))
    return manifest


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifacts" / "demo")
    (tmp_path / "artifacts" / "demo" / "unlisted.txt").write_text("private")
    (tmp_path / "artifacts" / "demo" / ".hidden").write_text("private")
    (tmp_path / "secret.txt").write_text("private")
    static = tmp_path / "dist"
    static.mkdir()
    for name in BUILT_FILES:
        (static / name).write_text("/* built */ " * 100)
    (static / ".vite").mkdir()
    (static / ".vite" / "manifest.json").write_text("private")
    return tmp_path


@pytest.fixture
def app(root: Path) -> Starlette:
    return create_app(root / "artifacts", root / "dist")


@pytest.fixture
def client(app: Starlette) -> TestClient:
    return TestClient(app, headers={"accept-encoding": "identity"}, follow_redirects=False)


# ------------------------------------------------------------------------------------------------- page and catalogue


def test_page_loads_only_its_own_files(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "/static/page.js?v=" in response.text
    assert "/static/page.css?v=" in response.text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", response.text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", response.text), "an inline script would be refused by the policy"
    assert not re.search(r"""<style|\sstyle=|\son[a-z]+=""", response.text), (
        "inline styles and handlers are refused too"
    )


def test_page_assets_are_immutable_at_the_url_the_page_names(client: TestClient) -> None:
    url = found(r'src="(/static/page\.js[^"]*)"', client.get("/").text)
    assert client.get(url).headers["cache-control"] == IMMUTABLE
    assert client.get("/static/page.js").headers["cache-control"] == "no-cache"


def test_the_service_worker_lies_beside_the_page(client: TestClient) -> None:
    # Below /static/ it could serve nothing but /static/.
    response = client.get("/isolation.js")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/javascript")
    assert response.content == client.get("/static/isolation.js").content
    assert client.get("/isolation.js", headers={"if-none-match": response.headers["etag"]}).status_code == 304


def test_healthz(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_catalogue(client: TestClient) -> None:
    assert client.get("/models").json() == {
        "models": [
            {
                "id": "demo",
                "name": "demo",
                "task": "text-generation",
                "parameters": 5_000_000,
                "quantization": "q4f16_1",
                "context": 1024,
                "weight_bytes": len(SHARD),
                "variants": ["webgpu-f16-sg", "webgpu-f32"],
                "suggestions": [],
                "license": None,
                "homepage": None,
                "url": "/models/demo/",
            }
        ],
        "invalid": [],
    }


def test_catalogue_shows_optional_name_and_suggestions(root: Path, client: TestClient) -> None:
    write_artifact(root / "artifacts" / "demo", name="Demo", suggestions=["Tell me a story."])
    model = client.get("/models").json()["models"][0]
    assert (model["name"], model["suggestions"]) == ("Demo", ["Tell me a story."])


def test_catalogue_shows_license_and_homepage(root: Path, client: TestClient) -> None:
    def shown(**stated: Any) -> tuple[Any, Any]:
        write_artifact(root / "artifacts" / "demo", **stated)
        model = client.get("/models").json()["models"][0]
        return model["license"], model["homepage"]

    assert shown(license="Apache-2.0", homepage="https://example.org/m") == ("Apache-2.0", "https://example.org/m")
    assert shown(license=["MIT"], homepage="javascript:alert(1)") == (None, None), "the page makes a link of it"


def test_one_model_may_lead_the_list(root: Path) -> None:
    write_artifact(root / "artifacts" / "larger", "larger", weight_bytes=1 << 30)
    write_artifact(root / "artifacts" / "smaller", "smaller", weight_bytes=1)
    for first, expected in {None: "smaller", "larger": "larger", "no-such": "smaller"}.items():
        client = TestClient(create_app(root / "artifacts", root / "dist", first=first))
        assert client.get("/models").json()["models"][0]["id"] == expected


def test_catalogue_follows_the_directory(root: Path, client: TestClient) -> None:
    def ids() -> list[str]:
        return [model["id"] for model in client.get("/models").json()["models"]]

    assert ids() == ["demo"]
    write_artifact(root / "artifacts" / "second", "second", weight_bytes=9)
    assert ids() == ["second", "demo"], "smallest first"
    (root / "artifacts" / "demo" / "model.json").unlink()
    assert ids() == ["second"]
    assert client.get("/models/demo/params_shard_0.bin").status_code == 404


def test_two_directories_with_one_id_are_both_served(root: Path, client: TestClient) -> None:
    write_artifact(root / "artifacts" / "a-copy", "demo", context=2048)
    listed = {model["id"]: model["context"] for model in client.get("/models").json()["models"]}
    assert listed == {"demo": 1024, "a-copy": 2048}
    assert client.get("/models/a-copy/model.json").json()["context"] == 2048


def test_an_artifact_answers_to_its_id_and_to_its_directory(root: Path, client: TestClient) -> None:
    write_artifact(root / "artifacts" / "folder", "llama")
    assert "/models/llama/" in [model["url"] for model in client.get("/models").json()["models"]]
    assert client.get("/models/llama/model.json").content == client.get("/models/folder/model.json").content


def test_the_directory_of_one_artifact_may_be_given(root: Path) -> None:
    client = TestClient(create_app(root / "artifacts" / "demo", root / "dist"))
    assert client.get("/models").json()["models"][0]["url"] == "/models/demo/"
    assert client.get("/models/demo/params_shard_0.bin").content == SHARD


def test_a_missing_artifacts_directory_is_an_empty_catalogue(root: Path) -> None:
    client = TestClient(create_app(root / "nowhere", root / "dist"))
    assert client.get("/models").json() == {"models": [], "invalid": []}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"format": "gguf"}, "not a Wisp manifest"),
        ({"format_version": 2}, "format_version is 2, expected 1"),
        ({"id": "../demo"}, "id is '../demo'"),
        ({"id": ".demo"}, "id is '.demo'"),
        ({"id": 7}, "id is 7"),
        ({"files": None}, "files is missing"),
        ({"files": {"../../secret.txt": {"bytes": 7, "sha256": "0" * 64}}}, "expected a relative path"),
        ({"files": {"/etc/passwd": {"bytes": 7, "sha256": "0" * 64}}}, "expected a relative path"),
        ({"files": {"a\\b": {"bytes": 7, "sha256": "0" * 64}}}, "expected a relative path"),
        ({"files": {"a/.b": {"bytes": 7, "sha256": "0" * 64}}}, "expected a relative path"),
        ({"files": {"a.bin": {"bytes": 7, "sha256": "zz"}}}, "no sha256"),
        ({"files": {"a.bin": {"sha256": "0" * 64}}}, "no whole number of bytes"),
        ({"variants": "webgpu"}, "variants is missing"),
        ({"weight_bytes": None}, "weight_bytes is None"),
        ({"context": 1.5}, "context is 1.5"),
    ],
)
def test_an_invalid_artifact_is_named_and_not_served(
    root: Path, client: TestClient, overrides: dict[str, Any], message: str
) -> None:
    write_artifact(
        root / "artifacts" / "bad", **{"identifier": "bad"} | overrides if "id" not in overrides else overrides
    )
    catalogue = client.get("/models").json()
    assert [model["id"] for model in catalogue["models"]] == ["demo"]
    assert catalogue["invalid"][0]["id"] == "bad"
    assert message in catalogue["invalid"][0]["error"]
    assert client.get("/models/bad/model.json").status_code == 404


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_broken_manifest_does_not_take_the_catalogue_down(root: Path, client: TestClient, text: str) -> None:
    (root / "artifacts" / "bad").mkdir()
    (root / "artifacts" / "bad" / "model.json").write_text(text)
    assert len(client.get("/models").json()["invalid"]) == 1


# -------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("model.json", "application/json"),
        ("params_shard_0.bin", "application/octet-stream"),
        ("webgpu-f32/plan.json", "application/json"),
        ("webgpu-f32/kernels.wgsl", "text/wgsl; charset=utf-8"),
    ],
)
def test_listed_files_are_served(root: Path, client: TestClient, name: str, media_type: str) -> None:
    data = (root / "artifacts" / "demo" / name).read_bytes()
    response = client.get(f"/models/demo/{name}")
    assert (response.status_code, response.content) == (200, data)
    assert response.headers["content-type"] == media_type
    assert response.headers["content-length"] == str(len(data))
    assert response.headers["etag"] == f'"{sha256(data)}"'
    head = client.head(f"/models/demo/{name}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))


@pytest.mark.parametrize(
    ("version", "cached"),
    [(sha256(SHARD)[:16], True), (sha256(SHARD)[:15], False), ("0" * 16, False), ("", False), (sha256(SHARD), False)],
)
def test_only_the_right_version_is_immutable(client: TestClient, version: str, cached: bool) -> None:
    response = client.get("/models/demo/params_shard_0.bin", params={"v": version})
    assert response.status_code == 200
    assert response.headers["cache-control"] == ("public, max-age=31536000, immutable" if cached else "no-cache")


def test_a_file_without_version_is_revalidated(client: TestClient) -> None:
    response = client.get("/models/demo/params_shard_0.bin")
    assert response.headers["cache-control"] == "no-cache"
    for tags in (
        response.headers["etag"],
        f'"other", {response.headers["etag"]}',
        f"W/{response.headers['etag']}",
        "*",
    ):
        again = client.get("/models/demo/params_shard_0.bin", headers={"if-none-match": tags})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == response.headers["etag"]
    assert client.get("/models/demo/params_shard_0.bin", headers={"if-none-match": '"other"'}).status_code == 200


def test_a_changed_manifest_changes_its_etag(root: Path, client: TestClient) -> None:
    etag = client.get("/models/demo/model.json").headers["etag"]
    write_artifact(root / "artifacts" / "demo", context=512)
    response = client.get("/models/demo/model.json", headers={"if-none-match": etag})
    assert response.status_code == 200
    assert response.json()["context"] == 512


def test_a_file_of_the_wrong_size_is_never_cached(root: Path, client: TestClient) -> None:
    (root / "artifacts" / "demo" / "params_shard_0.bin").write_bytes(SHARD[:-1])
    response = client.get("/models/demo/params_shard_0.bin", params={"v": sha256(SHARD)[:16]})
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["etag"] != f'"{sha256(SHARD)}"'


# ------------------------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("requested", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=4000-", 4000, 4096), ("bytes=-6", 4090, 4096), ("bytes=4090-9999", 4090, 4096)],
)
def test_range(client: TestClient, requested: str, start: int, stop: int) -> None:
    response = client.get("/models/demo/params_shard_0.bin", headers={"range": requested})
    assert (response.status_code, response.content) == (206, SHARD[start:stop])
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/4096"
    assert response.headers["content-length"] == str(stop - start)
    assert response.headers["accept-ranges"] == "bytes"


def test_several_ranges(client: TestClient) -> None:
    response = client.get("/models/demo/params_shard_0.bin", headers={"range": "bytes=0-1,10-11"})
    assert response.status_code == 206
    assert response.headers["content-type"].startswith("multipart/byteranges")
    assert b"Content-Range: bytes 10-11/4096" in response.content


def test_a_range_outside_the_file_is_416(client: TestClient) -> None:
    response = client.get("/models/demo/params_shard_0.bin", headers={"range": "bytes=4096-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */4096"


def test_a_range_of_absurd_numbers_is_416(client: TestClient) -> None:
    response = client.get("/models/demo/params_shard_0.bin", headers={"range": f"bytes=0-{'9' * 5000}"})
    assert response.status_code == 416


def test_if_range(client: TestClient) -> None:
    wanted = {"range": "bytes=0-9"}
    same = client.get("/models/demo/params_shard_0.bin", headers=wanted | {"if-range": f'"{sha256(SHARD)}"'})
    assert (same.status_code, same.content) == (206, SHARD[:10])
    changed = client.get("/models/demo/params_shard_0.bin", headers=wanted | {"if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, SHARD)


# -------------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize(
    "path", ["/models/demo/webgpu-f32/kernels.wgsl", "/models/demo/tokenizer.json", "/static/page.js"]
)
def test_text_is_compressed(client: TestClient, path: str) -> None:
    plain = client.get(path)
    assert "content-encoding" not in plain.headers
    with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as response:
        body = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == plain.content
    assert len(body) < len(plain.content)
    assert response.headers["etag"] == f"W/{plain.headers['etag']}", "other bytes than the file's: not the strong tag"
    assert "accept-ranges" not in response.headers
    for answer in (plain, response):
        assert answer.headers["vary"].lower() == "accept-encoding"
    again = client.get(path, headers={"accept-encoding": "gzip", "if-none-match": response.headers["etag"]})
    assert again.status_code == 304


def test_the_page_is_compressed(client: TestClient) -> None:
    assert client.get("/", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"


def test_weights_are_not_compressed(client: TestClient) -> None:
    response = client.get("/models/demo/params_shard_0.bin", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in response.headers
    assert response.headers["content-length"] == "4096"


def test_a_range_of_text_is_of_the_file(client: TestClient) -> None:
    headers = {"accept-encoding": "gzip", "range": "bytes=0-4"}
    response = client.get("/models/demo/webgpu-f32/kernels.wgsl", headers=headers)
    assert (response.status_code, response.content) == (206, WGSL[:5])
    assert "content-encoding" not in response.headers


class Counted:
    """How often what was compressed, by either of the two places that do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        whole = gzip.compress

        def compress(data: bytes, *arguments: Any, **options: Any) -> bytes:
            self.sizes.append(len(data))
            return whole(data, *arguments, **options)

        async def refuse(*_: Any, **__: Any) -> bytes:
            raise AssertionError("a file was compressed while it was sent")

        monkeypatch.setattr(gzip, "compress", compress)
        monkeypatch.setattr("starlette.middleware.gzip.GZipResponder.apply_compression", refuse)
        monkeypatch.setattr(serving_files, "compressed_files", CompressedFiles())


@pytest.mark.parametrize("accepted", ["gzip;q=0", "br, GZIP ; q=0.0", "gzip;q=0, identity"])
@pytest.mark.parametrize("path", ["/", "/models/demo/webgpu-f32/kernels.wgsl"])
def test_an_encoding_that_is_refused_is_not_sent(client: TestClient, path: str, accepted: str) -> None:
    assert "content-encoding" not in client.get(path, headers={"accept-encoding": accepted}).headers
    accepted = accepted.replace("q=0", "q=0.5").replace("0.5.0", "0.5")
    assert client.get(path, headers={"accept-encoding": accepted.lower()}).headers["content-encoding"] == "gzip"


def test_a_file_is_compressed_once(client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    paths = ["/models/demo/tokenizer.json", "/models/demo/webgpu-f32/kernels.wgsl", "/static/page.js"]
    first = [client.get(path, headers={"accept-encoding": "gzip"}).content for path in paths]
    for _ in range(3):
        assert [client.get(path, headers={"accept-encoding": "gzip"}).content for path in paths] == first
    assert len(counted.sizes) == len(paths)
    (root / "dist" / "page.js").write_text("/* another */" * 100)
    assert b"another" in client.get(paths[2], headers={"accept-encoding": "gzip"}).content
    assert len(counted.sizes) == len(paths) + 1, "a file that changed is another file"


def test_those_who_ask_at_once_wait_for_one_compression(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    path = root / "artifacts" / "demo" / "tokenizer.json"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: serving_files.compressed_files.get(path, path.stat()), range(8)))
    assert len(set(answers)) == 1
    assert len(counted.sizes) == 1


def test_compressed_copies_are_bounded(tmp_path: Path) -> None:
    files = CompressedFiles(capacity=1000)
    for i in range(20):
        path = tmp_path / str(i)
        path.write_bytes(os.urandom(300))
        assert gzip.decompress(files.get(path, path.stat())) == path.read_bytes()
    kept = [future.result() for future in files._files.values()]
    assert sum(map(len, kept)) <= 1000
    assert len(kept) == 3
    (tmp_path / "gone").write_bytes(b"x")
    found = (tmp_path / "gone").stat()
    (tmp_path / "gone").unlink()
    with pytest.raises(FileNotFoundError):
        files.get(tmp_path / "gone", found)
    (tmp_path / "gone").write_bytes(b"back")
    os.utime(tmp_path / "gone", ns=(found.st_mtime_ns, found.st_mtime_ns))
    assert gzip.decompress(files.get(tmp_path / "gone", found)) == b"back", "a failure is not remembered"


# ---------------------------------------------------------------------------------------------------------- host names


def answers(app: Starlette, host: str, path: str = "/models") -> bool:
    status = TestClient(app).get(path, headers={"host": host}).status_code
    assert status in (200, 400)
    return status == 200


def local_app(root: Path, *names: str, host: str = "127.0.0.1", address: str = "127.0.0.1") -> Starlette:
    return create_app(root / "artifacts", root / "dist", allowed_hosts(host, address, names))


@pytest.mark.parametrize("path", ["/", "/models", "/models/demo/model.json", "/static/wisp.js", "/healthz"])
def test_a_loopback_answers_to_its_own_names_alone(root: Path, path: str) -> None:
    app = local_app(root)
    for host in ("localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"):
        assert answers(app, host, path), host
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "[::1].evil.example",
        "[::2]:8000",
        "192.168.0.1",
        "::1",
        "",
        "*",
    ):
        assert not answers(app, host, path), host


def test_the_host_that_was_asked_for_and_others_that_were_named(root: Path) -> None:
    app = local_app(root, "wisp.example", "*.lan.example", "[fd00::1]", host="my-machine")
    for host in ("my-machine:80", "wisp.example", "a.lan.example:8000", "[fd00::1]:8000", "localhost"):
        assert answers(app, host), host
    for host in ("lan.example.org", "example", "a.wisp.example", "[fd00::2]"):
        assert not answers(app, host), host
    assert answers(local_app(root, "*"), "anything.example")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "fe80::1%eth0"])
def test_a_public_interface_answers_to_any_name_unless_some_are_given(root: Path, address: str) -> None:
    assert answers(local_app(root, host=address, address=address), "anything.example")
    named = local_app(root, "wisp.example", host=address, address=address)
    assert answers(named, "wisp.example:443")
    assert not answers(named, "evil.example")


def test_a_refused_name_comes_with_the_security_headers(root: Path) -> None:
    response = TestClient(local_app(root)).get("/models", headers={"host": "evil.example"})
    assert response.status_code == 400
    assert "demo" not in response.text
    assert_security_headers(response.headers)


@pytest.mark.parametrize("name", ["", "a b", "http://wisp.example", "wisp.example:80", "*evil", "a*", "x/y"])
def test_what_is_no_name_is_refused_at_start(root: Path, name: str) -> None:
    with pytest.raises(ServeError, match="--allowed-host"):
        allowed_hosts("127.0.0.1", "127.0.0.1", [name])


# ---------------------------------------------------------------------------------------------------- nothing escapes


@pytest.mark.parametrize(
    "path",
    [
        "/models/demo/unlisted.txt",
        "/models/demo/.hidden",
        "/models/demo/",
        "/models/demo",
        "/models/demo/webgpu-f32",
        "/models/demo/webgpu-f32/",
        "/models/demo//params_shard_0.bin",
        "/models/demo/./params_shard_0.bin",
        "/models/demo/webgpu-f32/../params_shard_0.bin",
        "/models/demo/../../secret.txt",
        "/models/demo/%2e%2e/%2e%2e/secret.txt",
        "/models/demo/..%2f..%2fsecret.txt",
        "/models/demo/..%5c..%5csecret.txt",
        "/models/demo/%252e%252e/secret.txt",
        "/models/demo//etc/passwd",
        "/models/demo/%2fetc%2fpasswd",
        "/models/demo/params_shard_0.bin%00.json",
        "/models/../secret.txt",
        "/models/%2e%2e/secret.txt",
        "/models/..%2fsecret.txt",
        "/models/./demo/model.json",
        "/models//demo/model.json",
        "/models/nothere/model.json",
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static/..%5csecret.txt",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/.vite/manifest.json",
        "/static/",
        "/static/page.js%00",
        "/secret.txt",
        "/../secret.txt",
        "/server.py",
    ],
)
def test_nothing_else_is_served(app: Starlette, path: str) -> None:
    # A client would tidy `..` away before sending it, so the path arrives here as a raw server would hand it on.
    status, headers, body = raw_get(app, path)
    assert status == 404, body
    assert b"private" not in body
    assert_security_headers(headers)


def raw_get(app: Starlette, path: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"testserver")], "server": ("testserver", 80), "client": ("testclient", 1),
    }  # fmt: skip
    # In a thread of its own: a browser test of the same session may have left an event loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, app(scope, receive, send)).result()
    headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def test_raw_get_serves_what_exists(app: Starlette) -> None:
    assert raw_get(app, "/models/demo/params_shard_0.bin")[::2] == (200, SHARD)
    assert raw_get(app, "/static/page.js")[0] == 200


def test_links_that_lead_out_are_refused(root: Path, client: TestClient) -> None:
    demo = root / "artifacts" / "demo"
    (demo / "params_shard_0.bin").unlink()
    (demo / "params_shard_0.bin").symlink_to(root / "secret.txt")
    assert client.get("/models/demo/params_shard_0.bin").status_code == 404
    (root / "dist" / "link.js").symlink_to(root / "secret.txt")
    assert client.get("/static/link.js").status_code == 404
    write_artifact(root / "elsewhere", "elsewhere")
    (root / "artifacts" / "elsewhere").symlink_to(root / "elsewhere")
    assert "symbolic link" in client.get("/models").json()["invalid"][0]["error"]
    assert client.get("/models/elsewhere/model.json").status_code == 404


def test_a_listed_file_that_is_missing_is_404(root: Path, client: TestClient) -> None:
    (root / "artifacts" / "demo" / "params_shard_0.bin").unlink()
    assert client.get("/models/demo/params_shard_0.bin").status_code == 404


# ------------------------------------------------------------------------------------------------------------ headers


def assert_security_headers(headers: Any) -> None:
    policy = dict(directive.split(" ", 1) for directive in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert policy["connect-src"] == policy["style-src"] == policy["worker-src"] == "'self'"
    assert not re.search(r"unsafe-inline|'unsafe-eval'|\*|https?:", headers["content-security-policy"])
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/", "/models", "/healthz", "/models/demo/params_shard_0.bin", "/static/wisp.js", "/no"]
)
def test_security_headers_are_everywhere(client: TestClient, path: str) -> None:
    assert_security_headers(client.get(path).headers)


def test_security_headers_are_on_errors(app: Starlette, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = "/models/demo/params_shard_0.bin"
    for status, response in {
        405: client.post("/models"),
        416: client.get(shard, headers={"range": "bytes=9999-"}),
        412: client.get(shard, headers={"if-match": '"other"'}),
        304: client.get(shard, headers={"if-none-match": "*"}),
    }.items():
        assert response.status_code == status
        assert_security_headers(response.headers | {"cache-control": "any"})
    monkeypatch.setattr(app.state.catalogue, "read", lambda: 1 / 0)
    response = TestClient(app, raise_server_exceptions=False).get("/models")
    assert response.status_code == 500
    assert "ZeroDivision" not in response.text
    assert_security_headers(response.headers | {"cache-control": "any"})


# ----------------------------------------------------------------------------------------------------------- starting


def test_an_unbuilt_page_is_said_at_start(root: Path) -> None:
    (root / "dist" / "page.js").unlink()
    client = TestClient(create_app(root / "artifacts", root / "dist"))
    with pytest.raises(ServeError, match=r"lacks page\.js; run `make build`"):
        client.__enter__()


def test_a_built_page_starts(app: Starlette) -> None:
    with TestClient(app) as client:
        assert client.get("/healthz").status_code == 200


def test_serve_refuses_a_missing_directory(root: Path) -> None:
    with pytest.raises(ServeError, match="is not a directory; compile a model"):
        serve(root / "nowhere")


def test_a_busy_port_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "WEB", root)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ServeError) as error:
            serve(root / "artifacts", "127.0.0.1", port)
    message = str(error.value)
    assert f"port {port}" in message
    assert "--port" in message
    assert "PORT=" in message
    assert "\n" not in message


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no.such.host.invalid", 0), ("203.0.113.1", 0)])
def test_an_impossible_address_is_one_line(host: str, port: int) -> None:
    with pytest.raises(ServeError) as error:
        bind(host, port)
    assert host in str(error.value)
    assert "\n" not in str(error.value)


def test_serve_says_where_it_is_and_stops_on_interrupt(root: Path) -> None:
    code = (
        "import pathlib, sys; from compiler.serving import listen; "
        "root = listen.WEB = pathlib.Path(sys.argv[1]); listen.serve(root / 'artifacts', port=0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        url = found(r"(http://127\.0\.0\.1:\d+/)", process.stdout.readline())
        with urllib.request.urlopen(f"{url}healthz", timeout=60) as response:
            assert json.load(response) == {"status": "ok"}
        rebound = urllib.request.Request(f"{url}models", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(rebound, timeout=60)
        process.send_signal(2)
        assert process.wait(timeout=60) == 0, process.stderr.read()
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_uvicorn_server_app_works(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {"WISP_ARTIFACTS": str(root / "artifacts"), "WISP_ALLOWED_HOSTS": "127.0.0.1, a.example"}
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port), "--lifespan", "off"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        assert "demo" in fetch(f"http://127.0.0.1:{port}/models", process)
        evil = urllib.request.Request(f"http://127.0.0.1:{port}/models", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(evil, timeout=60)
    finally:
        process.kill()
        process.wait()


def fetch(url: str, process: subprocess.Popen[Any]) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return response.read().decode()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")
