"""Files of a checkpoint and of an adapter: only what lies in their directory is read, copied or replaced."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.build import build
from compiler.cli import main
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.lora import open_adapter
from compiler.sources.open import open_checkpoint
from tests.checkpoints import make_llama
from tests.mlc_pack import llama_tensors, pack, write_directory

SECRET = "the secret of somebody else"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_llama(tmp_path / "model")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "secret"
    path.write_text(json.dumps({"secret": SECRET}))
    return path


def compile_it(source: Path, output: Path) -> None:
    build(resolve_config(str(source), output=output, variants=["wasm-simd"], context=32))


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
        *("mlc-chat-config.json", "wisp.toml"),
    ],
)
def test_a_link_out_of_the_checkpoint_is_refused(llama: Path, secret: Path, tmp_path: Path, name: str) -> None:
    (llama / name).unlink(missing_ok=True)
    (llama / name).symlink_to(os.path.relpath(secret, llama))
    with pytest.raises(WispError, match=rf"{name} is a link that leads out of the checkpoint") as caught:
        compile_it(llama, tmp_path / "out")
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_link_of_a_shard_is_refused(llama: Path, secret: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").rename(llama / "model-1.safetensors")
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (llama / "model-2.safetensors").symlink_to(secret)
    with pytest.raises(WispError, match=r"model-2\.safetensors is a link"):
        compile_it(llama, tmp_path / "out")


@pytest.mark.parametrize("name", ["../elsewhere/secret", "/etc/hostname", "..", ".", "a/b", "a\\b", "", ".hidden"])
def test_a_shard_of_an_index_is_a_plain_name(llama: Path, secret: Path, name: str) -> None:
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(WispError, match=r"index\.json is not usable.*plain file names"):
        _ = open_checkpoint(llama).tensors


def test_links_inside_of_the_checkpoint_and_to_it_are_followed(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer.json").rename(llama / "tokenizer.v2.json")
    (llama / "tokenizer.json").symlink_to("tokenizer.v2.json")
    (tmp_path / "link").symlink_to(llama)
    compile_it(tmp_path / "link", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (llama / "tokenizer.v2.json").read_bytes()


def test_a_snapshot_of_the_hubs_cache_is_links_to_its_blobs(llama: Path, secret: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--model"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in llama.iterdir():
        file.rename(blobs / f"sha-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/sha-{file.name}")
    compile_it(snapshot, tmp_path / "out")
    (snapshot / "added_tokens.json").symlink_to(secret)
    with pytest.raises(WispError, match="added_tokens"):
        compile_it(snapshot, tmp_path / "other")


@pytest.mark.parametrize("name", ["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["not JSON", "[1]", '{"a": NaN}', '"text"', "\udcff"])
def test_what_is_copied_is_what_it_is_called(llama: Path, tmp_path: Path, name: str, content: str) -> None:
    (llama / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(WispError, match=name):
        compile_it(llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_no_file(llama: Path, tmp_path: Path) -> None:
    (llama / "generation_config.json").unlink()
    os.mkfifo(llama / "generation_config.json")
    with pytest.raises(WispError, match=r"generation_config\.json is not a file"):
        compile_it(llama, tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.update(model=[1]),
        lambda tokenizer: tokenizer["model"].update(vocab=[3]),
        lambda tokenizer: tokenizer["model"]["vocab"].update(a="x"),
        lambda tokenizer: tokenizer.update(added_tokens=[{"id": 3}]),
        lambda tokenizer: tokenizer.update(added_tokens=["x"]),
    ],
)
def test_a_tokenizer_of_another_form_is_refused(llama: Path, tmp_path: Path, change: Callable[[dict], None]) -> None:
    tokenizer = json.loads((llama / "tokenizer.json").read_text())
    change(tokenizer)
    (llama / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WispError, match=r"tokenizer\.json cannot be read"):
        compile_it(llama, tmp_path / "out")


def test_a_template_of_half_a_surrogate_pair_is_refused(llama: Path, tmp_path: Path) -> None:
    (llama / "chat_template.jinja").unlink()
    config = json.loads((llama / "tokenizer_config.json").read_text())
    (llama / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "\ud800"}))
    with pytest.raises(WispError, match="chat_template"):
        compile_it(llama, tmp_path / "out")


# -------------------------------------------------------------------------------------------------- adapters and packs


def test_links_of_an_adapter_are_refused(tmp_path: Path, secret: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").symlink_to(secret)
    with pytest.raises(WispError, match=r"adapter_config\.json is a link"):
        open_adapter(adapter)
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    (adapter / "adapter_model.safetensors").symlink_to(secret)
    with pytest.raises(WispError, match=r"adapter_model\.safetensors is a link"):
        open_adapter(adapter)


def test_links_of_an_mlc_pack_are_refused(llama: Path, secret: Path, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "pack", llama, pack(llama_tensors(llama)))
    checkpoint = open_checkpoint(directory)
    specs = weight_specs(config_from_huggingface(checkpoint.config, 32))
    shard = next(directory.glob("params_shard_*.bin"))
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(WispError, match=rf"{shard.name} is a link"):
        checkpoint.check_weights(specs, tied=True)
    (directory / "tensor-cache.json").unlink(missing_ok=True)
    (directory / "tensor-cache.json").symlink_to(secret)
    with pytest.raises(WispError, match=r"tensor-cache\.json is a link"):
        open_checkpoint(directory)


# -------------------------------------------------------------------------------------------------------------- output


def run(monkeypatch: pytest.MonkeyPatch, directory: Path, *arguments: str) -> int:
    monkeypatch.chdir(directory)
    return main(["compile", *arguments, "--variants", "wasm-simd", "--context", "32"])


def test_an_artifact_of_another_source_stays_unless_the_user_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("mine", "theirs"):
        make_llama(tmp_path / place / "demo")
    artifact = tmp_path / "artifacts" / "demo" / "model.json"
    assert run(monkeypatch, tmp_path, "mine/demo") == 0
    before = artifact.stat().st_ino
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, "theirs/demo") == 2, "of the same name, in another place"
    complaint = capsys.readouterr().err
    assert "artifacts/demo holds an artifact of another source" in complaint
    assert "../mine/demo" in complaint
    assert "-o or --name" in complaint
    assert artifact.stat().st_ino == before
    assert run(monkeypatch, tmp_path, "mine/demo", "--force") == 0, "its own source may"
    before = artifact.stat().st_ino
    assert run(monkeypatch, tmp_path, "theirs/demo", "--name", "demo") == 0, "the user said so"
    assert artifact.stat().st_ino != before


def test_an_artifact_of_another_kind_of_source_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_llama(tmp_path / "demo")
    assert run(monkeypatch, tmp_path, "demo") == 0
    (tmp_path / "artifacts" / ".demo.inputs").unlink()
    model = tmp_path / "artifacts" / "demo" / "model.json"
    fields = json.loads(model.read_text())
    model.write_text(json.dumps(fields | {"source": {"kind": "hub", "id": "org/demo", "revision": "abc"}}))
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, "demo") == 2
    assert "hub org/demo" in capsys.readouterr().err


def test_a_project_that_was_moved_compiles_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_llama(tmp_path / "before" / "model")
    assert run(monkeypatch, tmp_path / "before", "model") == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").rename(tmp_path / "after")
    assert run(monkeypatch, tmp_path / "after", "model", "--force") == 0


def test_links_to_nowhere_and_pipes_do_not_stop_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_llama(tmp_path / "model")
    (tmp_path / "model" / "old.json").symlink_to("gone.json")
    os.mkfifo(tmp_path / "model" / "pipe.json")
    assert run(monkeypatch, tmp_path, "model") == 0
