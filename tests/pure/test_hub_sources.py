"""Other sources on the Hub, against a stand-in on loopback: MLC's directories, and pickles where nothing else is."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.mlc.checkpoint import MlcCheckpoint
from compiler.sources.open import open_checkpoint
from tests import hub as stand_in
from tests.checkpoints import make_llama, make_phi3
from tests.gguf_files import write_gguf
from tests.mlc_pack import pack, phi3_tensors, write_directory
from tests.packed_files import write


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with stand_in.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def fetched(hub: stand_in.Hub) -> set[str]:
    return {path.rsplit("/", 1)[1] for path in hub.requests if path.startswith("GET /org/model/resolve")}


def test_mlc_weights(hub: stand_in.Hub, tmp_path: Path) -> None:
    base = make_phi3(tmp_path / "base")
    packed = pack(phi3_tensors(base))
    hub.repositories["org/model"] = write_directory(tmp_path / "pack", base, packed)
    checkpoint = open_checkpoint("org/model")
    assert isinstance(checkpoint, MlcCheckpoint)
    assert not any(name.startswith("params_shard") for name in fetched(hub)), "weights are downloaded last"
    specs = weight_specs(config_from_huggingface(checkpoint.config, 64))
    checkpoint.check_weights(specs, tied=False)
    for spec in specs:
        for name, tensor in checkpoint.stored(spec, checkpoint.scheme) or ():
            np.testing.assert_array_equal(tensor, packed[name])


def test_a_checkpoint_that_another_tool_quantized(hub: stand_in.Hub, tmp_path: Path) -> None:
    floats = make_llama(
        tmp_path / "floats", dtype="float16", hidden_size=128, intermediate_size=256, num_attention_heads=2
    )
    write(floats, tmp_path / "model", "mlx")
    hub.repositories["org/model"] = tmp_path / "model"
    checkpoint = open_checkpoint("org/model")
    assert "model.safetensors" not in fetched(hub), "weights are downloaded last"
    specs = weight_specs(config_from_huggingface(checkpoint.config, 64))
    checkpoint.check_weights(specs, tied=True)
    held = [checkpoint.held(spec) for spec in specs if spec.kind == "matrix"]
    assert {found.scheme.name for found in held if found is not None} == {"q4af16_g64"}
    assert None not in held


def test_a_pickle_when_there_is_nothing_else(hub: stand_in.Hub, tmp_path: Path) -> None:
    base = make_phi3(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    torch.save(tensors, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    hub.repositories["org/model"] = base
    checkpoint = open_checkpoint("org/model")
    assert "pytorch_model.bin" not in fetched(hub)
    np.testing.assert_array_equal(checkpoint.read("lm_head.weight"), tensors["lm_head.weight"].numpy())


@pytest.mark.parametrize("parts", [False, True])
def test_a_gguf_file(hub: stand_in.Hub, tmp_path: Path, parts: bool) -> None:
    floats, repository = make_llama(tmp_path / "floats"), tmp_path / "model"
    repository.mkdir()
    file = write_gguf(floats, repository / "a.Q8_0.gguf", tensors_a_part=4 if parts else 0)
    write_gguf(floats, repository / "other.gguf")
    hub.repositories["org/model"] = repository
    checkpoint = open_checkpoint(f"org/model/{file.name}")
    assert fetched(hub) == {path.name for path in repository.glob("a.*")}
    assert (checkpoint.source.kind, checkpoint.source.id) == ("hub", f"org/model/{file.name}")
    assert checkpoint.source.revision == stand_in.COMMIT
    np.testing.assert_array_equal(checkpoint.read("model.norm.weight"), open_checkpoint(file).read("model.norm.weight"))
    config = resolve_config(f"org/model/{file.name}@main")
    assert (config.source, config.source_kind, config.revision) == (f"org/model/{file.name}", "hub", "main")
    assert config.id == "a.q8_0"
    with pytest.raises(WispError, match=r"'org/model' has no such file.*missing\.gguf"):
        open_checkpoint("org/model/missing.gguf")
