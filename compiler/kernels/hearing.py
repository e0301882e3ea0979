"""What an encoder of audio has besides products and attention: windows of a convolution, learned positions.

Kernels for GPU and CPU. A convolution over time is a product: `unfold` lays out the three frames that each step sees,
so that a channel's are neighbours, as in the rows of the weights. The first convolution's even and odd frames are two
products of as many rows as there are states; the second one, which moves by 2, reads both. The numpy twins are
`reference.unfold_mel`, `reference.unfold_pairs` and `reference.add_positions`.
"""

from __future__ import annotations

from tvm import tirx

from .builder import Kernel, all_of, ceil_div, div, f32, i32, mod, select

THREADS = 64
TAPS = 3  # frames of a convolution


def unfold_mel(name: str, bands: int, steps: int, parity: int, kernel_type: type[Kernel] = Kernel) -> tirx.PrimFunc:
    """`out[t, 3 b + j] = mel[b, 2 t + parity + j - 1]`, zero beyond the ends.

    Bindings: mel (f32 `[bands, 2 steps]`), out (f32 `[steps, 3 bands]`).
    """
    frames, columns = 2 * steps, TAPS * bands
    with kernel_type(name) as kernel:
        mel = kernel.buffer("mel", bands * frames, "float32")
        out = kernel.buffer("out", steps * columns, "float32")
        block, step = kernel.grid(ceil_div(columns, THREADS), steps)
        column = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(True if columns % THREADS == 0 else column < columns):
            frame = kernel.let(step * 2 + mod(column, TAPS) + (parity - 1))
            there = all_of([frame >= 0, frame < frames])
            place = tirx.min(tirx.max(frame, 0), frames - 1)
            out[step * columns + column] = select(there, mel[div(column, TAPS) * frames + place], f32(0.0))
    return kernel.function


def unfold_pairs(name: str, channels: int, steps: int, kernel_type: type[Kernel] = Kernel) -> tirx.PrimFunc:
    """`out[t, 3 c + j]` is channel c of frame `2 t + j - 1`, zero before the first; even and odd frames lie apart.

    Bindings: even, odd (f32 `[steps, channels]`), out (f32 `[steps, 3 channels]`).
    """
    with kernel_type(name) as kernel:
        even = kernel.buffer("even", steps * channels, "float32")
        odd = kernel.buffer("odd", steps * channels, "float32")
        out = kernel.buffer("out", steps * channels * TAPS, "float32")
        block, step = kernel.grid(ceil_div(channels, THREADS), steps)
        channel = kernel.let(block * THREADS + kernel.threads(THREADS))
        with kernel.when(True if channels % THREADS == 0 else channel < channels):
            here = kernel.let(step * channels + channel)
            before = odd[tirx.max(here - channels, 0)]
            out[here * TAPS] = select(step > 0, before, f32(0.0))
            out[here * TAPS + 1] = even[here]
            out[here * TAPS + 2] = odd[here]
    return kernel.function


def add_positions(
    name: str, shape: tuple[int, int, int], f16: bool, state_words: int, kernel_type: type[Kernel] = Kernel
) -> tirx.PrimFunc:
    """`out[r] = x[r] + table[position + r]`; `shape` is rows, columns, and rows of the table.

    Bindings: x (f32 `[rows, columns]`), table (f32, or f16 in words), state, out. Rows beyond the table are not stored.
    """
    rows, columns, count = shape
    with kernel_type(name) as kernel:
        x = kernel.buffer("x", rows * columns, "float32")
        words = ceil_div(count * columns, 2) if f16 else count * columns
        table = kernel.buffer("table", words, "uint32" if f16 else "float32")
        state = kernel.buffer("state", state_words, "uint32")
        out = kernel.buffer("out", rows * columns, "float32")
        block, row = kernel.grid(ceil_div(columns, THREADS), rows)
        column = kernel.let(block * THREADS + kernel.threads(THREADS))
        position = kernel.let(i32(state[0]) + row)
        with kernel.when(all_of([position < count, True if columns % THREADS == 0 else column < columns])):
            place = kernel.let(position * columns + column)
            added = kernel.f16(table, place) if f16 else table[place]
            out[row * columns + column] = x[row * columns + column] + added
    return kernel.function
