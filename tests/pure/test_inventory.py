"""What `wisp models` says is on this machine."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from compiler import inventory
from compiler.cli import main
from compiler.inventory import Stored, cpu_context
from compiler.places import CONFIGS
from compiler.recipes import summarize_recipe
from compiler.runtime.choose import SLACK
from compiler.runtime.wasmtime import LIMIT
from tests.checkpoints import make_llama

GIB = 1 << 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inventory")
    source = make_llama(root / "tiny")
    options = ["--variants", "webgpu-f32", "--context", "64"]
    assert main(["compile", str(source), "-o", str(root / "artifacts" / "tiny"), *options]) == 0
    (root / "artifacts" / "broken").mkdir()
    (root / "artifacts" / "broken" / "model.json").write_text("{}")
    snapshot = root / "cache" / "models--org--name" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("x" * 3000)
    (root / "cache" / "datasets--org--data").mkdir()
    return root


@pytest.fixture(autouse=True)
def _cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(inventory, "scan_cache_dir", lambda: scan(root / "cache"))


def test_artifacts_and_the_hubs_cache(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--local", "--artifacts", str(root / "artifacts"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (artifact,) = told["artifacts"]
    files = [path for path in (root / "artifacts" / "tiny").rglob("*") if path.is_file() and path.name != "model.json"]
    assert artifact["bytes"] == sum(path.stat().st_size for path in files)
    assert (artifact["id"], artifact["context"], artifact["cpu_context"]) == ("tiny", 64, 64)
    assert told["hub_cache"] == [{"id": "org/name", "bytes": 3000, "revisions": 1}]
    assert main(["models", "--local", "--artifacts", str(root / "artifacts")]) == 0
    shown = capsys.readouterr().out
    for text in ("tiny", artifact["quantization"], "yes", "org/name", "2.9 KiB"):
        assert text in shown
    assert "broken" not in shown


def test_of_nothing_there_is_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(inventory, "scan_cache_dir", lambda: scan(tmp_path / "none"))
    assert main(["models", "--local", "--artifacts", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("machine", "weights", "per_token", "expected"),
    [
        (64 * GIB, GIB, 1 << 18, 4096),
        (64 * GIB, LIMIT - SLACK - (2048 << 18), 1 << 18, 2048),
        (64 * GIB, LIMIT - SLACK - (512 << 18), 1 << 18, 512),
        (64 * GIB, LIMIT - SLACK - (512 << 18) + 1, 1 << 18, 0),
        (2 * GIB, GIB, 1 << 19, 1024),
        (GIB, GIB, 1 << 18, 0),
        (None, GIB, 1 << 18, 4096),
    ],
)
def test_what_the_cpu_has_room_for(
    machine: int | None, weights: int, per_token: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "machine_bytes", lambda: machine)
    assert cpu_context(weights, per_token, 4096) == expected
    said = Stored("m", "m", "q4f16_1", 4096, 1, 1, expected).fits()
    assert said == {4096: "yes", 0: "no"}.get(expected, f"to {expected:,} tokens")


def test_phi_3_mini_has_room_for_its_own_context_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "machine_bytes", lambda: None)
    phi3 = summarize_recipe(CONFIGS / "phi-3-mini-4k-instruct.toml")
    assert phi3.context == 4096
    assert cpu_context(phi3.weight_bytes, phi3.kv_bytes_per_token, phi3.context) == 4096
