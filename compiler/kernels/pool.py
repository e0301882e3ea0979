"""What an embedding model gives in place of logits: the hidden state of the last token, or the sum over all tokens.

One kernel for GPU and CPU. A sum, not a mean: an embedding is normalized by whoever reads it, and only its direction
counts. The numpy twin is `reference.pool`.
"""

from __future__ import annotations

from tvm import tirx

from .builder import Kernel, ceil_div, f32, i32, select

THREADS = 64


def pool(
    name: str, chunk: int, k: int, adds: bool, state_words: int, kernel_type: type[Kernel] = Kernel
) -> tirx.PrimFunc:
    """`out[c] = sum of x[r, c]` over the valid rows; with `adds`, to what it held unless the sequence begins here.

    Bindings: x (f32 `[chunk, k]`), state, out (f32 `[k]`, written). A chunk of 1 is a decode step, whose row is valid.
    """
    with kernel_type(name) as kernel:
        x = kernel.buffer("x", chunk * k, "float32")
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", k, "float32")
        block, _ = kernel.grid(ceil_div(k, THREADS))
        column = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(True if k % THREADS == 0 else column < k):
            out[column] = select(i32(state[0]) == 0, f32(0.0), out[column]) if adds else f32(0.0)
            with kernel.loop(1 if chunk == 1 else i32(state[2])) as row:
                out[column] = out[column] + x[row * k + column]
    return kernel.function
