"""`wisp check` of the CPU's variant, where there is no GPU: what still passes, fails or is skipped, and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compiler.check.inputs
from compiler.build import build
from compiler.check.parity import BOUNDS, check, exit_status, print_report
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.runtime.wasmtime import WasmRuntime
from tests.checkpoints import make_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def artifact(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "small"
    variants = ["webgpu-f32", "wasm-simd"]
    return build(resolve_config(str(llama), output=output, identifier="small", context=96, variants=variants))


@pytest.fixture(autouse=True)
def no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise WispError("there is no adapter", remedy="install a driver")

    monkeypatch.setattr(compiler.check.inputs, "request_adapter", refuse)


def test_the_cpu_is_checked_without_a_gpu(llama: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(artifact, str(llama), tokens=24)
    assert (report["passed"], report["adapter"]) == (True, "CPU")
    skipped, passed = report["variants"]
    assert (skipped["name"], skipped["status"]) == ("webgpu-f32", "skipped")
    assert skipped["reason"] == "there is no GPU adapter for wgpu"
    assert (passed["name"], passed["status"], passed["bound"]) == ("wasm-simd", "passed", BOUNDS["float16"])
    assert 0 < passed["max_error"] < BOUNDS["float16"]
    assert set(passed["prefill_max_error"]) == {"9", "17", "24", "65"}, "full chunks of either, and parts"
    assert exit_status(report) == 0
    print_report(report)
    text = capsys.readouterr().out
    assert "small against" in text
    assert "on CPU" in text
    assert "skipped: there is no GPU adapter" in text


def test_a_gpu_that_alone_was_asked_for_is_missed(llama: Path, artifact: Path) -> None:
    with pytest.raises(WispError, match="there is no adapter; install a driver"):
        check(artifact, str(llama), tokens=8, variants=["webgpu-f32"])


def test_logits_beyond_the_bound_fail(llama: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One logit, off by twice the bound."""
    read = WasmRuntime.read

    def altered(self: WasmRuntime, name: str, dtype: str = "float32") -> Any:
        values = np.array(read(self, name, dtype))
        if name == "logits":
            values[5] += 2 * BOUNDS["float32"] * np.abs(values).max()
        return values

    monkeypatch.setattr(WasmRuntime, "read", altered)
    report = check(artifact, str(llama), tokens=8, variants=["wasm-simd"])
    assert report["variants"][0]["status"] == "failed"
    assert report["failures"][0].startswith("wasm-simd: decode: logit error")
    assert exit_status(report) == 1
