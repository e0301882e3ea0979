"""pytorch_model.bin: read back as safetensors are, by a restricted unpickler only; nothing in a pickle runs."""

import builtins
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compiler.artifact.writer import load_artifact
from compiler.cli import main
from compiler.errors import WispError
from compiler.models import config_from_huggingface, weight_specs
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import stored_tensors
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import make_phi3


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in safetensors."""
    return make_phi3(tmp_path_factory.mktemp("safe") / "base", dtype="bfloat16")


@pytest.fixture
def bare(safe: Path, tmp_path: Path) -> Path:
    """The checkpoint without weights."""
    directory = tmp_path / "pickled"
    directory.mkdir()
    for file in safe.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    return directory


def save_whole(tensors: dict[str, torch.Tensor], directory: Path) -> None:
    torch.save(tensors, directory / "pytorch_model.bin")


def save_legacy(tensors: dict[str, torch.Tensor], directory: Path) -> None:
    """As torch wrote before version 1.6: no zip file."""
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def save_parameters(tensors: dict[str, torch.Tensor], directory: Path) -> None:
    parameters = {name: torch.nn.Parameter(t) for name, t in tensors.items()}
    torch.save(parameters, directory / "pytorch_model.bin")


def save_shards(tensors: dict[str, torch.Tensor], directory: Path) -> None:
    names = sorted(tensors)
    files = {name: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize("save", [save_whole, save_legacy, save_parameters, save_shards])
def test_the_same_tensors_as_from_safetensors(save: Callable[..., None], safe: Path, bare: Path) -> None:
    save(load_file(safe / "model.safetensors"), bare)
    ours, theirs = open_checkpoint(bare), open_checkpoint(safe)
    model = config_from_huggingface(ours.config, 64)
    ours.check_weights(weight_specs(model), tied=False)
    assert {n: (t.dtype, t.shape) for n, t in ours.tensors.items()} == {
        n: (t.dtype, t.shape) for n, t in theirs.tensors.items()
    }
    for spec in weight_specs(model):
        got = stored_tensors(ours, spec, SCHEMES["q4f16_1"])
        for (name, tensor), (_, expected) in zip(got, stored_tensors(theirs, spec, SCHEMES["q4f16_1"]), strict=True):
            np.testing.assert_array_equal(tensor, expected, err_msg=name)
    name = "model.layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(ours.read(name, 3, 9), theirs.read(name)[3:9])


def test_views_of_a_larger_storage(bare: Path, safe: Path) -> None:
    tensors = load_file(safe / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    both = torch.stack([tensors[name], -tensors[name]], dim=2)
    save_whole({**tensors, name: both[:, :, 0]}, bare)
    np.testing.assert_array_equal(open_checkpoint(bare).read(name, 5, 7), tensors[name][5:7].float().numpy())


def test_a_build(safe: Path, bare: Path, tmp_path: Path) -> None:
    save_shards(load_file(safe / "model.safetensors"), bare)
    options = ["--context", "32", "--variants", "webgpu-f32", "--quant", "q0f16", "-o", str(tmp_path / "out")]
    assert main(["compile", str(bare), *options]) == 0
    expected = open_checkpoint(safe).read("lm_head.weight").astype(np.float16)
    np.testing.assert_array_equal(load_artifact(tmp_path / "out").tensor("lm_head.weight"), expected)


# ------------------------------------------------------------------------------------------------------------ bad input


class Payload:
    """Unpickled without restrictions, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def pickle_plain(value: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(value, protocol=2))


def pickle_as_python_does(value: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(value))


def pickle_in_zip(value: Any, file: Path) -> None:
    """As torch.save would, with a pickle of our own."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("write", [pickle_plain, pickle_as_python_does, pickle_in_zip])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    write: Callable[..., None], bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    write({"model.norm.weight": Payload(ran)}, bare / "pytorch_model.bin")
    assert main(["compile", str(bare), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "pytorch_model.bin is refused" in error
    assert "exec, which could run code" in error or write is pickle_as_python_does
    assert "weights_only" not in error, "torch's advice to trust the file is not passed on"
    assert error.count("\n") == 1
    assert not ran.exists()
    assert not list(tmp_path.glob("*out*"))


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(2)], "got a list"),
        ({"model.norm.weight": [1.0]}, "'model.norm.weight' of type list"),
        ({1: torch.zeros(2)}, "got a dict"),
        ({"model.norm.weight": torch.eye(4).to_sparse()}, "'model.norm.weight' of type Tensor"),
        ({"state_dict": {"model.norm.weight": torch.zeros(2)}}, "'state_dict' of type dict"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(value: Any, message: str, bare: Path) -> None:
    torch.save(value, bare / "pytorch_model.bin")
    with pytest.raises(WispError, match=rf"{message}.*dense tensors.*safetensors"):
        _ = open_checkpoint(bare).tensors


def test_types_and_names_are_checked_as_everywhere(bare: Path, safe: Path) -> None:
    tensors = load_file(safe / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    del tensors["lm_head.weight"]
    save_whole(tensors, bare)
    checkpoint = open_checkpoint(bare)
    model = config_from_huggingface(checkpoint.config, 64)
    with pytest.raises(WispError, match=r"1 missing: lm_head\.weight; 1 of an unsup.*norm\.weight torch\.float64"):
        checkpoint.check_weights(weight_specs(model), tied=False)


@pytest.mark.parametrize("size", [0, 7, 3000])
def test_a_file_that_is_cut_is_refused(size: int, bare: Path, safe: Path) -> None:
    save_whole(load_file(safe / "model.safetensors"), bare)
    file = bare / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WispError, match=r"pytorch_model\.bin is (damaged|refused).*save") as error:
        _ = open_checkpoint(bare).tensors
    assert "\n" not in str(error.value)


def test_a_shard_that_is_not_there(bare: Path, safe: Path) -> None:
    save_shards(load_file(safe / "model.safetensors"), bare)
    (bare / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WispError, match=r"missing.*00002-of-00002\.bin.*pytorch_model\.bin\.index\.json"):
        _ = open_checkpoint(bare).tensors


def test_without_torch_the_extra_is_named(bare: Path, safe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_whole(load_file(safe / "model.safetensors"), bare)
    real = builtins.__import__

    def without_torch(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(WispError, match=r"pip install 'wisp\[torch\]', or save it as model\.safetensors"):
        _ = open_checkpoint(bare).tensors


def test_an_old_torch_is_refused(bare: Path, safe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_whole(load_file(safe / "model.safetensors"), bare)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(WispError, match=r"torch 2\.5\.1.*torch 2\.6 or later"):
        _ = open_checkpoint(bare).tensors


def test_safetensors_win_and_no_pickle_is_opened(bare: Path, safe: Path) -> None:
    (bare / "pytorch_model.bin").write_bytes(b"not even a pickle")
    (bare / "model.safetensors").write_bytes((safe / "model.safetensors").read_bytes())
    assert "lm_head.weight" in open_checkpoint(bare).tensors
