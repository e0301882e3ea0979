"""Attention by quads, four neighbouring invocations: what decode's and prefill's kernels have in common.

A quad holds `rows` queries that read the same keys and walks `keys` of those at a time. Each member has a quarter of
a head's dimensions, in loads that are four apart, so that the quad reads 64 consecutive bytes of a key or value at a
time, once for all its queries. A step is partial scores, their sum over the quad, the online softmax in f32 (Milakov
and Gimelshein, arXiv:1805.02867), and each member's quarter of the values. Where the device has subgroups, the quad
sums and shares by quad operations, of any size of subgroup: no workgroup memory and no barrier. Elsewhere partial
scores go through workgroup memory, with two barriers a step. Which queries and keys those are, it does not know.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..builder import Array, Expr, Kernel, call, ceil_div, dot, f32, lane, mod, select, u32
from ..cache import Cache, CacheReader, Heads

QUAD = 4
LOWEST = -1.0e30  # stands for minus infinity without making NaN


@dataclass(frozen=True)
class Loads:
    """What is under way together, each in registers of its own."""

    least: int = 16  # loads of keys, and of values
    most: int = 24  # where those of values go with those of keys


LOADS = Loads()


def wide(heads: Heads) -> bool:
    """f16 are loaded by eights where that leaves no member of a quad without a load."""
    return heads.size % (8 * QUAD) == 0


def held_vectors(cache: Cache) -> int:
    """`vec4`s of a head in an invocation."""
    vectors = cache.vectors(wide(cache.heads))
    return ceil_div(cache.heads.size, 4 * vectors * QUAD) * vectors


class Quads(ABC):
    """A kernel under construction. `bind` first, then `start`, `step` for every `keys` keys, and what is left of it."""

    under_way = LOADS

    def __init__(self, kernel: Kernel, rows: int, keys: int, stride: int, subgroups: bool) -> None:
        """Row j's keys of a step are those at its base, base + `stride`, ...; `keys` is a multiple of 4."""
        self.kernel, self.rows, self.keys, self.stride, self.subgroups = kernel, rows, keys, stride, subgroups
        self.exchange: Array | None = None  # workgroup memory: a `vec4` for every four keys, row and invocation

    def bind(self, cache: CacheReader, thread: Expr, threads: int) -> None:
        """The cache's loads are dealt out to the members of a quad."""
        kernel = self.kernel
        self.cache, self.thread, self.threads = cache, thread, threads
        self.loads, self.vectors = cache.loads, cache.vectors
        self.parts = ceil_div(self.loads, QUAD)  # loads of a head in an invocation
        self.held = self.parts * self.vectors  # and `vec4`s
        self.member = kernel.let(mod(thread, QUAD))
        self.sums = kernel.registers(self.rows * self.held, "float32x4")
        self.tops, self.totals = kernel.registers(self.rows), kernel.registers(self.rows)

    @property
    def exchanged(self) -> int:
        """`vec4`s of `exchange`."""
        return self.keys // QUAD * self.rows * self.threads

    @abstractmethod
    def query_of(self, j: int, part: int, v: int) -> Expr:
        """Row j's `vec4` that meets the `v`-th of this member's `part`-th load, scaled; 0 where there is no such."""

    @abstractmethod
    def masked(self, score: Expr, key: Expr, j: int) -> Expr:
        """The score where row j sees the key; else lower than LOWEST, so that its exponential is always 0."""

    def start(self, kv_head: Expr) -> None:
        """Nothing seen yet, of the keys of `kv_head`."""
        kernel = self.kernel
        self.kv_head = kv_head
        if self.cache.cache.bytes:
            self.behind = kernel.let(self.cache.scales_behind(kv_head))
        self.places = [kernel.let(self._place(part)) for part in range(self.parts)]
        for j in range(self.rows):
            self.tops[j], self.totals[j] = f32(LOWEST), f32(0.0)
        for i in range(self.rows * self.held):
            self.sums[i] = T.broadcast(f32(0.0), 4)

    def step(self, base: Expr, keys: list[Expr], values: int) -> None:
        """Add keys: the first is the position `base`, and `keys` are their heads' first loads, of a key that exists.

        Its value is `values` loads behind each.
        """
        kernel = self.kernel
        # Values are loaded with the keys, as far as registers go: half as many waits for memory.
        early = 2 * len(keys) * self.parts <= self.under_way.most
        column = max(1, self.under_way.least // self.parts)  # keys whose values are under way together
        batches = [keys[k : k + column] for k in range(0, len(keys), column)]

        def fetch(batch: list[Expr]) -> list[list[Expr]]:
            return [[self.cache.fetch(key + values + place) for place in self.places] for key in batch]

        partial = [[kernel.registers() for _ in keys] for _ in range(self.rows)]
        size = len(self.places) if early else max(1, self.under_way.least // len(keys))
        first_loads = [[self.cache.fetch(key + place) for key in keys] for place in self.places[:size]]
        value_loads = [fetch(batch) for batch in batches if early]
        self._add_scores(partial, 0, first_loads)
        for part in range(size, self.parts, size):
            loads = [[self.cache.fetch(key + place) for key in keys] for place in self.places[part : part + size]]
            self._add_scores(partial, part, loads)
        scales = self._scales(keys) if self.cache.cache.bytes else None
        scores = [[register[0] for register in registers] for registers in partial]
        of_keys = None if scales is None else [key for key, _ in scales]
        if self.exchange is None:
            weights = self._softmax(self._scores_of_quad(scores, base, of_keys))
        else:
            weights = self._softmax(self._scores_of_workgroup(scores, base, self.exchange, of_keys))
        if scales is not None:  # values are parts of theirs
            pairs = [(row, [value for _, value in scales]) for row in weights]
            weights = [[self.kernel.let(w * value) for w, value in zip(row, of, strict=True)] for row, of in pairs]
        for b, batch in enumerate(batches):
            for k, loads in enumerate(value_loads[b] if early else fetch(batch), b * column):
                self._add_values(loads, [self._weight(weights[j], k) for j in range(self.rows)])

    def whole(self, part: int) -> bool:
        """Every invocation of a quad has a `part`-th load."""
        return (part + 1) * QUAD <= self.loads

    def has(self, part: int) -> Expr:
        """This invocation has a `part`-th load."""
        return True if self.whole(part) else self.member < self.loads - part * QUAD

    def total_of_quad(self, j: int) -> Expr:
        """Row j's sum of exponentials."""
        total = self.totals[j]
        if self.subgroups:  # each member has summed its own keys' weights
            for swap in ("quadSwapX", "quadSwapY"):
                total = self.kernel.let(total + call("float32", swap, total))
        return total

    def _place(self, part: int) -> Expr:
        """Which load of a head is this invocation's `part`-th; clamped to one that exists."""
        place = self.member + part * QUAD
        return place if self.whole(part) else tirx.min(place, self.loads - 1)

    def _add_scores(self, partial: list[list[Array]], first: int, loads: list[list[Expr]]) -> None:
        """[row][key]: the inner products over the dimensions of some loads, [part][key], the first of them `first`."""
        for part, loaded in enumerate(loads, first):
            columns = [self.cache.unpack(load) for load in loaded]
            for j, registers in enumerate(partial):
                asked = [self.query_of(j, part, v) for v in range(self.vectors)]
                for register, column in zip(registers, columns, strict=True):
                    for v, vector in enumerate(column):
                        product = dot(asked[v], vector)
                        register[0] = product if part == v == 0 else register[0] + product

    def _scales(self, keys: list[Expr]) -> list[tuple[Expr, Expr]]:
        """Of keys and their values: of every four the member's own, where quads have operations, else of each."""
        places = keys
        if self.exchange is None:
            places = []
            for group in range(0, len(keys), QUAD):
                place = keys[group + 3]
                for i in (2, 1, 0):
                    place = select(self.member == i, keys[group + i], place)
                places.append(self.kernel.let(place))
        fetched = [self.cache.fetch(place + self.behind) for place in places]
        return [self.cache.scales(value, self.kv_head) for value in fetched]

    def _weight(self, weights: list[Expr], k: int) -> Expr:
        """That of a step's key k, of a row's weights."""
        if self.exchange is not None:
            return weights[k]
        return self.kernel.let(call("float32", "quadBroadcast", weights[k // QUAD], u32(k % QUAD)))

    def _add_values(self, loads: list[Expr], weights: list[Expr]) -> None:
        """A key's value, to each row's sums by its weight."""
        column = [vector for load in loads for vector in self.cache.unpack(load)]
        for j, weight in enumerate(weights):
            for i, value in enumerate(column, j * self.held):
                self.sums[i] = self.sums[i] + value * T.broadcast(weight, 4)

    def _scores_of_quad(self, partial: list[list[Expr]], base: Expr, scales: list[Expr] | None) -> list[list[Expr]]:
        """[row][group]: of every four keys, the member's own."""
        groups = range(0, self.keys, QUAD)
        odd = self.kernel.let(mod(self.member, 2))
        keys = [self.kernel.let(base + (group + self.member) * self.stride) for group in groups]
        return [
            [
                self.masked(_times(self._sum_of_quad(row[group : group + QUAD], odd), scales, g), key, j)
                for g, (group, key) in enumerate(zip(groups, keys, strict=True))
            ]
            for j, row in enumerate(partial)
        ]

    def _sum_of_quad(self, s: list[Expr], odd: Expr) -> Expr:
        """Member m gets the quad's sum of `s[m]`: a transposition in two exchanges."""
        kernel = self.kernel
        pairs = []
        for low, high in ((s[0], s[1]), (s[2], s[3])):
            kept, given = (kernel.let(select(odd == 1, a, b)) for a, b in ((high, low), (low, high)))
            pairs.append(kernel.let(kept + call("float32", "quadSwapX", given)))
        low, high = pairs
        kept, given = (kernel.let(select(self.member >= 2, a, b)) for a, b in ((high, low), (low, high)))
        return kernel.let(kept + call("float32", "quadSwapY", given))

    def _scores_of_workgroup(
        self, partial: list[list[Expr]], base: Expr, exchange: Array, scales: list[Expr] | None
    ) -> list[list[Expr]]:
        """[row][key], the same in every member of a quad."""
        kernel, groups = self.kernel, self.keys // QUAD
        for i in range(self.rows * groups):
            j, group = divmod(i, groups)
            four = partial[j][group * QUAD : (group + 1) * QUAD]
            exchange[i * self.threads + self.thread] = tirx.Shuffle(four, list(range(QUAD)))
        kernel.barrier()
        first = kernel.let(self.thread - self.member)
        sums = []
        for i in range(self.rows * groups):
            total = exchange[i * self.threads + first]
            for member in range(1, QUAD):
                total = total + exchange[i * self.threads + first + member]
            sums.append(kernel.let(total))
        kernel.barrier()
        return [
            [
                self.masked(_times(lane(sums[j * groups + k // QUAD], k % QUAD), scales, k), base + k * self.stride, j)
                for k in range(self.keys)
            ]
            for j in range(self.rows)
        ]

    def _softmax(self, scores: list[list[Expr]]) -> list[list[Expr]]:
        """The scores' weights, relative to the running maximum; what was summed up so far is made relative to it."""
        kernel = self.kernel
        weights = []
        for j, row in enumerate(scores):
            most = functools.reduce(tirx.max, row)
            if self.subgroups:
                for swap in ("quadSwapX", "quadSwapY"):
                    most = kernel.let(most)
                    most = tirx.max(most, call("float32", swap, most))
            most = kernel.let(tirx.max(most, self.tops[j]))
            shrink = kernel.let(T.exp(self.tops[j] - most))
            self.tops[j] = most
            for i in range(j * self.held, (j + 1) * self.held):
                self.sums[i] = self.sums[i] * T.broadcast(shrink, 4)
            weights.append([kernel.let(T.exp(score - most)) for score in row])
            self.totals[j] = functools.reduce(operator.add, weights[j], self.totals[j] * shrink)
        return weights


def _times(score: Expr, scales: list[Expr] | None, i: int) -> Expr:
    """A score of a key that is in parts of its scale."""
    return score if scales is None else score * scales[i]
