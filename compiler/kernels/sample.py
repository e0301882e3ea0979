"""Sampling on the GPU, in three dispatches and without a sort. The rules are in `compiler/FORMAT.md`.

1. `scan`: penalties and temperature, into a scratch copy of the logits, and each workgroup's largest (for greedy
   decoding that is all the work there is).
2. `limit`: the least logit that top_k, top_p and min_p leave, by bisection over the bits of f32 (an f32's bits, with
   the sign folded, order as the number does). Returns at once when there is nothing to cut.
3. `draw`: the Gumbel maximum over what is left, or the largest; writes the token, the ring and the counts, and moves
   the position on.

`draw` is a kernel of its own because it writes the state: a barrier under a branch on a buffer that the kernel writes
is refused by WGSL's uniformity analysis. The numpy twin is `reference.sample`.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from compiler.kernels.builder import (
    Array,
    Expr,
    Kernel,
    bits_to_f32,
    ceil_div,
    f32,
    f32_to_bits,
    i32,
    mod,
    select,
    u32,
)

SCAN_THREADS = 64
SCAN_PER_THREAD = 16  # logits an invocation of `scan` reads
THREADS = 256  # of `limit` and `draw`
FINDERS = 16
LOWEST = -3.0e38


def scan_blocks(vocab: int) -> int:
    """Workgroups of `scan`."""
    return ceil_div(vocab, SCAN_THREADS * SCAN_PER_THREAD)


def scan(name: str, vocab: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: logits, counts, state, adjusted (f32 `[vocab]`), tops (f32 bits and index, `[blocks, 2]`)."""
    with Kernel(name) as kernel:
        logits = kernel.buffer("logits", vocab, "float32")
        counts = kernel.buffer("counts", vocab, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        adjusted = kernel.buffer("adjusted", vocab, "float32")
        tops = kernel.buffer("tops", scan_blocks(vocab) * 2, "uint32")
        block, _ = kernel.grid(scan_blocks(vocab))
        thread = kernel.threads(SCAN_THREADS)
        temperature, repetition, presence, frequency = (kernel.let(bits_to_f32(state[word])) for word in (4, 8, 9, 10))
        penalized = tirx.Or(repetition != f32(1.0), tirx.Or(presence != f32(0.0), frequency != f32(0.0)))
        heat = kernel.let(select(temperature > f32(0.0), temperature, f32(1.0)))
        best, best_index = kernel.registers(), kernel.registers(1, "int32")
        best[0], best_index[0] = f32(LOWEST), i32(0)
        with kernel.loop(SCAN_PER_THREAD) as step:
            index = kernel.let((block * SCAN_PER_THREAD + step) * SCAN_THREADS + thread)
            with kernel.when(index < vocab):
                value = kernel.registers()
                value[0] = logits[index]
                with kernel.when(penalized):
                    count = kernel.let(counts[index])
                    with kernel.when(count != T.uint32(0)):
                        value[0] = select(value[0] > f32(0.0), value[0] / repetition, value[0] * repetition)
                    generated = kernel.let(T.bitwise_and(count, T.uint32(0x7FFFFFFF)))
                    with kernel.when(generated > T.uint32(0)):
                        value[0] = value[0] - (presence + frequency * f32(generated))
                value[0] = value[0] / heat
                adjusted[index] = value[0]
                with kernel.when(value[0] > best[0]):
                    best[0] = value[0]
                    best_index[0] = index
        values, indices = kernel.shared(SCAN_THREADS), kernel.shared(SCAN_THREADS, "int32")
        values[thread], indices[thread] = best[0], best_index[0]
        kernel.barrier()
        with kernel.when(thread == 0):
            with kernel.loop(SCAN_THREADS) as other:
                _keep_better(kernel, best, best_index, values[other], indices[other])
            tops[block * 2] = f32_to_bits(best[0])
            tops[block * 2 + 1] = u32(best_index[0])
    return kernel.function


def _keep_better(kernel: Kernel, best: Array, best_index: Array, value: Expr, index: Expr) -> None:
    """Keep the larger of two candidates; among equals, the lower id."""
    value, index = kernel.let(value), kernel.let(index)
    better = tirx.Or(value > best[0], tirx.And(value == best[0], index < best_index[0]))
    with kernel.when(better):
        best[0] = value
        best_index[0] = index


def _order(value: Expr) -> Expr:
    """f32 -> u32 that orders alike."""
    bits = f32_to_bits(value)
    sign = T.uint32(0x80000000)
    return select(T.bitwise_and(bits, sign) != T.uint32(0), T.bitwise_xor(bits, T.uint32(0xFFFFFFFF)), bits + sign)


def _total(kernel: Kernel, value: Expr, thread: Expr, first: Array, second: Array) -> Expr:
    """The sum over the workgroup, known to every invocation."""
    first[thread] = value
    kernel.barrier()
    with kernel.when(thread < FINDERS):
        part = kernel.registers()
        part[0] = f32(0.0)
        with kernel.loop(THREADS // FINDERS) as i:
            part[0] = part[0] + first[thread * (THREADS // FINDERS) + i]
        second[thread] = part[0]
    kernel.barrier()
    total = kernel.registers()
    total[0] = f32(0.0)
    for i in range(FINDERS):
        total[0] = total[0] + second[i]
    return total[0]


def limit(name: str, vocab: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: adjusted, tops, state, cut (f32 bits of the least logit that may be drawn, `[1]`)."""
    blocks = scan_blocks(vocab)
    with Kernel(name) as kernel:
        adjusted = kernel.buffer("adjusted", vocab, "float32")
        tops = kernel.buffer("tops", blocks * 2, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        cut = kernel.buffer("cut", 1, "uint32")
        kernel.grid(1)
        thread = kernel.threads(THREADS)
        first, second = kernel.shared(THREADS), kernel.shared(FINDERS)
        top_k, top_p, min_p = (
            kernel.let(i32(state[5])),
            kernel.let(bits_to_f32(state[6])),
            kernel.let(bits_to_f32(state[7])),
        )
        with kernel.when(bits_to_f32(state[4]) > f32(0.0)):
            largest = kernel.registers()
            largest[0] = f32(LOWEST)
            with kernel.loop(blocks) as block:
                largest[0] = tirx.max(largest[0], bits_to_f32(tops[block * 2]))

            def measure(least: Expr, weigh: bool) -> Expr:
                """How many logits have an order of at least `least`, or their probability mass (largest = 1)."""
                part = kernel.registers()
                part[0] = f32(0.0)
                with kernel.loop(ceil_div(vocab, THREADS)) as step:
                    index = kernel.let(step * THREADS + thread)
                    with kernel.when(index < vocab):
                        value = kernel.let(adjusted[index])
                        with kernel.when(_order(value) >= least):
                            part[0] = part[0] + (T.exp(value - largest[0]) if weigh else f32(1.0))
                return _total(kernel, part[0], thread, first, second)

            def bisect(low: Array, target: Expr, weigh: bool) -> None:
                """Raise `low` to the highest order whose measure still reaches `target`."""
                with kernel.loop(32) as step:
                    bit = T.shift_left(T.uint32(1), u32(31 - step))
                    trial = kernel.let(T.bitwise_or(low[0], bit))
                    with kernel.when(measure(trial, weigh) >= target):
                        low[0] = trial

            least = kernel.registers(1, "uint32")
            least[0] = T.uint32(0)
            with kernel.when(tirx.And(top_k > 0, top_k < vocab)):
                bisect(least, f32(top_k), weigh=False)
            with kernel.when(top_p < f32(1.0)):
                kept = kernel.let(measure(least[0], weigh=True))
                narrowed = kernel.registers(1, "uint32")
                narrowed[0] = T.uint32(0)
                bisect(narrowed, kept * top_p, weigh=True)
                least[0] = tirx.max(least[0], narrowed[0])
            with kernel.when(min_p > f32(0.0)):
                least[0] = tirx.max(least[0], _order(largest[0] + T.log(min_p)))
            with kernel.when(thread == 0):
                cut[0] = tirx.min(least[0], _order(largest[0]))
    return kernel.function


def _uniform(seed: Expr, position: Expr, index: Expr, kernel: Kernel) -> Expr:
    """A number in (0, 1) from (seed, position, index): two rounds of a 32-bit mixer (Wellons' lowbias32)."""

    def mix(value: Expr) -> Expr:
        value = kernel.let(T.bitwise_xor(value, T.shift_right(value, T.uint32(16))) * T.uint32(0x7FEB352D))
        value = kernel.let(T.bitwise_xor(value, T.shift_right(value, T.uint32(15))) * T.uint32(0x846CA68B))
        return kernel.let(T.bitwise_xor(value, T.shift_right(value, T.uint32(16))))

    stream = mix(seed + position * T.uint32(0x9E3779B9))
    mixed = mix(T.bitwise_xor(stream, index * T.uint32(0x85EBCA6B) + T.uint32(0xC2B2AE35)))
    return (f32(T.shift_right(mixed, T.uint32(9))) + f32(0.5)) * f32(2.0**-23)


def _negative_log(uniform: Expr, kernel: Kernel) -> Expr:
    """`-log(u)`, by a series of 1 - u (exact there) near 1.

    The largest Gumbel values come from there, and WGSL allows `log` an error of 2^-21: at 0 an impossible token wins.
    """
    rest = kernel.let(f32(1.0) - uniform)
    series = rest * (f32(1.0) + rest * (f32(1 / 2) + rest * (f32(1 / 3) + rest * f32(1 / 4))))
    return kernel.let(select(rest < f32(2.0**-6), series, f32(0.0) - T.log(uniform)))


def draw(name: str, vocab: int, ring: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: adjusted, tops, cut, state, ring, counts; the last three are written."""
    blocks = scan_blocks(vocab)
    with Kernel(name) as kernel:
        adjusted = kernel.buffer("adjusted", vocab, "float32")
        tops = kernel.buffer("tops", blocks * 2, "uint32")
        cut = kernel.buffer("cut", 1, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        tokens = kernel.buffer("ring", ring, "uint32")
        counts = kernel.buffer("counts", vocab, "uint32")
        kernel.grid(1)
        thread = kernel.threads(THREADS)
        values, indices = kernel.shared(THREADS), kernel.shared(THREADS, "int32")
        greedy = kernel.let(bits_to_f32(state[4]) <= f32(0.0))
        position = kernel.let(state[0] + T.uint32(1))
        seed = kernel.let(state[3])
        best, best_index = kernel.registers(), kernel.registers(1, "int32")
        best[0], best_index[0] = f32(LOWEST), i32(vocab)
        with T.If(greedy):
            with T.Then(), kernel.loop(ceil_div(blocks, THREADS)) as step:
                index = kernel.let(step * THREADS + thread)
                with kernel.when(index < blocks):
                    _keep_better(kernel, best, best_index, bits_to_f32(tops[index * 2]), i32(tops[index * 2 + 1]))
            with T.Else():
                least = kernel.let(cut[0])
                with kernel.loop(ceil_div(vocab, THREADS)) as step:
                    index = kernel.let(step * THREADS + thread)
                    with kernel.when(index < vocab):
                        value = kernel.let(adjusted[index])
                        with kernel.when(_order(value) >= least):
                            uniform = kernel.let(_uniform(seed, position, u32(index), kernel))
                            gumbel = f32(0.0) - T.log(_negative_log(uniform, kernel))
                            _keep_better(kernel, best, best_index, value + gumbel, index)
        values[thread], indices[thread] = best[0], best_index[0]
        kernel.barrier()
        with kernel.when(thread == 0):
            with kernel.loop(THREADS) as other:
                _keep_better(kernel, best, best_index, values[other], indices[other])
            token = kernel.let(u32(tirx.min(best_index[0], vocab - 1)))  # NaN logits are never better than none
            state[1] = token
            tokens[mod(i32(position), ring)] = token
            counts[i32(token)] = counts[i32(token)] + T.uint32(1)
            state[0] = position
    return kernel.function
