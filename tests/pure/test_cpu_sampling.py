"""The sampler of the CPU against its numpy twin: greedy ties, penalties, what is cut, which token is drawn."""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.artifact.state import SamplingParameters as Sampling
from compiler.kernels import reference
from compiler.kernels.cpu import sample
from compiler.kernels.reference import PROMPT_BIT
from compiler.lowering import wasm
from tests.wasm_module import WasmModule

STATE_WORDS = 64
RING = 256
VOCABULARIES = (5, 331, 2000)
LARGE_VOCABULARY = 128256
# Gumbel scores by two f32 logarithms: where the best two are closer, another library's logarithms may decide otherwise.
CLOSE = 1e-5
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "sampling.json"


class Sampler:
    """The three kernels of one vocabulary."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self._module = WasmModule(
            wasm.compile_module(
                {
                    "scan": sample.scan("scan", vocab, STATE_WORDS),
                    "limit": sample.limit("limit", vocab, STATE_WORDS),
                    "draw": sample.draw("draw", vocab, RING, STATE_WORDS),
                }
            )
        )

    def run(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int = 0,
        counts: NDArray[np.uint32] | None = None,
        repeat: int = 1,
        backwards: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """All buffers after `repeat` steps from `position`; what the kernels write has all bits set before."""
        words = np.zeros(STATE_WORDS, np.uint32)
        words[:4] = position, 0xFFFFFFFF, 0, sampling.seed
        words[5] = sampling.top_k
        for word, value in (
            (4, sampling.temperature),
            (6, sampling.top_p),
            (7, sampling.min_p),
            (8, sampling.repetition_penalty),
            (9, sampling.presence_penalty),
            (10, sampling.frequency_penalty),
        ):
            words[word] = np.float32(value).view(np.uint32)
        blocks = sample.scan_blocks(self.vocab)
        arrays: dict[str, NDArray[Any]] = {
            "logits": logits.astype(np.float32),
            "counts": np.zeros(self.vocab, np.uint32) if counts is None else counts,
            "state": words,
            "adjusted": np.full(self.vocab, np.nan, np.float32),
            "tops": np.full((blocks, 2), 0xFFFFFFFF, np.uint32),
            "cut": np.full(1, 0xFFFFFFFF, np.uint32),
            "ring": np.full(RING, 0xFFFFFFFF, np.uint32),
        }
        pieces = [(block, block + 1) for block in reversed(range(blocks))] if backwards else None
        for _ in range(repeat):
            for entry, items, names in (
                ("scan", blocks, ("logits", "counts", "state", "adjusted", "tops")),
                ("limit", 1, ("adjusted", "tops", "state", "cut")),
                ("draw", 1, ("adjusted", "tops", "cut", "state", "ring", "counts")),
            ):
                given = [arrays[name] for name in names]
                made = self._module.run(entry, given, items, pieces if entry == "scan" else None)
                arrays.update(zip(names, made, strict=True))
        return arrays

    def draws(self, logits: NDArray[np.float32], sampling: Sampling, position: int = 0, count: int = 1) -> list[int]:
        """The tokens of `count` steps on the same logits."""
        out = self.run(logits, sampling, position, repeat=count)
        assert out["state"][0] == position + count
        tokens = [int(out["ring"][(position + 1 + i) % RING]) for i in range(count)]
        assert out["state"][1] == tokens[-1]
        assert Counter(tokens) == {int(i): int(c) for i, c in enumerate(out["counts"]) if c}
        return tokens

    def kept(self, logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.bool_]:
        """Which tokens are not below the cut."""
        out = self.run(logits, sampling)
        bits = out["adjusted"].view(np.uint32)
        order = np.where(bits >> np.uint32(31) == 1, ~bits, bits | np.uint32(0x80000000))
        return order >= out["cut"][0]


@functools.cache
def sampler(vocab: int) -> Sampler:
    return Sampler(vocab)


def random_logits(vocab: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32)


def assert_draws(vocab: int, logits: NDArray[np.float32], sampling: Sampling, position: int, count: int) -> None:
    """The kernels draw what the twin draws, at `count` positions."""
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    different = 0
    for i, token in enumerate(sampler(vocab).draws(logits, sampling, position, count)):
        scores = reference.scores(adjusted, sampling, position + 1 + i)
        assert scores[token] >= scores.max() - CLOSE, f"position {position + 1 + i}"
        different += token != int(np.argmax(scores))
    assert different <= count // 100


# -------------------------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("vocab", [*VOCABULARIES, LARGE_VOCABULARY])
def test_greedy_takes_the_lowest_id_among_equals(vocab: int) -> None:
    logits = random_logits(vocab)
    for tied in ([vocab - 1], [0, vocab - 1], [vocab // 2, vocab // 2 + 1], [1, vocab // 3 + 1, vocab - 2]):
        logits[tied] = np.float32(20.0)
        assert sampler(vocab).draws(logits, Sampling()) == [min(tied)]
        logits[tied] = np.float32(-1.0)


@pytest.mark.parametrize("logits", [[-5, -4, -4, -9, -6], [0, 0, 0, 0, 0], [-1e30, -1e30, -1e37, -1e37, -1e30]])
def test_greedy_of_small_and_equal_logits(logits: list[float]) -> None:
    assert sampler(5).draws(np.array(logits, np.float32), Sampling()) == [int(np.argmax(logits))]


def test_greedy_does_not_look_at_the_other_parameters() -> None:
    sampling = Sampling(0.0, top_k=3, top_p=0.1, min_p=0.9, seed=9)
    logits = random_logits(331)
    assert sampler(331).draws(logits, sampling, 17, 5) == [int(logits.argmax())] * 5


@pytest.mark.parametrize(
    "sampling", [Sampling(0.9, top_k=1, seed=3), Sampling(2.0, top_p=0.0), Sampling(5.0, min_p=1.0)]
)
def test_the_tightest_limits_equal_greedy(sampling: Sampling) -> None:
    logits = random_logits(2000)
    assert sampler(2000).draws(logits, sampling, 4, 40) == [int(logits.argmax())] * 40


# --------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, seed=0),
        Sampling(0.7, seed=0xDEADBEEF),
        Sampling(1.3, top_k=40, top_p=0.9, min_p=0.02, seed=12345),
        Sampling(8.0, top_p=0.999, seed=0xFFFFFFFF),
    ],
)
def test_draws_are_those_of_the_twin(vocab: int, sampling: Sampling) -> None:
    for position in (0, 255, 4000):
        assert_draws(vocab, random_logits(vocab, position), sampling, position, 100)


def test_draws_of_a_large_vocabulary() -> None:
    logits = random_logits(LARGE_VOCABULARY)
    assert_draws(LARGE_VOCABULARY, logits, Sampling(1.0, seed=1), 0, 20)
    assert_draws(LARGE_VOCABULARY, logits, Sampling(30.0, seed=4), 7, 10)
    assert_draws(LARGE_VOCABULARY, logits, Sampling(0.8, top_k=50, top_p=0.95, min_p=0.01, seed=2), 100, 10)


def test_the_rarest_numbers_do_not_lift_impossible_tokens() -> None:
    """A uniform number next to 1 is worth a Gumbel value of 16.6, not infinity: 30 logits below the best never win."""
    nearest = [
        position
        for position in range(1, 400)
        if reference.uniform(5, position, LARGE_VOCABULARY)[1:].max() >= np.float32(1 - 2.0**-23)
    ]
    assert len(nearest) >= 5
    logits = np.full(LARGE_VOCABULARY, -30, np.float32)
    logits[0] = 0
    for position in nearest[:5]:
        assert sampler(LARGE_VOCABULARY).draws(logits, Sampling(1.0, seed=5), position - 1) == [0]


def test_the_rarest_numbers_lift_unlikely_tokens() -> None:
    """A token as far below the best as a Gumbel value reaches is still drawn where the twin draws it."""
    won = 0
    for position in range(1, 400):
        uniform = reference.uniform(5, position, LARGE_VOCABULARY)
        if uniform[1:].max() < np.float32(1 - 2.0**-23):
            continue
        logits = np.full(LARGE_VOCABULARY, -15, np.float32)
        logits[0] = 0
        sampling = Sampling(1.0, seed=5)
        want = int(np.argmax(reference.scores(logits, sampling, position)))
        assert sampler(LARGE_VOCABULARY).draws(logits, sampling, position - 1) == [want]
        won += want != 0
    assert won > 0


def test_a_draw_is_a_function_of_seed_and_position() -> None:
    logits, sampling = random_logits(331), Sampling(1.5, seed=7)
    run = sampler(331).draws(logits, sampling, 10, 50)
    assert sampler(331).draws(logits, sampling, 10, 50) == run
    assert sampler(331).draws(logits, sampling, 30, 30) == run[20:]
    assert sampler(331).draws(logits, replace(sampling, seed=8), 10, 50) != run


def test_blocks_in_any_order_give_the_same_bytes() -> None:
    logits, sampling = random_logits(5003), Sampling(0.9, top_k=300, top_p=0.9, seed=7)
    forwards, backwards = (Sampler(5003).run(logits, sampling, 3, repeat=3, backwards=b) for b in (False, True))
    for name, array in forwards.items():
        assert array.tobytes() == backwards[name].tobytes(), name


def test_logits_that_are_not_numbers_are_not_drawn() -> None:
    """NaN is never the best; a vocabulary of them still gives a token."""
    logits = np.array([np.nan, -1, 3, np.nan, 2], np.float32)
    assert sampler(5).draws(logits, Sampling()) == [2]
    assert set(sampler(5).draws(logits, Sampling(1.0), 0, 30)) <= {1, 2, 4}
    assert sampler(5).draws(np.full(5, np.nan, np.float32), Sampling(1.0))[0] < 5


# ---------------------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("top_k", [1, 2, 4, 40, 330, 331, 5000, 2**31 - 1])
def test_top_k_keeps_the_set_of_the_twin(vocab: int, top_k: int) -> None:
    logits = (np.round(random_logits(vocab) * 4) / 4).astype(np.float32)  # many ties
    sampling = Sampling(0.8, top_k=top_k)
    want = reference.allowed(reference.penalize(logits, np.zeros(vocab, np.uint32), sampling), sampling)
    np.testing.assert_array_equal(sampler(vocab).kept(logits, sampling), want)
    assert want.sum() >= min(top_k, vocab)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize(("top_p", "top_k"), [(0.01, 0), (0.3, 0), (0.9, 0), (0.9, 50), (0.99, 3), (0.9999, 0)])
def test_top_p_keeps_the_set_of_the_twin(vocab: int, top_p: float, top_k: int) -> None:
    """With and without top_k before it. Exponentials in f32 may move the border by 1e-6 of the mass."""
    logits = (np.round(random_logits(vocab) * 16) / 16).astype(np.float32)
    sampling = Sampling(1.1, top_k=top_k, top_p=top_p)
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    least, most = (
        reference.allowed(adjusted, replace(sampling, top_p=p)) for p in (top_p - 1e-6, min(1.0, top_p + 1e-6))
    )
    kept = sampler(vocab).kept(logits, sampling)
    assert (kept | most == most).all()
    assert (kept & least == least).all()


def test_cuts_of_a_large_vocabulary() -> None:
    logits = random_logits(LARGE_VOCABULARY)
    for sampling in (Sampling(1.0, top_k=1000), Sampling(1.0, top_k=100_000), Sampling(0.7, top_p=0.95)):
        adjusted = reference.penalize(logits, np.zeros(LARGE_VOCABULARY, np.uint32), sampling)
        want = reference.allowed(adjusted, sampling)
        different = int((sampler(LARGE_VOCABULARY).kept(logits, sampling) != want).sum())
        assert different <= (0 if sampling.top_k else 2)


@pytest.mark.parametrize("min_p", [0.001, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_min_p_keeps_the_set_of_the_twin(vocab: int, min_p: float) -> None:
    logits = random_logits(vocab)
    logits[[1, 3]] = logits.max()
    sampling = Sampling(1.7, min_p=min_p)
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    kept = sampler(vocab).kept(logits, sampling)
    np.testing.assert_array_equal(kept, reference.allowed(adjusted, sampling))
    assert kept[[1, 3]].all()


# ----------------------------------------------------------------------------------------------------------- penalties


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.0, repetition_penalty=1.3),
        Sampling(0.7, repetition_penalty=0.8),
        Sampling(0.0, presence_penalty=0.6),
        Sampling(1.0, frequency_penalty=0.25),
        Sampling(0.9, repetition_penalty=1.1, presence_penalty=-0.4, frequency_penalty=0.3),
    ],
)
@pytest.mark.parametrize("vocab", [5, 331, 2000])
def test_penalties_are_those_of_the_twin(vocab: int, sampling: Sampling) -> None:
    """Tokens that are new, in the prompt, generated several times, and both; positive and negative logits."""
    rng = np.random.default_rng(1)
    logits = random_logits(vocab)
    counts = rng.choice(np.array([0, PROMPT_BIT, 1, 5, PROMPT_BIT | 3], np.uint32), vocab)
    out = sampler(vocab).run(logits, sampling, counts=counts)
    want = reference.penalize(logits, counts, sampling)
    np.testing.assert_array_equal(out["adjusted"], want)
    token = int(out["state"][1])
    scores = reference.scores(want, sampling, 1)
    assert scores[token] >= scores.max() - CLOSE
    counts[token] += 1
    np.testing.assert_array_equal(out["counts"], counts)


def test_generated_tokens_are_penalized_from_step_to_step() -> None:
    """Greedy with a frequency penalty: each step counts its token, so the next ones turn to others."""
    logits = np.array([1.0, 0.9, 0.8, -1.0, 0.0], np.float32)
    sampling = Sampling(0.0, frequency_penalty=0.3)
    counts = np.zeros(5, np.uint32)
    want = []
    for position in range(1, 21):
        want.append(reference.sample(logits, counts, sampling, position))
        counts[want[-1]] += 1
    assert sampler(5).draws(logits, sampling, 0, 20) == want
    assert len(set(want)) > 2


# -------------------------------------------------------------------------------------------------------------- golden


def test_golden_draws() -> None:
    """Draws that do not change from version to version, nor from the GPU to the CPU."""
    golden = json.loads(GOLDEN.read_text())
    logits = np.array(golden["logits"], np.float32)
    for case in golden["cases"]:
        drawn = sampler(len(logits)).draws(logits, Sampling(**case["sampling"]), case["position"], len(case["tokens"]))
        assert drawn == case["tokens"]
