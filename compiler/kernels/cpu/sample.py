"""Sampling on the CPU: three kernels as in `kernels.webgpu.sample`, with its results by other ways.

`scan` runs on blocks, the others are one item each and make few passes over the logits, four at a time. `limit` finds
the least logit that top_k and top_p leave by a radix descent: it adds up how many logits (or how much probability) fall
to each value of the upper 11 bits, finds the value where the sum from above reaches the target, then does the same for
the next 11 bits and the last 10 of the logits there. `draw` computes Gumbel values only where they could still win. The
numpy twin is `reference.sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import add, mul

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import (
    Array,
    Expr,
    Kernel,
    bits_to_f32,
    ceil_div,
    div,
    f32,
    f32_to_bits,
    i32,
    lane,
    mod,
    select,
    u32,
)
from ..sampler import LOWEST, Sampler, Shapes
from .builder import (
    CpuKernel,
    any_lane,
    constant,
    convert,
    exp,
    load,
    log,
    retype,
    splat,
    store,
    wrapping,
)

BLOCK = 1024  # logits an item of `scan` reads
LEVELS = ((21, 11), (10, 11), (0, 10))  # of the descent: lowest bit and number of bits
MOST_GUMBEL = 16.75  # a little more than -log(-log(1 - 2^-24))


def scan_blocks(vocab: int) -> int:
    """Items of `scan`."""
    return ceil_div(vocab, BLOCK)


def scanned(vocab: int) -> Shapes:
    """What `scan` writes: adjusted, tops."""
    return [((vocab,), "float32"), ((scan_blocks(vocab), 2), "uint32")]


def scan(name: str, vocab: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: logits, counts, state, adjusted (f32 `[vocab]`), tops (f32 bits and index, `[blocks, 2]`)."""
    with CpuKernel(name) as kernel:
        logits = kernel.buffer("logits", vocab, "float32")
        counts = kernel.buffer("counts", vocab, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        adjusted = kernel.buffer("adjusted", vocab, "float32")
        tops = kernel.buffer("tops", scan_blocks(vocab) * 2, "uint32")
        block, _ = kernel.grid(scan_blocks(vocab))
        temperature, repetition, presence, frequency = (kernel.let(bits_to_f32(state[word])) for word in (4, 8, 9, 10))
        penalized = tirx.Or(repetition != f32(1.0), tirx.Or(presence != f32(0.0), frequency != f32(0.0)))
        heat = kernel.let(select(temperature > f32(0.0), temperature, f32(1.0)))
        first = kernel.let(block * BLOCK)
        count = kernel.let(tirx.min(vocab - first, BLOCK))

        def adjust(value: Expr, times: Expr) -> Expr:
            """Penalties of a logit that stands in the counts `times`."""
            repeated, there, often, heavy = (spread(v, value) for v in (repetition, presence, frequency, heat))
            if times is not None:
                zero = constant(0.0, "float32", value)
                seen = select(value > zero, value / repeated, value * repeated)
                value = kernel.let(select(times != constant(0, "uint32", times), seen, value))
                generated = T.bitwise_and(times, constant(0x7FFFFFFF, "uint32", times))
                generated = kernel.let(retype(generated, "int32"))
                less = value - (there + often * convert(generated, "float32"))
                value = kernel.let(select(generated > constant(0, "int32", generated), less, value))
            return kernel.let(value / heavy)

        def walk(penalizes: bool) -> None:
            best = _Best(kernel, 4, 0)
            with kernel.loop(div(count, 4)) as step:
                index = kernel.let(first + step * 4)
                times = kernel.let(load(counts, index, 4)) if penalizes else None
                value = adjust(kernel.let(load(logits, index, 4)), times)
                store(adjusted, index, value)
                best.offer(value, T.ramp(index, 1, 4))
            top, top_index = best.lowest_of_largest()
            with kernel.loop(mod(count, 4)) as step:
                index = kernel.let(first + div(count, 4) * 4 + step)
                value = adjust(kernel.let(logits[index]), kernel.let(counts[index]) if penalizes else None)
                adjusted[index] = value
                with kernel.when(value > top[0]):
                    top[0], top_index[0] = value, index
            tops[block * 2], tops[block * 2 + 1] = f32_to_bits(top[0]), u32(top_index[0])

        with T.If(penalized):
            with T.Then():
                walk(penalizes=True)
            with T.Else():
                walk(penalizes=False)
    return kernel.function


def spread(scalar: Expr, like: Expr) -> Expr:
    """A scalar in as many lanes as `like` has."""
    lanes = str(like.ty.dtype).partition("x")[2]
    return splat(scalar, int(lanes)) if lanes else scalar


class _Best:
    """The largest value so far of each lane and its index, which must come in ascending order."""

    def __init__(self, kernel: Kernel, lanes: int, none: int) -> None:
        self._kernel, self._lanes = kernel, lanes
        self.values, self._indices = kernel.registers(1, f"float32x{lanes}"), kernel.registers(1, f"int32x{lanes}")
        self.values[0], self._indices[0] = splat(f32(LOWEST), lanes), splat(i32(none), lanes)

    def offer(self, value: Expr, index: Expr) -> None:
        better = value > self.values[0]
        self._indices[0] = select(better, index, self._indices[0])
        self.values[0] = select(better, value, self.values[0])

    def lowest_of_largest(self) -> tuple[Array, Array]:
        """The largest of the lanes; among equals, the lowest index."""
        value, index = self._kernel.registers(), self._kernel.registers(1, "int32")
        value[0], index[0] = lane(self.values[0], 0), lane(self._indices[0], 0)
        for i in range(1, self._lanes):
            _keep_better(self._kernel, value, index, lane(self.values[0], i), lane(self._indices[0], i))
        return value, index


def _keep_better(kernel: Kernel, best: Array, best_index: Array, value: Expr, index: Expr) -> None:
    """Keep the larger of two candidates; among equals, the lower id."""
    value, index = kernel.let(value), kernel.let(index)
    with kernel.when(tirx.Or(value > best[0], tirx.And(value == best[0], index < best_index[0]))):
        best[0], best_index[0] = value, index


def _order(value: Expr) -> Expr:
    """f32 -> u32 that orders alike; scalars and vectors."""
    bits = retype(value, "int32")
    sign = T.shift_right(bits, constant(31, "int32", bits))
    return retype(T.bitwise_xor(bits, T.bitwise_or(sign, constant(-(2**31), "int32", bits))), "uint32")


def _each_four(
    kernel: Kernel, adjusted: Array, vocab: int, least: Expr, visit: Callable[[Expr, Expr, Expr], None]
) -> None:
    """Call `visit(value, order, admitted)` where one of four logits has at least the order `least`.

    `admitted` is a mask. The last four may lie beyond the end, where a kernel may read.
    """
    with kernel.loop(ceil_div(vocab, 4)) as step:
        index = kernel.let(step * 4)
        value = kernel.let(load(adjusted, index, 4))
        order = kernel.let(_order(value))
        yes, no = constant(-1, "int32", value), constant(0, "int32", value)
        admitted = select(order >= splat(least), yes, no)
        if vocab % 4:
            admitted = select(T.ramp(index, 1, 4) < splat(i32(vocab)), admitted, no)
        admitted = kernel.let(admitted)
        with kernel.when(any_lane(admitted)):
            visit(value, order, admitted)


def limit(name: str, vocab: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: adjusted, tops, state, cut (f32 bits of the least logit that may be drawn, `[1]`)."""
    with CpuKernel(name) as kernel:
        adjusted = kernel.buffer("adjusted", vocab, "float32")
        tops = kernel.buffer("tops", scan_blocks(vocab) * 2, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        cut = kernel.buffer("cut", 1, "uint32")
        kernel.grid(1)
        top_k, top_p, min_p = (
            kernel.let(i32(state[5])),
            kernel.let(bits_to_f32(state[6])),
            kernel.let(bits_to_f32(state[7])),
        )
        bins = kernel.scratch(1 << LEVELS[0][1], "float64")
        with kernel.when(bits_to_f32(state[4]) > f32(0.0)):
            largest = kernel.registers()
            largest[0] = f32(LOWEST)
            with kernel.loop(scan_blocks(vocab)) as block:
                largest[0] = tirx.max(largest[0], bits_to_f32(tops[block * 2]))
            least = kernel.registers(1, "uint32")
            least[0] = T.uint32(0)

            def one(value: Expr) -> Expr:
                return constant(1.0, "float32", value)

            def odds(value: Expr) -> Expr:
                """Probability, that of the largest being 1."""
                return exp(kernel, value - splat(largest[0]))

            with kernel.when(tirx.And(top_k > 0, top_k < vocab)):
                count = kernel.let(T.cast(top_k, "float64"))
                least[0] = _descend(kernel, adjusted, vocab, bins, T.uint32(0), one, lambda _: count)
            with kernel.when(top_p < f32(1.0)):
                share = kernel.let(T.cast(top_p, "float64"))
                narrowed = _descend(kernel, adjusted, vocab, bins, least[0], odds, lambda whole: whole * share)
                least[0] = tirx.max(least[0], narrowed)
            with kernel.when(min_p > f32(0.0)):
                least[0] = tirx.max(least[0], _order(kernel.let(largest[0] + log(kernel, min_p))))
            cut[0] = tirx.min(least[0], _order(largest[0]))
    return kernel.function


def _descend(
    kernel: CpuKernel,
    adjusted: Array,
    vocab: int,
    bins: Array,
    least: Expr,
    measure: Callable[[Expr], Expr],
    target_of: Callable[[Expr], Expr],
) -> Expr:
    """The highest order whose logits, with all above, still measure `target_of(whole measure)`.

    Only logits with an order of at least `least` count. 0 when all of them do not reach the target.
    """
    found = kernel.registers(1, "uint32")
    above, target = kernel.registers(1, "float64"), kernel.registers(1, "float64")
    found[0], above[0] = T.uint32(0), T.float64(0.0)
    least = kernel.let(least)
    for level, (low, bits) in enumerate(LEVELS):
        size = 1 << bits
        with kernel.loop(size) as i:
            bins[i] = T.float64(0.0)
        upper = low + bits

        def visit(
            value: Expr, order: Expr, admitted: Expr, low: int = low, size: int = size, upper: int = upper
        ) -> None:
            def add_up(admitted: Expr) -> None:
                kept = select(admitted != constant(0, "int32", value), measure(value), constant(0.0, "float32", value))
                kept = kernel.let(kept)
                place = T.shift_right(order, constant(low, "uint32", order))
                place = kernel.let(retype(T.bitwise_and(place, constant(size - 1, "uint32", order)), "int32"))
                for i in range(4):
                    at = kernel.let(lane(place, i))
                    bins[at] = bins[at] + T.cast(lane(kept, i), "float64")

            if upper == 32:
                add_up(admitted)
                return
            shift = constant(upper, "uint32", order)
            same = T.shift_right(order, shift) == T.shift_right(splat(found[0]), shift)
            here = kernel.let(select(same, admitted, constant(0, "int32", value)))
            with kernel.when(any_lane(here)):
                add_up(here)

        _each_four(kernel, adjusted, vocab, least, visit)
        if level == 0:
            whole = kernel.registers(1, "float64")
            whole[0] = T.float64(0.0)
            with kernel.loop(size) as i:
                whole[0] = whole[0] + bins[size - 1 - i]
            target[0] = target_of(whole[0])
        bin_found = _bin_that_reaches(kernel, bins, size, above, target)
        found[0] = T.bitwise_or(found[0], T.shift_left(u32(bin_found), T.uint32(low)))
    return found[0]


def _bin_that_reaches(kernel: CpuKernel, bins: Array, size: int, above: Array, target: Array) -> Expr:
    """The highest bin that, with all above it, reaches `target`; `above` grows by those that do not, 0 if none does."""
    reached, bin_found = kernel.registers(1, "int32"), kernel.registers(1, "int32")
    reached[0], bin_found[0] = i32(0), i32(0)
    with kernel.loop(size) as i, kernel.when(reached[0] == 0):
        here = kernel.let(size - 1 - i)
        together = kernel.let(above[0] + bins[here])
        with T.If(together >= target[0]):
            with T.Then():
                reached[0], bin_found[0] = i32(1), here
            with T.Else():
                above[0] = together
    return bin_found[0]


def _mix(kernel: Kernel, value: Expr) -> Expr:
    """A 32-bit bijection that leaves no pattern (Wellons' lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        shifted = T.shift_right(value, constant(shift, "uint32", value))
        value = kernel.let(wrapping(mul, T.bitwise_xor(value, shifted), constant(factor, "uint32", value)))
    return kernel.let(T.bitwise_xor(value, T.shift_right(value, constant(16, "uint32", value))))


def _gumbel(kernel: Kernel, stream: Expr, index: Expr) -> Expr:
    """Gumbel values of token ids (u32, any lanes): `-log(-log(u))`, u from the mixed (stream, id)."""
    place = wrapping(mul, index, constant(0x85EBCA6B, "uint32", index))
    place = wrapping(add, place, constant(0xC2B2AE35, "uint32", index))
    mixed = _mix(kernel, kernel.let(T.bitwise_xor(spread(stream, index), place)))
    upper = retype(T.shift_right(mixed, constant(9, "uint32", index)), "int32")
    half, unit = constant(0.5, "float32", index), constant(2.0**-23, "float32", index)
    uniform = kernel.let((convert(upper, "float32") + half) * unit)
    one = constant(1.0, "float32", index)
    # Near 1 a series of 1 - u, which is exact: the largest values come from there.
    rest = kernel.let(one - uniform)
    series = constant(1 / 4, "float32", index)
    for term in (1 / 3, 1 / 2, 1.0):
        series = series * rest + constant(term, "float32", index)
    zero = constant(0.0, "float32", index)
    near = rest < constant(2.0**-6, "float32", index)
    negative_log = kernel.let(select(near, rest * series, zero - log(kernel, uniform)))
    return zero - log(kernel, negative_log)


def draw(name: str, vocab: int, ring: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: adjusted, tops, cut, state, ring, counts; the last three are written."""
    with CpuKernel(name) as kernel:
        adjusted = kernel.buffer("adjusted", vocab, "float32")
        tops = kernel.buffer("tops", scan_blocks(vocab) * 2, "uint32")
        cut = kernel.buffer("cut", 1, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        tokens = kernel.buffer("ring", ring, "uint32")
        counts = kernel.buffer("counts", vocab, "uint32")
        kernel.grid(1)
        position = kernel.let(state[0] + T.uint32(1))
        best, best_index = kernel.registers(), kernel.registers(1, "int32")
        best[0], best_index[0] = f32(LOWEST), i32(vocab)
        with kernel.loop(scan_blocks(vocab)) as block:
            _keep_better(kernel, best, best_index, bits_to_f32(tops[block * 2]), i32(tops[block * 2 + 1]))
        with kernel.when(bits_to_f32(state[4]) > f32(0.0)):
            stream = _mix(kernel, kernel.let(wrapping(add, state[3], wrapping(mul, position, T.uint32(0x9E3779B9)))))
            # The score of the largest logit is to beat: most others cannot.
            bar = kernel.let(best[0] + _gumbel(kernel, stream, kernel.let(u32(best_index[0]))) - f32(MOST_GUMBEL))
            lanes = _Best(kernel, 4, vocab)
            with kernel.loop(ceil_div(vocab, 4)) as step:
                index = kernel.let(step * 4)
                value = kernel.let(load(adjusted, index, 4))
                no = constant(0, "int32", value)
                most = tirx.max(splat(bar), lanes.values[0] - splat(f32(MOST_GUMBEL)))
                hopes = select(value >= most, constant(-1, "int32", value), no)
                hopes = select(_order(value) >= splat(cut[0]), hopes, no)
                if vocab % 4:
                    hopes = select(T.ramp(index, 1, 4) < splat(i32(vocab)), hopes, no)
                hopes = kernel.let(hopes)
                with kernel.when(any_lane(hopes)):
                    ids = kernel.let(T.ramp(index, 1, 4))
                    score = value + _gumbel(kernel, stream, retype(ids, "uint32"))
                    lanes.offer(kernel.let(select(hopes != no, score, splat(f32(LOWEST)))), ids)
            value, index = lanes.lowest_of_largest()
            best_index[0] = index[0]
        token = kernel.let(u32(tirx.min(best_index[0], vocab - 1)))  # NaN logits are never better than none
        state[1] = token
        tokens[mod(i32(position), ring)] = token
        counts[i32(token)] = counts[i32(token)] + T.uint32(1)
        state[0] = position
    return kernel.function


SAMPLER = Sampler(scan, limit, draw, scanned, limit_reads=(0, 1), draw_reads=(0, 1))
