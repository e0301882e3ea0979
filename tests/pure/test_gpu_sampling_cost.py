"""What the GPU's sampler reads of memory, counted in its WGSL: passes over the vocabulary, and waits for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from tvm import tirx

from compiler.kernels.builder import ceil_div
from compiler.kernels.webgpu import sample, sample_limit
from compiler.lowering import wgsl

STATE_WORDS = 64
VOCABULARIES = (32064, 128256, 151936, 262144)
OF_VOCABULARY = re.compile(r"\bk_(logits|counts|tops|keys|masses|scores|tokens)\[")
LOOP = re.compile(r"\s*for \(var (\w+) : i32 = 0i; \1 < (\d+)i; \1\+\+\) \{")


@dataclass
class Reads:
    """Of an invocation, where every branch is taken: loads, and loops' turns that load (what a turn loads may be
    under way together)."""

    loads: int
    turns: int


def reads(function: tirx.PrimFunc) -> Reads:
    """Counted line by line: TVM's loops have constant bounds, and each brace that opens a block ends its line."""
    loads, turns = 0, 0
    blocks: list[tuple[int, bool]] = [(1, False)]  # how often each open block runs, and whether it is a loop
    loading: set[tuple[int, ...]] = set()  # loops that were seen to load, by their place
    places: list[int] = []  # of the open loops
    seen = 0
    for line in wgsl.render(function, "k").source.splitlines():
        found = LOOP.fullmatch(line)
        assert found or not line.lstrip().startswith("for "), line
        stores = OF_VOCABULARY.match(line.lstrip()) is not None
        count = 0 if line.startswith("@group") else len(OF_VOCABULARY.findall(line)) - stores
        loads += count * blocks[-1][0]
        if count and tuple(places) not in loading:
            loading.add(tuple(places))
            turns += blocks[-1][0]
        for _ in range(line.count("}")):
            if blocks.pop()[1]:
                places.pop()
        for _ in range(line.count("{")):
            blocks.append((blocks[-1][0] * (int(found[2]) if found else 1), bool(found)))
            if found:
                seen += 1
                places.append(seen)
    assert len(blocks) == 1
    return Reads(loads, turns)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_sampling_reads_the_vocabulary_at_most_four_times(vocab: int) -> None:
    """With top_k and top_p, every search at its longest; the first pass is spread over many workgroups."""
    parts = sample_limit.parts(vocab)
    assert parts >= 32
    scan = reads(sample.scan("scan", vocab, STATE_WORDS))
    assert (
        scan.loads == 2 * sample_limit.PART // sample.SCAN_THREADS
    )  # each logit, and its count where there are penalties
    limit = reads(sample_limit.limit("limit", vocab, STATE_WORDS))
    draw = reads(sample.draw("draw", vocab, 256, STATE_WORDS))
    searching = min(sample_limit.THREADS, parts)  # the others have nothing to search
    assert parts * sample_limit.PART + (limit.loads + draw.loads) * searching <= 4 * vocab


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_the_one_workgroup_that_searches_waits_a_fixed_number_of_times(vocab: int) -> None:
    searches, bits = 2, 32 // sample_limit.BITS
    rounds = sample_limit.PART.bit_length()
    limit = reads(sample_limit.limit("limit", vocab, STATE_WORDS))
    assert limit.turns <= searches * (bits * (rounds + 1) + 1) + 1
    draw = reads(sample.draw("draw", vocab, 256, STATE_WORDS))
    assert draw.turns <= ceil_div(sample_limit.parts(vocab), sample_limit.THREADS) * (rounds + 1) + 1
