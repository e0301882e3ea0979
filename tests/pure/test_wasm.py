"""Kernels become one WebAssembly module: what it exports and imports, what is refused, and that both builds agree."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wasmtime
from tvm import tirx
from tvm.script.ir_builder import tirx as T

import compiler.build
from compiler.cli import main
from compiler.errors import WispError
from compiler.kernels.cpu.builder import STACK_BYTES, CpuKernel
from compiler.lowering import wasm
from compiler.lowering.lower import Lowered, lower_variant, rope_constants
from compiler.models import config_from_huggingface
from compiler.runtime.wasmtime import LIMIT, WasmRuntime
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.checkpoints import make_llama
from tests.wasm_module import WasmModule

ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 331,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
CONTEXT = 512  # a decode step splits its keys from here on
MODEL = config_from_huggingface(ARCHITECTURE, CONTEXT)


def scaled(name: str, factor: float, call: str | None = None) -> tirx.PrimFunc:
    """out[i] = x[i] * factor, or what the library function `call` makes of that."""
    with CpuKernel(name) as kernel:
        x, out = kernel.buffer("x", 8, "float32"), kernel.buffer("out", 8, "float32")
        item, _ = kernel.grid(8)
        value = x[item] * T.float32(factor)
        out[item] = T.call_extern("float32", call, value) if call else value
    return kernel.function


def lower() -> Lowered:
    return lower_variant(MODEL, SCHEMES["q4f16_1"], VARIANTS["wasm-simd"], CONTEXT, (32, 16))


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return lower()


def opened(code: bytes, relaxed: bool) -> wasmtime.Module:
    """The module in an engine that has relaxed SIMD or does not."""
    config = wasmtime.Config()
    config.wasm_relaxed_simd = relaxed
    return wasmtime.Module(wasmtime.Engine(config), code)


@pytest.mark.parametrize("key", ["kernels", "kernels_relaxed"])
def test_the_module_is_what_the_format_says(lowered: Lowered, key: str) -> None:
    """It imports memory, from 1 page to 65536, not shared; it exports a function a kernel and two globals."""
    module = opened(lowered.modules[key], relaxed=key == "kernels_relaxed")
    (imported,) = module.imports
    assert (imported.module, imported.name) == ("env", "memory")
    limits = imported.type.limits
    assert (limits.min, limits.max) == (1, 65536)
    exports = {export.name: export.type for export in module.exports}
    for name, mutable in (("__heap_base", False), ("__stack_pointer", True)):
        kind = exports.pop(name)
        assert (str(kind.content), kind.mutable) == ("i32", mutable)
    kernels = lowered.plan["kernels"]
    assert set(exports) == {kernel["entry"] for kernel in kernels}, "and nothing else"
    for kernel in kernels:
        assert (kernel["workgroup_size"], kernel["workgroup_bytes"]) == ([1, 1, 1], 0)
        assert 1 <= len(kernel["bindings"]) <= 16
        kind = exports[kernel["entry"]]
        assert [str(p) for p in kind.params] == ["i32"] * (len(kernel["bindings"]) + 2)
        assert kind.results == []
    for program in lowered.plan["programs"].values():
        assert all(items >= 1 and rest == [1, 1] for items, *rest in (dispatch["grid"] for dispatch in program))


def test_only_one_build_needs_relaxed_simd(lowered: Lowered) -> None:
    opened(lowered.modules["kernels"], relaxed=False)
    with pytest.raises(wasmtime.WasmtimeError, match="relaxed"):
        opened(lowered.modules["kernels_relaxed"], relaxed=False)


def test_the_modules_stack_lies_below_its_heap(lowered: Lowered) -> None:
    """A kernel's scratch memory fits what each thread is promised."""
    store = wasmtime.Store()
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(1, 65536)))
    module = wasmtime.Module(store.engine, lowered.modules["kernels"])
    memory.grow(store, 16)
    exports: Any = wasmtime.Instance(store, module, [memory]).exports(store)
    stack, heap = (int(exports[name].value(store)) for name in ("__stack_pointer", "__heap_base"))
    assert stack >= STACK_BYTES
    assert STACK_BYTES <= heap <= 2**20
    assert stack % 16 == 0


def test_compiling_again_gives_the_same_bytes(lowered: Lowered) -> None:
    again = lower()
    assert again.modules == lowered.modules
    assert again.plan == lowered.plan


def test_kernels_that_compute_alike_share_an_entry() -> None:
    """Their names do not count; a constant does, even one that prints alike, and so do items."""
    close = float(np.nextafter(np.float32(0.1), np.float32(1)))
    functions = {
        "one": scaled("one", 0.1),
        "same": scaled("same", 0.1),
        "close": scaled("close", close),
        "other": scaled("other", 0.2),
    }
    described = wasm.describe(functions)
    assert {name: info.entry for name, info in described.items()} == {
        "one": "one",
        "same": "one",
        "close": "close",
        "other": "other",
    }
    assert {info.bindings for info in described.values()} == {("read", "read_write")}
    assert {info.grid for info in described.values()} == {(8, 1, 1)}
    module = WasmModule(wasm.compile_module({name: functions[name] for name in ("one", "close", "other")}))
    x = np.arange(8, dtype=np.float32)
    for name, factor in (("one", 0.1), ("close", close), ("other", 0.2)):
        out = module.run(name, [x, np.zeros(8, np.float32)], 8)[1]
        np.testing.assert_array_equal(out, x * np.float32(factor))


@pytest.mark.parametrize("call", ["expf", "memcpy"])
def test_a_kernel_that_calls_a_library_is_a_bug(call: str) -> None:
    with pytest.raises(RuntimeError, match=f"undefined symbol: {call}"):
        wasm.compile_module({"good": scaled("good", 1.0), "bad": scaled("bad", 1.0, call)})


def test_without_the_linker_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llama, output = make_llama(tmp_path / "llama"), tmp_path / "out"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name))
    monkeypatch.setattr(compiler.build, "lower_variant", lower_variant)  # not what another test has lowered
    arguments = ["compile", str(llama), "-o", str(output), "--context", "64", "--variants"]
    assert main([*arguments, "wasm-simd"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wisp:")]
    assert len(said) == 1
    for words in ("ziglang", "pip install ziglang", "--variants"):
        assert words in said[0]
    assert not output.exists()
    assert list(tmp_path.iterdir()) == [llama], "nothing half-written"
    assert main([*arguments, "webgpu-f32"]) == 0, "WebGPU needs no linker"


def runtime(lowered: Lowered, key: str = "kernels", extra: int = 0) -> WasmRuntime:
    """The plan with random weights, and a scratch buffer of `extra` bytes more."""
    rng = np.random.default_rng(0)
    plan = json.loads(json.dumps(lowered.plan))
    if extra:
        plan["buffers"].append({"kind": "scratch", "name": "scratch.more", "bytes": extra})
    weights = {b["name"]: b for b in plan["buffers"] if b["kind"] == "weight"}

    def random(name: str) -> bytes:
        size = weights[name]["bytes"]
        if weights[name]["dtype"] == "uint32":
            return rng.integers(0, 256, size, np.uint8).tobytes()
        return rng.uniform(0.01, 0.02 if "scale" in name else 1.0, size // 2).astype(np.float16).tobytes()

    content = {name: random(name) for name in weights}
    constants = rope_constants(MODEL, CONTEXT)
    return WasmRuntime(plan, lowered.modules[key], lambda name, start, stop: content[name], constants)


def test_both_builds_give_the_same_logits(lowered: Lowered) -> None:
    """Relaxed SIMD rounds once where the other rounds twice."""
    ids = np.random.default_rng(1).integers(0, 331, 40).tolist()
    plain, relaxed = (runtime(lowered, key).logits(ids) for key in ("kernels", "kernels_relaxed"))
    assert plain.std() > 0
    np.testing.assert_allclose(relaxed, plain, atol=1e-4 * np.abs(plain).max())


def test_more_than_a_32_bit_memory_holds_is_refused(lowered: Lowered) -> None:
    with pytest.raises(WispError, match=rf"does not fit the memory of WebAssembly.*at most {LIMIT}.*--context"):
        runtime(lowered, extra=LIMIT)
