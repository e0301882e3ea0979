"""Checkpoints from the Hub, against a stand-in on loopback."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from compiler.checkpoint import open_checkpoint
from compiler.errors import WispError
from tests import hub as stand_in
from tests.checkpoints import make_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_llama(tmp_path_factory.mktemp("llama"))
    (directory / "modeling.py").write_text("raise SystemExit('code of a checkpoint must never run')")
    (directory / "pytorch_model.bin").write_bytes(b"not wanted")
    return directory


@pytest.fixture
def hub(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with stand_in.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.repositories |= {"org/tiny": llama, "org/gated": llama, "org/private": llama}
        running.gated.add("org/gated")
        running.private.add("org/private")
        yield running


def test_only_what_is_needed_is_downloaded_and_weights_last(hub: stand_in.Hub, llama: Path) -> None:
    checkpoint = open_checkpoint("org/tiny")
    fetched = {path.rsplit("/", 1)[1] for path in hub.requests if path.startswith("GET /org/tiny/resolve")}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert fetched == {"config.json", "generation_config.json", *tokenizer}
    assert checkpoint.source.kind == "hub"
    assert (checkpoint.source.id, checkpoint.source.revision) == ("org/tiny", stand_in.COMMIT)
    hub.requests.clear()
    assert len(checkpoint.tensors) == len(open_checkpoint(llama).tensors)
    fetched = {path.rsplit("/", 1)[1] for path in hub.requests if path.startswith("GET /org/tiny/resolve")}
    assert fetched == {"model.safetensors"}


def test_a_revision(hub: stand_in.Hub) -> None:
    assert open_checkpoint("org/tiny", revision=stand_in.COMMIT).source.revision == stand_in.COMMIT
    with pytest.raises(WispError, match=r"'org/tiny' at revision 'v9'"):
        open_checkpoint("org/tiny", revision="v9")


def test_an_id_that_is_not_there(hub: stand_in.Hub) -> None:
    with pytest.raises(WispError, match=r"the Hub has no 'org/none'.*check the spelling"):
        open_checkpoint("org/none")


def test_a_private_one_needs_a_token(hub: stand_in.Hub) -> None:
    with pytest.raises(WispError, match="HF_TOKEN"):
        open_checkpoint("org/private")
    assert open_checkpoint("org/private", token=stand_in.TOKEN).config["model_type"] == "llama"


def test_a_gated_one_needs_its_terms_accepted(hub: stand_in.Hub) -> None:
    with pytest.raises(WispError, match=r"'org/gated'.*gated.*accept its terms"):
        open_checkpoint("org/gated")
    assert open_checkpoint("org/gated", token=stand_in.TOKEN).config["model_type"] == "llama"


def test_no_network(hub: stand_in.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint("org/tiny")
    assert checkpoint.tensors
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(WispError, match=r"'org/other' cannot be downloaded.*check the network"):
            open_checkpoint("org/other")
        assert open_checkpoint("org/tiny").tensors.keys() == checkpoint.tensors.keys(), "the local cache serves it"


def test_nothing_is_drawn_on_stderr(hub: stand_in.Hub, capfd: pytest.CaptureFixture[str]) -> None:
    assert not os.isatty(2)
    assert open_checkpoint("org/tiny").tensors
    assert capfd.readouterr().err == ""
