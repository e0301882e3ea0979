"""What attention's kernels are on a GPU: registers, spills and instructions of a turn over the keys, for navi21."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from compiler.kernels.cache import Cache, Heads
from compiler.kernels.shapes import AttentionShape
from compiler.kernels.webgpu import attention, prefill_attention
from compiler.kernels.webgpu.tuning import QUAD_ATTENTION, WORKGROUP_ATTENTION
from compiler.lowering import wgsl
from tests.device.isa.counts import Counts, count

STATE_WORDS = 64
CONTEXT, CHUNK, SPLITS = 4096, 256, 16
HEADS = {
    "llama_1b_64": Heads(32, 8, 64, 64),
    "phi_2_80": Heads(32, 32, 80, 32),
    "phi_3_96": Heads(32, 32, 96, 96),
    "llama_8b_128": Heads(32, 8, 128, 128),
    "gemma_256": Heads(8, 4, 256, 256),
}
# Instructions for each multiply-add of four: before, 3.5 (grouped queries) and 8.6 (one query a key).
DECODE, PREFILL = 2.8, 1.95


def turn(counts: Counts) -> Counter[str]:
    """A turn over the keys: the largest loop's."""
    return max(counts.loops, key=lambda loop: loop.total())


def loads(counts: Counts) -> int:
    """Loads that are under way at once: the most of a block with no wait between them."""
    most = 0
    for block in counts.blocks:
        together = 0
        for opcode in block:
            together = 0 if opcode == "s_waitcnt" else together + opcode.startswith("buffer_load")
            most = max(most, together)
    return most


def cost(counts: Counts) -> float:
    """Instructions a multiply-add, over a turn."""
    whole = turn(counts)
    return whole.total() / sum(times for opcode, times in whole.items() if opcode.startswith("v_fma"))


@pytest.mark.parametrize("subgroups", [True, False])
def test_attention(subgroups: bool, tmp_path: Path) -> None:
    """No spills for any size of head, and 16 loads or more under way."""
    tiling = QUAD_ATTENTION if subgroups else WORKGROUP_ATTENTION
    kernels: dict[str, wgsl.KernelInfo] = {}
    for name, heads in HEADS.items():
        cache = Cache(heads, CONTEXT, "float16")
        shape, chunk = AttentionShape(cache, 1, SPLITS), AttentionShape(cache, CHUNK, 1)
        made = {
            f"decode_{name}": attention.attention("a", shape, STATE_WORDS, subgroups),
            f"prefill_{name}": prefill_attention.attention("a", chunk, STATE_WORDS, tiling),
        }
        kernels |= {entry: wgsl.render(function, entry) for entry, function in made.items()}
    for name, counts in count(kernels, subgroups, tmp_path).items():
        print(f"{name:24} {counts.registers:4} registers {loads(counts):3} loads {cost(counts):5.2f} a multiply-add")
        assert counts.spills == 0, name
        assert loads(counts) >= 16, name
        assert cost(counts) <= (DECODE if name.startswith("decode") else PREFILL), name
        if name == "decode_llama_1b_64":
            assert counts.registers <= 232
