"""Checkpoints from the Hub, against a stand-in on loopback."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.numpy import load_file, save_file

from compiler.errors import WispError
from compiler.models import POOLING, config_from_huggingface, weight_specs
from compiler.sources.open import open_checkpoint
from compiler.sources.pooling import read_pooling
from tests import hub as stand_in
from tests.checkpoints import make_llama
from tests.embeddings import checkpoint as embedding_checkpoint
from tests.mlc_pack import llama_tensors, write_directory
from tests.mlc_pack import pack as pack_tensors


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


def test_files_that_lie_deeper(hub: stand_in.Hub, tmp_path: Path) -> None:
    hub.repositories["org/embedding"] = embedding_checkpoint(tmp_path, "lasttoken")
    assert open_checkpoint("org/embedding").config[POOLING] == "last"
    (file,) = (tmp_path / "cache" / "models--org--embedding" / "snapshots").glob("*/1_Pooling/config.json")
    assert file.is_symlink()
    file.unlink()
    file.symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text('{"pooling_mode_mean_tokens": true}')
    with pytest.raises(WispError, match="leads out of the checkpoint"):
        read_pooling(file.parents[1])


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


def test_no_network(
    hub: stand_in.Hub,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = open_checkpoint("org/tiny")
    assert checkpoint.tensors
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(WispError, match=r"'org/other' cannot be downloaded.*check the network"):
            open_checkpoint("org/other")
        assert open_checkpoint("org/tiny").tensors.keys() == checkpoint.tensors.keys(), "the local cache serves it"
    assert (capfd.readouterr().err, caplog.messages) == ("", []), "the error alone is told"


def test_nothing_is_drawn_on_stderr(hub: stand_in.Hub, capfd: pytest.CaptureFixture[str]) -> None:
    assert not os.isatty(2)
    assert open_checkpoint("org/tiny").tensors
    assert capfd.readouterr().err == ""


def fetched_weights(hub: stand_in.Hub, repo: str) -> set[str]:
    """What opening the weights of a repository downloads."""
    checkpoint = open_checkpoint(repo)
    hub.requests.clear()
    assert checkpoint.tensors
    return {path.rsplit("/", 1)[1] for path in hub.requests if path.startswith(f"GET /{repo}/resolve")}


def test_the_shards_that_the_index_lists_are_fetched_and_no_others(
    hub: stand_in.Hub, llama: Path, tmp_path: Path
) -> None:
    """Whatever they are called; what merely looks like a shard is left."""
    tensors = load_file(llama / "model.safetensors")
    names = sorted(tensors)
    parts = {"weights_a.safetensors": names[::2], "consolidated_b.safetensors": names[1::2]}
    repository = tmp_path / "sharded"
    repository.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llama / name, repository / name)
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, repository / file)
    shutil.copy(llama / "model.safetensors", repository / "model-00001-of-00009.safetensors")
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (repository / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.repositories["org/sharded"] = repository
    assert fetched_weights(hub, "org/sharded") == {"model.safetensors.index.json", *parts}
    assert len(open_checkpoint("org/sharded").tensors) == len(tensors)


def test_the_shards_of_an_mlc_pack_are_those_of_its_cache(hub: stand_in.Hub, llama: Path, tmp_path: Path) -> None:
    pack = write_directory(tmp_path / "pack", llama, pack_tensors(llama_tensors(llama)))
    (pack / "params_shard_99.bin").write_bytes(b"of nobody")
    listed = {record["dataPath"] for record in json.loads((pack / "tensor-cache.json").read_text())["records"]}
    hub.repositories["org/pack"] = pack
    checkpoint = open_checkpoint("org/pack")
    hub.requests.clear()
    checkpoint.check_weights(weight_specs(config_from_huggingface(checkpoint.config, 32)), tied=True)
    fetched = {path.rsplit("/", 1)[1] for path in hub.requests if path.startswith("GET /org/pack/resolve")}
    assert fetched == listed


def test_an_index_cannot_fetch_from_elsewhere(hub: stand_in.Hub, llama: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hostile"
    shutil.copytree(llama, repository)
    (repository / "model.safetensors").unlink()
    for name in ("../../other/resolve/main/secret", "*", "a/b.safetensors"):
        (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        hub.repositories[f"org/hostile-{len(name)}"] = repository
        with pytest.raises(WispError, match="plain file names"):
            _ = open_checkpoint(f"org/hostile-{len(name)}").tensors
