"""Writing artifacts whole or not at all, and reading them back."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compiler.artifact.writer
from compiler.artifact.writer import SHARD_BYTES, ArtifactWriter, check_output, load_artifact, tensor_metadata
from compiler.errors import WispError

BASE = json.loads((Path(__file__).resolve().parent.parent / "golden/bad_manifests/base.json").read_text())


def model_of(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The model.json of the golden manifest for these tensors."""
    model = {key: value for key, value in BASE["model"].items() if key not in ("format", "format_version", "files")}
    return model | {"weight_bytes": sum(tensor.nbytes for tensor in tensors.values())}


def golden_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "model.embed_tokens.q_weight": random.integers(0, 2**32, (128, 4), np.uint32),
        "model.embed_tokens.q_scale": random.standard_normal((128, 1)).astype(np.float16),
        "model.norm.weight": random.standard_normal(32).astype(np.float16),
    }


def write(output: Path, tensors: dict[str, np.ndarray], *, mlc_shards: bool = False) -> Path:
    with ArtifactWriter(output, mlc_shards=mlc_shards) as writer:
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        for name in ("tokenizer.json", "tokenizer_config.json", "mlc-chat-config.json"):
            writer.add_file(name, b"{}")
        writer.add_file("constants.bin", bytes(512))
        writer.add_file("webgpu-f32/plan.json", json.dumps(BASE["plan"]).encode())
        writer.add_file("webgpu-f32/kernels.wgsl", b"// shaders")
        metadata = tensor_metadata(len(tensors), 4128, sum(t.nbytes for t in tensors.values()))
        return writer.finish(model_of(tensors), metadata)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------------------------- content


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    tensors = golden_tensors()
    output = write(tmp_path / "out", tensors)
    artifact = load_artifact(output)
    for name, tensor in tensors.items():
        read = artifact.tensor(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert read.tobytes() == tensor.tobytes()
    assert (
        artifact.tensor("model.embed_tokens.q_weight", 5, 9).tobytes()
        == tensors["model.embed_tokens.q_weight"][5:9].tobytes()
    )
    assert artifact.plans["webgpu-f32"] == BASE["plan"]
    assert artifact.kernels("webgpu-f32") == "// shaders"
    assert artifact.constants() == bytes(512)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing is left beside it"


def test_every_file_is_listed_with_its_digests(tmp_path: Path) -> None:
    output = write(tmp_path / "out", golden_tensors())
    model = json.loads((output / "model.json").read_text())
    assert model["format"] == "wisp"
    assert set(snapshot(output)) == {*model["files"], "model.json"}
    for name, entry in model["files"].items():
        content = (output / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    cache = json.loads((output / "tensor-cache.json").read_text())
    for shard in cache["records"]:
        assert shard["md5sum"] == hashlib.md5((output / shard["dataPath"]).read_bytes()).hexdigest()
    assert cache["metadata"]["ParamSize"] == 3


def test_a_build_is_reproducible(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", golden_tensors()), write(tmp_path / "two", golden_tensors())
    assert snapshot(one) == snapshot(two)


def test_files_can_be_read_by_everybody(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        output = write(tmp_path / "out", golden_tensors())
    finally:
        os.umask(old)
    assert output.stat().st_mode & 0o777 == 0o755
    assert (output / "params_shard_0.bin").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> int:
    """Shards of 4 KiB, for the writer and for the validator."""
    monkeypatch.setattr("compiler.artifact.writer.SHARD_BYTES", 4096)
    monkeypatch.setattr("compiler.artifact.manifest.MAX_SHARD_BYTES", 4096)
    return 4096


def large_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return golden_tensors() | {
        "odd": random.standard_normal(33).astype(np.float16),
        "large": random.standard_normal((1001, 5)).astype(np.float32),
        "after": random.standard_normal((7, 3)).astype(np.float32),
    }


def test_a_large_tensor_is_split_by_rows(tmp_path: Path, small_shards: int) -> None:
    tensors = large_tensors()
    artifact = load_artifact(write(tmp_path / "out", tensors))
    parts = artifact.tensors["large"].parts
    assert len(parts) >= 5
    assert all(part.rows % 64 == 0 for part in parts[:-1])
    assert all((artifact.path / part.file).stat().st_size <= small_shards for part in parts)
    for name, tensor in tensors.items():
        assert artifact.tensor(name).tobytes() == tensor.tobytes()
    for start, stop in ((0, 1), (63, 65), (100, 900), (1000, 1001)):
        np.testing.assert_array_equal(artifact.tensor("large", start, stop), tensors["large"][start:stop])


def test_mlc_shards_split_nothing(tmp_path: Path, small_shards: int) -> None:
    tensors = large_tensors()
    artifact = load_artifact(write(tmp_path / "out", tensors, mlc_shards=True))
    cache = json.loads((artifact.path / "tensor-cache.json").read_text())
    for shard in cache["records"]:
        assert shard["nbytes"] <= small_shards or [r["name"] for r in shard["records"]] == ["large"]
        assert not any("rowOffset" in record for record in shard["records"])
    assert artifact.tensor("large").tobytes() == tensors["large"].tobytes()


def test_a_row_too_long_to_split_is_refused(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as writer, pytest.raises(WispError, match=r"'wide'.*--mlc-shards"):
        writer.add_tensor("wide", np.zeros((65, SHARD_BYTES // 64 + 1), np.uint8))
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- whole or nothing


def test_an_artifact_is_replaced(tmp_path: Path) -> None:
    output = write(tmp_path / "out", golden_tensors(0))
    before = snapshot(output)
    write(output, golden_tensors(1))
    assert snapshot(output) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def fail_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("existing", [True, False], ids=["over an artifact", "new"])
@pytest.mark.parametrize("call", [0, 3, 8])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, existing: bool
) -> None:
    output = tmp_path / "out"
    before = snapshot(write(output, golden_tensors(0))) if existing else {}
    sync, calls = compiler.artifact.writer._sync, []

    def full(file: Any) -> None:
        calls.append(file)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(compiler.artifact.writer, "_sync", full)
    with pytest.raises(WispError, match=r"disk is full.*nothing was changed"):
        write(output, golden_tensors(1))
    assert snapshot(output) == before
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if existing else [])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug"), OSError(errno.EIO, "I/O error")])
def test_any_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    output = write(tmp_path / "out", golden_tensors(0))
    before = snapshot(output)
    monkeypatch.setattr(compiler.artifact.writer, "_sync", fail_with(error))
    with pytest.raises(WispError if isinstance(error, OSError) else type(error)):
        write(output, golden_tensors(1))
    assert snapshot(output) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failing_rename_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = write(tmp_path / "out", golden_tensors(0))
    before = snapshot(output)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(WispError, match="Permission denied"):
        write(output, golden_tensors(1))
    assert snapshot(output) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_leaving_without_finish_writes_nothing(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "deep" / "out") as writer:
        writer.add_file("tokenizer.json", b"{}")
    assert not (tmp_path / "deep" / "out").exists()


def test_an_invalid_artifact_is_never_put_in_place(tmp_path: Path) -> None:
    tensors = golden_tensors()
    del tensors["model.norm.weight"]
    with pytest.raises(WispError, match=r"model\.norm\.weight"):
        write(tmp_path / "out", tensors)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------- output


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WispError, match=r"notes\.txt.*choose another -o"):
        check_output(tmp_path)
    output = write(tmp_path / "out", golden_tensors())
    check_output(output)
    (output / "mine.txt").write_text("mine")
    with pytest.raises(WispError, match=r"mine\.txt"):
        check_output(output)
    assert (output / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["{}", '{"format": "other", "files": {}}', "no JSON", '{"format": "wisp"}'])
def test_another_programs_model_json_is_foreign(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(WispError, match=r"model\.json"):
        check_output(tmp_path)


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", golden_tensors())


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path / "file", tmp_path / "link"):
        with pytest.raises(WispError, match="not a directory"):
            check_output(output)
    with pytest.raises(WispError, match="file is not a directory"):
        check_output(tmp_path / "file" / "out")


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(WispError, match="no permission to write"):
        check_output(tmp_path / "out")


# -------------------------------------------------------------------------------------------------------------- reading


def damage_shard(output: Path) -> None:
    with (output / "params_shard_0.bin").open("r+b") as file:
        file.write(b"\xff\x00\xff")


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("no manifest", lambda o: (o / "model.json").unlink(), "not an artifact"),
    ("manifest", lambda o: (o / "model.json").write_text("{"), "model.json"),
    ("missing file", lambda o: (o / "tokenizer.json").unlink(), "tokenizer.json.*no file"),
    ("short file", lambda o: (o / "constants.bin").write_bytes(b""), "constants.bin.*0 bytes"),
    ("changed shard", damage_shard, "params_shard_0.bin.*SHA-256"),
    ("changed plan", lambda o: (o / "webgpu-f32/plan.json").write_text("{}"), "plan.json"),
]


@pytest.mark.parametrize(("damage", "named"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_damaged_artifact_is_refused(tmp_path: Path, damage: Callable[[Path], object], named: str) -> None:
    output = write(tmp_path / "out", golden_tensors())
    damage(output)
    with pytest.raises(WispError, match=named):
        load_artifact(output)


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_format_version_is_refused(tmp_path: Path, version: Any) -> None:
    output = write(tmp_path / "out", golden_tensors())
    model = json.loads((output / "model.json").read_text())
    (output / "model.json").write_text(json.dumps(model | {"format_version": version}))
    with pytest.raises(WispError, match=r"another format version.*expected 1.*compile it again"):
        load_artifact(output)
