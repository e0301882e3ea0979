"""Sampling on the GPU, in three dispatches and with one pass over the logits. The rules are in `artifact/FORMAT.md`.

1. `scan`: penalties and temperature, and each part's largest (for greedy decoding that is all the work there is). Else
   every workgroup sorts its part, largest first (where something may be cut), and writes with every logit what the
   ones up to it hold together: their probability mass, and the best Gumbel score among them with its token.
2. `limit`: the least logit that top_k, top_p and min_p leave, by searches in the sorted parts (`sample_limit`). Returns
   at once when there is nothing to cut.
3. `draw`: the best score above the bound, or the largest logit; writes the token, the ring and the counts, and moves
   the position on.

`draw` is a kernel of its own because it writes the state: a barrier under a branch on a buffer that the kernel writes
is refused by WGSL's uniformity analysis. The numpy twin is `reference.sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    mod,
    select,
    u32,
)
from ..sampler import LOWEST, Sampler, Shapes
from .sample_limit import PART, SIGN, THREADS, limit, order, parts

SCAN_THREADS = 64
SLICE = 8  # invocations that one looks through for the best


def scanned(vocab: int) -> Shapes:
    """What `scan` writes: tops, keys, masses, scores, tokens (its bindings say what they are)."""
    whole = (parts(vocab) * PART,)
    return [((parts(vocab), 2), "uint32"), (whole, "uint32"), (whole, "float32"), (whole, "float32"), (whole, "uint32")]


def scan(name: str, vocab: int, state_words: int) -> tirx.PrimFunc:
    """Bindings: logits, counts, state; tops (f32 bits and index, `[parts, 2]`) and, unless decoding is greedy, for each
    place of the sorted parts (`[parts x PART]`): keys (`order` of the logit, 0 where there is none), masses (of
    the part up to here, its largest = 1), scores and tokens (the best up to here).
    """
    count = parts(vocab)
    with Kernel(name) as kernel:
        logits = kernel.buffer("logits", vocab, "float32")
        counts = kernel.buffer("counts", vocab, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        tops = kernel.buffer("tops", count * 2, "uint32")
        keys, masses, scores, tokens = (
            kernel.buffer(label, count * PART, dtype)
            for label, dtype in (("keys", "uint32"), ("masses", "float32"), ("scores", "float32"), ("tokens", "uint32"))
        )
        part, _ = kernel.grid(count)
        thread = kernel.threads(SCAN_THREADS)
        meeting = _Running(*(kernel.shared(SCAN_THREADS, dtype) for dtype in _Running.DTYPES))
        held_keys, held_tokens = kernel.shared(PART, "uint32"), kernel.shared(PART, "int32")
        best, best_index = kernel.registers(), kernel.registers(1, "int32")
        best[0], best_index[0] = f32(LOWEST), i32(0)
        adjust = _penalties(kernel, state, counts)
        with kernel.loop(PART // SCAN_THREADS) as step:
            place = kernel.let(step * SCAN_THREADS + thread)
            index = kernel.let(part * PART + place)
            held_keys[place], held_tokens[place] = T.uint32(0), index
            with kernel.when(index < vocab):
                value = adjust(logits[index], index)
                held_keys[place] = order(value)
                with kernel.when(value > best[0]):
                    best[0], best_index[0] = value, index
        _best_of_workgroup(kernel, thread, SCAN_THREADS, best, best_index, (meeting.scores, meeting.tokens))
        with kernel.when(thread == 0):
            tops[part * 2], tops[part * 2 + 1] = f32_to_bits(best[0]), u32(best_index[0])
            meeting.masses[0] = best[0]
        with kernel.when(bits_to_f32(state[4]) > f32(0.0)):
            kernel.barrier()
            largest = kernel.let(meeting.masses[0])
            with kernel.when(_cuts(state, vocab)):
                _sort(kernel, thread, held_keys, held_tokens)
            kernel.barrier()
            running = _accumulate(kernel, state, thread, largest, (held_keys, held_tokens), meeting)
            with kernel.loop(PART // SCAN_THREADS) as step:
                place = kernel.let(step * SCAN_THREADS + thread)
                at = kernel.let(part * PART + place)
                keys[at], masses[at] = held_keys[place], running.masses[place]
                scores[at], tokens[at] = running.scores[place], u32(running.tokens[place])
    return kernel.function


@dataclass(frozen=True)
class _Running:
    """Workgroup memory: probability mass up to a place, the best score up to there, its token."""

    masses: Array
    scores: Array
    tokens: Array

    DTYPES = ("float32", "float32", "int32")


def _cuts(state: Array, vocab: int) -> Expr:
    """Whether top_k, top_p or min_p may leave less than the whole vocabulary."""
    top_k = i32(state[5])
    return tirx.Or(
        tirx.And(top_k > 0, top_k < vocab),
        tirx.Or(bits_to_f32(state[6]) < f32(1.0), bits_to_f32(state[7]) > f32(0.0)),
    )


def _penalties(kernel: Kernel, state: Array, counts: Array) -> Callable[[Expr, Expr], Expr]:
    """Of (logit, token): the logit with penalties, over the temperature."""
    temperature, repetition, presence, frequency = (kernel.let(bits_to_f32(state[word])) for word in (4, 8, 9, 10))
    penalized = tirx.Or(repetition != f32(1.0), tirx.Or(presence != f32(0.0), frequency != f32(0.0)))
    heat = kernel.let(select(temperature > f32(0.0), temperature, f32(1.0)))

    def adjust(logit: Expr, token: Expr) -> Expr:
        value = kernel.registers()
        value[0] = logit
        with kernel.when(penalized):
            count = kernel.let(counts[token])
            with kernel.when(count != T.uint32(0)):
                value[0] = select(value[0] > f32(0.0), value[0] / repetition, value[0] * repetition)
            generated = kernel.let(T.bitwise_and(count, T.uint32(0x7FFFFFFF)))
            with kernel.when(generated > T.uint32(0)):
                value[0] = value[0] - (presence + frequency * f32(generated))
        value[0] = value[0] / heat
        return value[0]

    return adjust


def _sort(kernel: Kernel, thread: Expr, keys: Array, tokens: Array) -> None:
    """Sorts a part by its keys, largest first: a bitonic network (Batcher, 1968).

    Loops, not unrolled: SwiftShader takes minutes to compile what a part's places are in registers.
    """
    run, stride = kernel.registers(1, "int32"), kernel.registers(1, "int32")
    run[0], stride[0] = i32(2), i32(1)
    levels = PART.bit_length() - 1
    with kernel.loop(levels * (levels + 1) // 2):
        with kernel.loop(PART // 2 // SCAN_THREADS) as step:
            pair = kernel.let(step * SCAN_THREADS + thread)
            low = kernel.let(pair * 2 - T.bitwise_and(pair, stride[0] - 1))
            high = kernel.let(low + stride[0])
            first, second = kernel.let(keys[low]), kernel.let(keys[high])
            with kernel.when(select(T.bitwise_and(low, run[0]) == 0, first < second, first > second)):
                token = kernel.let(tokens[low])
                keys[low], keys[high] = second, first
                tokens[low] = tokens[high]
                tokens[high] = token
        stride[0] = div(stride[0], 2)
        with kernel.when(stride[0] == 0):
            stride[0] = run[0]
            run[0] = run[0] * 2
        kernel.barrier()


def _accumulate(
    kernel: Kernel, state: Array, thread: Expr, largest: Expr, held: tuple[Array, Array], meeting: _Running
) -> _Running:
    """What each place of a part holds together with all before it.

    First of an invocation's own places, side by side, then of all invocations before it (in steps that double, Hillis
    and Steele, 1986). Begins after a barrier and ends with one.
    """
    keys, tokens = held
    running = _Running(*(kernel.shared(PART, dtype) for dtype in _Running.DTYPES))
    own = PART // SCAN_THREADS
    seed, position = kernel.let(state[3]), kernel.let(state[0] + T.uint32(1))
    mass, best, token = kernel.registers(), kernel.registers(), kernel.registers(1, "int32")
    mass[0], best[0], token[0] = f32(0.0), f32(LOWEST), i32(0)
    with kernel.loop(own) as step:
        place = kernel.let(thread * own + step)
        key, index = kernel.let(keys[place]), kernel.let(tokens[place])
        with kernel.when(key != T.uint32(0)):
            value = kernel.let(_value(key))
            mass[0] = mass[0] + T.exp(value - largest)
            uniform = kernel.let(_uniform(seed, position, u32(index), kernel))
            _keep_better(kernel, best, token, value - T.log(_negative_log(uniform, kernel)), index)
        running.masses[place], running.scores[place], running.tokens[place] = mass[0], best[0], token[0]
    for level in range(SCAN_THREADS.bit_length() - 1):
        meeting.masses[thread], meeting.scores[thread], meeting.tokens[thread] = mass[0], best[0], token[0]
        kernel.barrier()
        with kernel.when(thread >= 1 << level):
            other = kernel.let(thread - (1 << level))
            mass[0] = mass[0] + meeting.masses[other]
            _keep_better(kernel, best, token, meeting.scores[other], meeting.tokens[other])
        kernel.barrier()
    meeting.masses[thread], meeting.scores[thread], meeting.tokens[thread] = mass[0], best[0], token[0]
    kernel.barrier()
    with kernel.when(thread > 0):
        before = kernel.let(tirx.max(thread - 1, 0))
        mass[0], best[0], token[0] = meeting.masses[before], meeting.scores[before], meeting.tokens[before]
        with kernel.loop(own) as step:
            place = kernel.let(thread * own + step)
            running.masses[place] = running.masses[place] + mass[0]
            score, index = kernel.let(running.scores[place]), kernel.let(running.tokens[place])
            with kernel.when(best[0] > score):
                running.scores[place], running.tokens[place] = best[0], token[0]
            with kernel.when(tirx.And(best[0] == score, token[0] < index)):
                running.tokens[place] = token[0]
    kernel.barrier()
    return running


def _keep_better(kernel: Kernel, best: Array, best_index: Array, value: Expr, index: Expr) -> None:
    """Keep the larger of two candidates; among equals, the lower id."""
    value, index = kernel.let(value), kernel.let(index)
    better = tirx.Or(value > best[0], tirx.And(value == best[0], index < best_index[0]))
    with kernel.when(better):
        best[0] = value
        best_index[0] = index


def _value(key: Expr) -> Expr:
    """The f32 of an order."""
    sign = T.uint32(SIGN)
    positive = T.bitwise_and(key, sign) != T.uint32(0)
    return bits_to_f32(select(positive, T.bitwise_xor(key, sign), T.bitwise_xor(key, T.uint32(0xFFFFFFFF))))


def _best_of_workgroup(
    kernel: Kernel, thread: Expr, count: int, best: Array, best_index: Array, meeting: tuple[Array, Array]
) -> None:
    """The best of all `count` invocations, in the first one's registers. `meeting` holds a score and token of each."""
    scores, tokens = meeting
    finders = count // SLICE
    scores[thread], tokens[thread] = best[0], best_index[0]
    kernel.barrier()
    for reader, others, stride in ((finders, SLICE, finders), (1, finders, 1)):
        with kernel.when(thread < reader):
            with kernel.loop(others - 1) as other:
                place = kernel.let((other + 1) * stride + thread)
                _keep_better(kernel, best, best_index, scores[place], tokens[place])
            scores[thread], tokens[thread] = best[0], best_index[0]
        kernel.barrier()


def _above(kernel: Kernel, keys: Array, start: Expr, least: Expr) -> Expr:
    """How many keys of the part at `start` are at least `least`."""
    ends = kernel.registers(2, "int32")
    ends[0], ends[1] = i32(0), i32(PART)
    with kernel.loop(PART.bit_length()), kernel.when(ends[0] < ends[1]):
        middle = kernel.let(div(ends[0] + ends[1], 2))
        with T.If(keys[start + middle] >= least):
            with T.Then():
                ends[0] = middle + 1
            with T.Else():
                ends[1] = middle
    return ends[0]


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
    """Bindings: tops, keys, scores, tokens, cut, state, ring, counts; the last three are written."""
    count = parts(vocab)
    with Kernel(name) as kernel:
        tops = kernel.buffer("tops", count * 2, "uint32")
        keys = kernel.buffer("keys", count * PART, "uint32")
        scores = kernel.buffer("scores", count * PART, "float32")
        tokens = kernel.buffer("tokens", count * PART, "uint32")
        cut = kernel.buffer("cut", 1, "uint32")
        state = kernel.buffer("state", state_words, "uint32")
        sampled = kernel.buffer("ring", ring, "uint32")
        counts = kernel.buffer("counts", vocab, "uint32")
        kernel.grid(1)
        thread = kernel.threads(THREADS)
        values, indices = kernel.shared(THREADS), kernel.shared(THREADS, "int32")
        greedy = kernel.let(bits_to_f32(state[4]) <= f32(0.0))
        best, best_index = kernel.registers(), kernel.registers(1, "int32")
        best[0], best_index[0] = f32(LOWEST), i32(vocab)
        with kernel.loop(ceil_div(count, THREADS)) as step:
            part = kernel.let(step * THREADS + thread)
            with kernel.when(part < count), T.If(greedy):
                with T.Then():
                    _keep_better(kernel, best, best_index, bits_to_f32(tops[part * 2]), i32(tops[part * 2 + 1]))
                with T.Else():
                    held = kernel.let(_above(kernel, keys, part * PART, cut[0]))
                    with kernel.when(held > 0):
                        last = kernel.let(part * PART + held - 1)
                        _keep_better(kernel, best, best_index, scores[last], i32(tokens[last]))
        _best_of_workgroup(kernel, thread, THREADS, best, best_index, (values, indices))
        with kernel.when(thread == 0):
            token = kernel.let(u32(tirx.min(best_index[0], vocab - 1)))  # NaN logits are never better than none
            position = kernel.let(state[0] + T.uint32(1))
            state[1] = token
            sampled[mod(i32(position), ring)] = token
            counts[i32(token)] = counts[i32(token)] + T.uint32(1)
            state[0] = position
    return kernel.function


SAMPLER = Sampler(scan, limit, draw, scanned, limit_reads=(0, 1, 2), draw_reads=(0, 1, 3, 4))
