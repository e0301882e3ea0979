"""`wisp publish` to a directory and to an S3 server on loopback: what is sent, how, and in which order."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from compiler.cli import main
from compiler.errors import WispError
from compiler.progress import Silent
from compiler.site import publish as module
from compiler.site.files import site_files
from compiler.site.publish import RECORD, publish
from tests.browser import toy_artifact


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    for name in ("toy", "other"):
        toy_artifact.write(tmp_path / "artifacts" / name, toy_artifact.toy(), name=name.title(), cpu=True)
    return tmp_path / "artifacts"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server."""
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of it, which s3:// is then about."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    fsspec.filesystem("s3").makedirs("wisp", exist_ok=True)
    return "s3://wisp/chat"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are sent from now on."""
    names: list[str] = []
    send = module._send

    def noted(system: Any, root: str, file: Any, headers: Any) -> None:
        names.append(file.name)
        send(system, root, file, headers)

    monkeypatch.setattr(module, "_send", noted)
    return names


def test_object_storage_serves_what_it_got(bucket: str, artifacts: Path) -> None:
    publish(artifacts, bucket, Silent())
    store = fsspec.filesystem("s3")
    for file in site_files(artifacts, (), lambda _: None):
        path = f"wisp/chat/{file.name}"
        content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        assert store.cat_file(path) == content
        head = store.call_s3("head_object", Bucket="wisp", Key=f"chat/{file.name}")
        assert head["ContentType"] == file.media_type
        assert head["CacheControl"] == file.cache_control
    kinds = {file.name: (file.media_type, file.immutable) for file in site_files(artifacts, (), lambda _: None)}
    assert kinds["index.html"] == ("text/html; charset=utf-8", False)
    assert kinds["models/toy/model.json"] == ("application/json", False)
    assert kinds["models/toy/params_shard_0.bin"] == ("application/octet-stream", True)
    assert kinds["models/toy/wasm-simd/kernels.wasm"] == ("application/wasm", True)
    assert kinds["static/worker.js"] == ("text/javascript; charset=utf-8", False)
    assert (
        store.cat_file("wisp/chat/models/toy/params_shard_0.bin", start=3, end=9)
        == (artifacts / "toy" / "params_shard_0.bin").read_bytes()[3:9]
    )


def test_only_what_changed_is_sent_again(bucket: str, artifacts: Path, sent: list[str]) -> None:
    target, notes = f"{bucket}-again", Notes()
    publish(artifacts, target, notes)
    assert sent == [file.name for file in site_files(artifacts, (), lambda _: None)]
    sent.clear()
    publish(artifacts, target, notes)
    assert sent == []
    assert "0 of " in notes.lines[-1]
    recompile(artifacts / "toy")
    publish(artifacts, target, notes)
    assert sent == ["models/toy/constants.bin", "models/toy/model.json"]
    assert "2 of " in notes.lines[-1]
    shutil.rmtree(artifacts / "other")
    sent.clear()
    publish(artifacts, target, notes)
    assert sent == ["models.json", "offline.js"]
    assert not fsspec.filesystem("s3").find("wisp/chat-again/models/other", refresh=True)


def recompile(artifact: Path) -> None:
    """One file of an artifact has other content, of the same size."""
    manifest = json.loads((artifact / "model.json").read_bytes())
    content = bytearray((artifact / "constants.bin").read_bytes())
    content[0] ^= 1
    (artifact / "constants.bin").write_bytes(content)
    manifest["files"]["constants.bin"]["sha256"] = hashlib.sha256(content).hexdigest()
    (artifact / "model.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("fails_at", ["models/toy/constants.bin", "models/toy/model.json", "index.html"])
def test_what_was_interrupted_is_made_whole(
    artifacts: Path, tmp_path: Path, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it has left points at nothing that is not there."""
    site = tmp_path / "site"
    first = tmp_path / "first"
    shutil.copytree(artifacts, first)
    publish(first, site.as_uri(), Silent())
    recompile(artifacts / "toy")
    (artifacts / "other" / "model.json").write_text((artifacts / "other" / "model.json").read_text() + "\n")
    send = module._send

    def failing(system: Any, root: str, file: Any, headers: Any) -> None:
        if file.name == fails_at:
            raise OSError("the network is gone")
        send(system, root, file, headers)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_send", failing)
        if fails_at == "index.html":  # has not changed
            publish(artifacts, site.as_uri(), Silent())
        else:
            with pytest.raises(WispError, match=r"refuses: got the network is gone; .*publishing again"):
                publish(artifacts, site.as_uri(), Silent())
            manifest = json.loads((site / "models" / "toy" / "model.json").read_bytes())
            assert manifest == json.loads((first / "toy" / "model.json").read_bytes()), "the former one"
    # The other version, then this one: nothing is taken for what it is not.
    for source in (first, artifacts):
        publish(source, site.as_uri(), Silent())
        for file in site_files(source, (), lambda _: None):
            assert hashlib.sha256((site / file.name).read_bytes()).hexdigest() == file.sha256


def test_a_damaged_artifact_is_not_published(artifacts: Path, tmp_path: Path) -> None:
    shard = artifacts / "toy" / "params_shard_0.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(WispError, match=r"models/toy/params_shard_0\.bin is damaged"):
        publish(artifacts, (tmp_path / "site").as_uri(), Silent())
    assert not (tmp_path / "site" / "models" / "toy" / "model.json").exists()


def test_a_record_that_is_none_is_no_record(artifacts: Path, tmp_path: Path, sent: list[str]) -> None:
    site = tmp_path / "site"
    for content in ("", "[]", '{"files": 1}', "{"):
        site.mkdir(exist_ok=True)
        (site / RECORD).write_text(content)
        sent.clear()
        publish(artifacts, site.as_uri(), Silent())
        assert "index.html" in sent


@pytest.mark.parametrize(
    ("target", "options", "complaint"),
    [
        ("ftp://host/path", [], "no way to publish there: got ftp://host/path"),
        ("a/directory", [], "no way to publish there"),
        ("s3://", [], "names no bucket"),
        ("s3://no-such-bucket/x", [], "refuses"),
        ("hf://name", ["--model", "toy"], "is no repository"),
        ("hf://org/name", [], "holds one model"),
        ("hf://org/name", ["--model", "missing"], "no such model"),
        ("s3://wisp/x", ["--parity", "report.json"], "--parity is for"),
        ("s3://wisp/x", ["--model", "missing"], "no such model"),
    ],
)
def test_bad_input(
    bucket: str, artifacts: Path, target: str, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", target, "--artifacts", str(artifacts), *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("wisp: ")
    assert complaint in error
