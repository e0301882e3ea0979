"""Logits before the sampler: which tokens may be drawn at all, and what is added to their logits.

One kernel for GPU and CPU. It is no part of `decode`: a runtime dispatches it between the vocabulary projection and the
sampler, for requests with a grammar or with biases alone. The numpy twin is `reference.mask`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .builder import Kernel, ceil_div, div, f32, mod, select, u32
from .reference import MASKED

THREADS = 64
WORD = 32  # tokens of a word of the mask


def mask_words(vocab: int) -> int:
    """Words of a mask."""
    return ceil_div(vocab, WORD)


def mask_logits(name: str, vocab: int, kernel_type: type[Kernel] = Kernel) -> tirx.PrimFunc:
    """logits[v] = logits[v] + bias[v] where bit v % 32 of word v / 32 is set, else `MASKED`.

    Bindings: mask (u32 `[mask_words]`), bias (f32 `[vocab]`), logits (f32 `[vocab]`, written).
    """
    with kernel_type(name) as kernel:
        mask = kernel.buffer("mask", mask_words(vocab), "uint32")
        bias = kernel.buffer("bias", vocab, "float32")
        logits = kernel.buffer("logits", vocab, "float32")
        block, _ = kernel.grid(ceil_div(vocab, THREADS))
        token = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(True if vocab % THREADS == 0 else token < vocab):
            word = kernel.let(mask[div(token, WORD)])
            allowed = T.bitwise_and(T.shift_right(word, u32(mod(token, WORD))), T.uint32(1)) != T.uint32(0)
            logits[token] = select(allowed, logits[token] + bias[token], f32(MASKED))
    return kernel.function
