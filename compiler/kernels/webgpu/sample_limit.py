"""The second of the sampler's three kernels: the least logit that top_k, top_p and min_p leave. See `sample`.

It finds that bound BITS of an f32 at a time (its bits, with the sign folded, order as the number does). `sample.scan`
has sorted the parts of the vocabulary, so how many logits of a part, or how much mass, are above a bound is one search
in it: side by side for all bounds on trial and all parts of an invocation, as each load waits for the one before.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, Kernel, bits_to_f32, ceil_div, div, f32, f32_to_bits, i32, select, u32
from ..sampler import LOWEST

PART = 512  # logits that a workgroup of `sample.scan` sorts, a power of two
THREADS = 128
FINDERS = 16
SIGN = 0x80000000
BITS = 2  # of the bound, at a time
TRIALS = (1 << BITS) - 1


def parts(vocab: int) -> int:
    """Workgroups of `scan`."""
    return ceil_div(vocab, PART)


def order(value: Expr) -> Expr:
    """f32 -> u32 that orders alike; 0, below all, for what is not a number."""
    bits, sign = f32_to_bits(value), T.uint32(SIGN)
    folded = select(T.bitwise_and(bits, sign) != T.uint32(0), T.bitwise_xor(bits, T.uint32(0xFFFFFFFF)), bits + sign)
    return select(T.bitwise_and(bits, T.uint32(0x7FFFFFFF)) > T.uint32(0x7F800000), T.uint32(0), folded)


def _totals(kernel: Kernel, values: Sequence[Expr], thread: Expr, first: Array, second: Array) -> list[Expr]:
    """The sum of each value over the workgroup, known to every invocation."""
    slice_size = THREADS // FINDERS
    for i, value in enumerate(values):
        first[i * THREADS + thread] = value
    kernel.barrier()
    with kernel.when(thread < len(values) * FINDERS):
        part = kernel.registers()
        part[0] = f32(0.0)
        for i in range(slice_size):
            part[0] = part[0] + first[thread * slice_size + i]
        second[thread] = part[0]
    kernel.barrier()
    totals = [kernel.registers() for _ in values]
    for i, total in enumerate(totals):
        total[0] = f32(0.0)
        for finder in range(FINDERS):
            total[0] = total[0] + second[i * FINDERS + finder]
    return [total[0] for total in totals]


class _Limit:
    """`limit` under construction: of each of an invocation's own parts, how many logits are above the bound."""

    def __init__(self, kernel: Kernel, thread: Expr, count: int, keys: Array, masses: Array) -> None:
        self.kernel, self.thread, self.keys, self.masses = kernel, thread, keys, masses
        self.own = range(ceil_div(count, THREADS))
        parts = [kernel.let(thread + i * THREADS) for i in self.own]
        self.real = [part < count for part in parts]  # a part beyond the last one holds nothing
        self.parts = [kernel.let(tirx.min(part, count - 1)) for part in parts]
        # Of the parts, how many at least and at most; and of each bound on trial.
        self.lows, self.highs = (kernel.registers(len(self.own), "int32") for _ in range(2))
        self.tried = [kernel.registers(len(self.own), "int32") for _ in range(TRIALS)]
        self.shrinks = kernel.registers(len(self.own))
        self.first, self.second = kernel.shared(TRIALS * THREADS), kernel.shared(TRIALS * FINDERS)

    def largest(self, tops: Array) -> Expr:
        """The largest logit; each part's masses are from then on relative to it."""
        kernel, best = self.kernel, self.kernel.registers()
        best[0] = f32(LOWEST)
        for part in self.parts:
            best[0] = tirx.max(best[0], bits_to_f32(tops[part * 2]))
        self.first[self.thread] = best[0]
        kernel.barrier()
        with kernel.when(self.thread < FINDERS):
            for i in range(1, THREADS // FINDERS):
                best[0] = tirx.max(best[0], self.first[self.thread + i * FINDERS])
            self.second[self.thread] = best[0]
        kernel.barrier()
        for finder in range(FINDERS):
            best[0] = tirx.max(best[0], self.second[finder])
        for i, part in enumerate(self.parts):
            self.shrinks[i] = T.exp(bits_to_f32(tops[part * 2]) - best[0])
            self.highs[i] = select(self.real[i], i32(PART), i32(0))
        return best[0]

    def count(self, held: Array) -> Expr:
        """How many logits these places of the own parts hold."""
        return f32(functools.reduce(operator.add, [held[i] for i in self.own]))

    def mass(self, held: Array) -> Expr:
        """The probability mass up to these places of the own parts, that of the largest logit being 1."""
        total = self.kernel.registers()
        total[0] = f32(0.0)
        for i in self.own:
            place = self.parts[i] * PART + tirx.max(held[i] - 1, 0)
            mass = self.kernel.let(self.masses[place] * self.shrinks[i])
            total[0] = total[0] + select(held[i] > 0, mass, f32(0.0))
        return total[0]

    def totals(self, values: Sequence[Expr]) -> list[Expr]:
        return _totals(self.kernel, values, self.thread, self.first, self.second)

    def descend(self, bound: Array, weigh: Expr, target: Expr) -> None:
        """Raise `bound` from 0 to the highest order whose mass (with `weigh`) or count still reaches `target`.

        BITS of it at a time, so that as many loads are under way at once as there are bounds and own parts. `highs` are
        then of the bound.
        """
        kernel, value = self.kernel, [self.kernel.registers() for _ in range(TRIALS)]
        for i in self.own:
            self.lows[i] = i32(0)
        with kernel.loop(32 // BITS) as step:
            shift = kernel.let(u32(32 - BITS - step * BITS))
            self._search([kernel.let(bound[0] + T.shift_left(T.uint32(d + 1), shift)) for d in range(TRIALS)])
            for held, register in zip(self.tried, value, strict=True):
                register[0] = self.count(held)
            with kernel.when(weigh):
                for held, register in zip(self.tried, value, strict=True):
                    register[0] = self.mass(held)
            totals = self.totals([register[0] for register in value])
            digit = kernel.registers(1, "int32")
            digit[0] = i32(0)
            # By bisection, as rounding may leave a mass that grows with the bound.
            with kernel.when(totals[1] >= target):
                digit[0] = i32(2)
            with kernel.when(select(digit[0] == 2, totals[2], totals[0]) >= target):
                digit[0] = digit[0] + 1
            for i in self.own:
                for d, held in enumerate(self.tried, 1):
                    self.highs[i] = select(digit[0] == d, held[i], self.highs[i])
                    self.lows[i] = select(digit[0] == d - 1, held[i], self.lows[i])
            bound[0] = bound[0] + T.shift_left(u32(digit[0]), shift)

    def _search(self, bounds: Sequence[Expr]) -> None:
        """`tried`: how many keys of each own part are at least each bound, from `lows` to `highs` of them."""
        kernel, left = self.kernel, self.kernel.registers(len(self.own), "int32")
        for i in self.own:
            left[i] = self.highs[i] - self.lows[i]
            for held in self.tried:
                held[i] = self.lows[i]
        with kernel.loop(PART.bit_length()), kernel.when(functools.reduce(tirx.max, [left[i] for i in self.own]) > 0):
            halves = [kernel.let(div(left[i] + 1, 2)) for i in self.own]
            # All loads of a round before what follows from them. Where nothing is left, any key will do.
            found = [
                [
                    kernel.let(self.keys[self.parts[i] * PART + tirx.max(held[i] + halves[i] - 1, 0)])
                    for held in self.tried
                ]
                for i in self.own
            ]
            for i, half in enumerate(halves):
                for key, held, bound in zip(found[i], self.tried, bounds, strict=True):
                    held[i] = select(key >= bound, held[i] + half, held[i])
                left[i] = left[i] - half


def limit(name: str, vocab: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: tops, keys, masses, state, cut (`order` of the least logit that may be drawn, `[1]`; 0 for all)."""
    count = parts(vocab)
    with Kernel(name) as kernel:
        tops = kernel.buffer("tops", count * 2, "uint32")
        keys = kernel.buffer("keys", count * PART, "uint32")
        masses = kernel.buffer("masses", count * PART, "float32")
        state = kernel.buffer("state", state_words, "uint32")
        cut = kernel.buffer("cut", 1, "uint32")
        kernel.grid(1)
        thread = kernel.threads(THREADS)
        top_k, top_p, min_p = (
            kernel.let(i32(state[5])),
            kernel.let(bits_to_f32(state[6])),
            kernel.let(bits_to_f32(state[7])),
        )
        search = _Limit(kernel, thread, count, keys, masses)
        with kernel.when(bits_to_f32(state[4]) > f32(0.0)):
            largest = search.largest(tops)
            least, target = kernel.registers(1, "uint32"), kernel.registers()
            least[0] = T.uint32(0)
            with kernel.loop(2) as turn:  # top_k, then top_p of what it leaves: one text
                weigh = turn > 0
                asked = select(weigh, top_p < f32(1.0), tirx.And(top_k > 0, top_k < vocab))
                with kernel.when(asked):
                    target[0] = f32(top_k)
                    with kernel.when(weigh):
                        target[0] = search.totals([search.mass(search.highs)])[0] * top_p
                    bound = kernel.registers(1, "uint32")
                    bound[0] = T.uint32(0)
                    search.descend(bound, weigh, target[0])
                    least[0] = tirx.max(least[0], bound[0])
            with kernel.when(min_p > f32(0.0)):
                least[0] = tirx.max(least[0], order(kernel.let(largest + T.log(min_p))))
            with kernel.when(thread == 0):
                cut[0] = tirx.min(least[0], order(largest))
    return kernel.function
