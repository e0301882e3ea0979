"""Logits of several rows at once, row by row before the sampler: what a draft is verified with.

One kernel for GPU and CPU. A draw moves the state's position on, so each dispatch finds the next row by itself.
"""

from __future__ import annotations

from tvm import tirx

from ..artifact.state import VERIFIED_FROM_OFFSET
from .builder import Kernel, ceil_div, i32

THREADS = 64
VERIFIED_FROM = VERIFIED_FROM_OFFSET // 4


def copy_row(name: str, rows: int, vocab: int, state_words: int, kernel_type: type[Kernel] = Kernel) -> tirx.PrimFunc:
    """logits[v] = every[position - first position, v].

    Bindings: every (f32 `[rows, vocab]`), state, logits (f32 `[vocab]`, written).
    """
    with kernel_type(name) as kernel:
        every = kernel.buffer("every", rows * vocab, "float32")
        state = kernel.buffer("state", state_words, "uint32")
        logits = kernel.buffer("logits", vocab, "float32")
        block, _ = kernel.grid(ceil_div(vocab, THREADS))
        token = kernel.let(block * THREADS + kernel.threads(THREADS))
        row = kernel.let(tirx.min(i32(state[0] - state[VERIFIED_FROM]), rows - 1))
        with kernel.when(True if vocab % THREADS == 0 else token < vocab):
            logits[token] = every[row * vocab + token]
    return kernel.function
