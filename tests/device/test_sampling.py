"""The sampler on the device against its numpy twin: greedy ties, penalties, what is cut, which token is drawn."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.artifact.state import SamplingParameters as Sampling
from compiler.kernels import reference
from compiler.kernels.reference import PROMPT_BIT
from compiler.kernels.webgpu import sample, sample_limit
from tests.device.harness import Compiled, Gpu, poison

STATE_WORDS = 64
RING = 256
SCANNED = ("tops", "keys", "masses", "scores", "tokens")
VOCABULARIES = (5, 331, 2000)
LARGE_VOCABULARIES = (32064, 128256)
# Gumbel scores by two f32 logarithms: where the best two are closer, devices may differ.
CLOSE = 1e-4
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "sampling.json"


@dataclass(frozen=True)
class Sampler:
    """The three kernels of one vocabulary."""

    gpu: Gpu
    vocab: int
    calls: tuple[Compiled, ...]

    def run(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        position: int = 0,
        counts: NDArray[np.uint32] | None = None,
        repeat: int = 1,
    ) -> dict[str, NDArray]:
        """What the kernels leave after `repeat` steps from `position`; everything they write is poisoned before."""
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
        arrays = {
            "logits": logits.astype(np.float32),
            "counts": np.zeros(self.vocab, np.uint32) if counts is None else counts,
            "state": words,
            **{
                name: poison(shape, dtype)
                for name, (shape, dtype) in zip(SCANNED, sample.scanned(self.vocab), strict=True)
            },
            "cut": poison(1, "uint32"),
            "ring": poison(RING, "uint32"),
        }
        return self.gpu.run(self.calls, arrays, repeat)

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
        adjusted = reference.penalize(logits, np.zeros(self.vocab, np.uint32), sampling)
        return _order(adjusted) >= out["cut"][0]


def _order(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    bits = values.view(np.uint32)
    return np.where(bits >> np.uint32(31) == 1, ~bits, bits | np.uint32(0x80000000))


def sorted_parts(out: dict[str, NDArray], vocab: int) -> NDArray[np.float32]:
    """The logits as `scan` sorted them, penalties and temperature in: a row a part, its largest first."""
    keys = out["keys"]
    bits = np.where(keys >> np.uint32(31) == 1, keys ^ np.uint32(0x80000000), ~keys)
    return bits.view(np.float32).reshape(-1, sample_limit.PART)


class Samplers:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._made: dict[int, Sampler] = {}

    def __call__(self, vocab: int) -> Sampler:
        if vocab not in self._made:
            functions = (
                sample.scan("scan", vocab, STATE_WORDS),
                sample_limit.limit("limit", vocab, STATE_WORDS),
                sample.draw("draw", vocab, RING, STATE_WORDS),
            )
            self._made[vocab] = Sampler(self._gpu, vocab, tuple(self._gpu.compile(f) for f in functions))
        return self._made[vocab]


@pytest.fixture(scope="module")
def samplers(gpu: Gpu) -> Samplers:
    return Samplers(gpu)


def random_logits(vocab: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32)


def assert_draws(sampler: Sampler, logits: NDArray[np.float32], sampling: Sampling, position: int, count: int) -> None:
    """The device draws what the twin draws, at `count` positions."""
    adjusted = reference.penalize(logits, np.zeros(sampler.vocab, np.uint32), sampling)
    different = 0
    for i, token in enumerate(sampler.draws(logits, sampling, position, count)):
        scores = reference.scores(adjusted, sampling, position + 1 + i)
        assert scores[token] >= scores.max() - CLOSE, f"position {position + 1 + i}"
        different += token != int(np.argmax(scores))
    assert different <= count // 100


# -------------------------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("vocab", VOCABULARIES + LARGE_VOCABULARIES)
def test_greedy_takes_the_lowest_id_among_equals(samplers: Samplers, vocab: int) -> None:
    logits = random_logits(vocab)
    for tied in ([vocab - 1], [0, vocab - 1], [vocab // 2, vocab // 2 + 1], [1, vocab // 3 + 1, vocab - 2]):
        logits[tied] = np.float32(20.0)
        assert samplers(vocab).draws(logits, Sampling()) == [min(tied)]
        logits[tied] = np.float32(-1.0)


@pytest.mark.parametrize("logits", [[-5, -4, -4, -9, -6], [0, 0, 0, 0, 0], [-1e30, -1e30, -1e37, -1e37, -1e30]])
def test_greedy_of_small_and_equal_logits(samplers: Samplers, logits: list[float]) -> None:
    assert samplers(5).draws(np.array(logits, np.float32), Sampling()) == [int(np.argmax(logits))]


def test_greedy_does_not_look_at_the_other_parameters(samplers: Samplers) -> None:
    sampling = Sampling(0.0, top_k=3, top_p=0.1, min_p=0.9, seed=9)
    logits = random_logits(331)
    assert samplers(331).draws(logits, sampling, 17, 5) == [int(logits.argmax())] * 5


@pytest.mark.parametrize(
    "sampling", [Sampling(0.9, top_k=1, seed=3), Sampling(2.0, top_p=0.0), Sampling(5.0, min_p=1.0)]
)
def test_the_tightest_limits_equal_greedy(samplers: Samplers, sampling: Sampling) -> None:
    logits = random_logits(2000)
    assert samplers(2000).draws(logits, sampling, 4, 40) == [int(logits.argmax())] * 40


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
def test_draws_are_those_of_the_twin(samplers: Samplers, vocab: int, sampling: Sampling) -> None:
    for position in (0, 255, 4000):
        assert_draws(samplers(vocab), random_logits(vocab, position), sampling, position, 100)


@pytest.mark.parametrize("vocab", LARGE_VOCABULARIES)
def test_draws_of_large_vocabularies(samplers: Samplers, vocab: int) -> None:
    logits = random_logits(vocab)
    assert_draws(samplers(vocab), logits, Sampling(1.0, seed=1), 0, 20)
    assert_draws(samplers(vocab), logits, Sampling(0.8, top_k=50, top_p=0.95, min_p=0.01, seed=2), 100, 3)


def test_the_rarest_numbers_do_not_lift_impossible_tokens(samplers: Samplers) -> None:
    """A uniform number next to 1 is worth a Gumbel value of 16.6, not infinity: 30 logits below the best never win."""
    vocab = 128256
    nearest = [
        position
        for position in range(1, 400)
        if reference.uniform(5, position, vocab)[1:].max() >= np.float32(1 - 2.0**-23)
    ]
    assert len(nearest) >= 5
    logits = np.full(vocab, -30, np.float32)
    logits[0] = 0
    for position in nearest[:5]:
        assert samplers(vocab).draws(logits, Sampling(1.0, seed=5), position - 1) == [0]


def test_a_draw_is_a_function_of_seed_and_position(samplers: Samplers) -> None:
    sampler, logits, sampling = samplers(331), random_logits(331), Sampling(1.5, seed=7)
    run = sampler.draws(logits, sampling, 10, 50)
    assert sampler.draws(logits, sampling, 10, 50) == run
    assert sampler.draws(logits, sampling, 30, 30) == run[20:]
    assert sampler.draws(logits, replace(sampling, seed=8), 10, 50) != run


def test_draws_follow_the_softmax(samplers: Samplers) -> None:
    """Pearson's chi-square over 16 seeds x 250 positions on four degrees of freedom; 23.5 has a p-value of 1e-4."""
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05])).astype(np.float32)
    tokens = [t for seed in range(16) for t in samplers(5).draws(logits, Sampling(1.0, seed=seed), 1000 * seed, 250)]
    expected = np.exp(logits.astype(np.float64)) * len(tokens)
    found = np.bincount(tokens, minlength=5)
    assert ((found - expected) ** 2 / expected).sum() < 23.5, found


def test_neighbouring_tokens_positions_and_seeds_are_independent() -> None:
    """The twin's numbers (which the device's draws are compared with): correlations of 2^16 within 4.5 deviations."""
    base = np.stack([reference.uniform(3, position, 1024) for position in range(64)]).astype(np.float64) - 0.5
    seeds = np.stack([reference.uniform(4, position, 1024) for position in range(64)]).astype(np.float64) - 0.5
    for other in (seeds, np.roll(base, 1, axis=0), np.roll(base, 1, axis=1)):
        assert abs((base * other).sum() / (base * base).sum()) < 4.5 / 256
    assert abs(base.mean()) < 4.5 * np.sqrt(1 / 12) / 256


def test_no_uniform_number_is_zero_or_one() -> None:
    numbers = reference.uniform(0, 1, 1 << 22)
    assert numbers.min() >= np.float32(2.0**-24)
    assert numbers.max() <= np.float32(1 - 2.0**-24)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=2), Sampling(1.0, top_k=9, top_p=0.9, seed=3)])
def test_what_is_not_a_number_is_never_drawn(samplers: Samplers, sampling: Sampling) -> None:
    logits = random_logits(2000)
    holes = np.arange(0, 2000, 3)
    logits[holes] = np.nan
    logits[holes[::2]] = -np.nan
    sound = logits.copy()
    sound[holes] = -np.inf
    assert not np.isin(samplers(2000).draws(logits, sampling, 0, 50), holes).any()
    assert_draws(samplers(2000), sound, sampling, 0, 50)
    assert samplers(2000).draws(logits, sampling, 0, 50) == samplers(2000).draws(sound, sampling, 0, 50)


def test_a_large_vocabulary_is_spread_over_many_workgroups() -> None:
    """Only `scan` reads the logits, once; what the others search grows with the logarithm of a part."""
    for vocab in (32064, 49152, 128256, 151936, 262144):
        assert sample_limit.parts(vocab) >= 32


@pytest.mark.parametrize("vocab", [5, 513, 2000])
def test_parts_are_sorted_where_something_is_cut(samplers: Samplers, vocab: int) -> None:
    logits = (np.round(random_logits(vocab) * 2) / 2).astype(np.float32)  # many ties
    parts = sorted_parts(samplers(vocab).run(logits, Sampling(1.0, top_p=0.5)), vocab)
    for i, part in enumerate(parts):
        own = logits[i * sample_limit.PART : (i + 1) * sample_limit.PART]
        np.testing.assert_array_equal(part[: own.size], -np.sort(-own))


# ---------------------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("top_k", [1, 2, 4, 40, 330, 331, 5000, 2**31 - 1])
def test_top_k_keeps_the_set_of_the_twin(samplers: Samplers, vocab: int, top_k: int) -> None:
    logits = (np.round(random_logits(vocab) * 4) / 4).astype(np.float32)  # many ties
    sampling = Sampling(0.8, top_k=top_k)
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    want = reference.allowed(adjusted, sampling)
    np.testing.assert_array_equal(samplers(vocab).kept(logits, sampling), want)
    assert want.sum() >= min(top_k, vocab)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize(("top_p", "top_k"), [(0.01, 0), (0.3, 0), (0.9, 0), (0.9, 50), (0.99, 3), (0.9999, 0)])
def test_top_p_keeps_the_set_of_the_twin(samplers: Samplers, vocab: int, top_p: float, top_k: int) -> None:
    """With and without top_k before it. Sums of f32 in another order may move the border by 1e-5 of the mass."""
    logits = (np.round(random_logits(vocab) * 16) / 16).astype(np.float32)
    sampling = Sampling(1.1, top_k=top_k, top_p=top_p)
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    least, most = (
        reference.allowed(adjusted, replace(sampling, top_p=p)) for p in (top_p - 1e-5, min(1.0, top_p + 1e-5))
    )
    kept = samplers(vocab).kept(logits, sampling)
    assert (kept | most == most).all()
    assert (kept & least == least).all()


def strange_logits(rng: np.random.Generator, vocab: int) -> NDArray[np.float32]:
    """Ties, few finite ones, equal ones, tiny and huge ones, of both signs."""
    logits = rng.normal(0, 3, vocab).astype(np.float32)
    for choice in rng.choice(6, 2, replace=False):
        match choice:
            case 0:
                logits = (np.round(logits * 2) / 2).astype(np.float32)
            case 1:
                logits[rng.random(vocab) < 0.9] = -np.inf
            case 2:
                logits[:] = logits[0]
            case 3:
                logits *= np.float32(1e-38)
            case 4:
                logits -= np.float32(1e30)
            case 5:
                logits[rng.integers(vocab)] = np.float32(200)
    if not np.isfinite(logits).any():
        logits[-1] = 0
    return logits


@pytest.mark.parametrize("seed", range(24))
def test_strange_logits_keep_the_set_of_the_twin_and_draw_from_it(samplers: Samplers, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab = int(rng.choice([331, 2000]))
    logits = strange_logits(rng, vocab)
    sampling = Sampling(
        float(rng.choice([1e-3, 0.7, 1.0, 1e3])),
        top_k=int(rng.choice([0, 1, 7, vocab // 2])),
        top_p=float(rng.choice([1.0, 0.9, 0.5, 1e-6])),
        seed=seed,
    )
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    border = 1e-5 if sampling.top_p < 1 else 0.0
    least, most = (
        reference.allowed(adjusted, replace(sampling, top_p=min(1.0, sampling.top_p + by))) for by in (-border, border)
    )
    kept = samplers(vocab).kept(logits, sampling)
    finite = np.isfinite(logits)
    assert not (kept & ~most & finite).any()
    assert not (least & ~kept & finite).any()
    assert all(kept[token] and finite[token] for token in samplers(vocab).draws(logits, sampling, 0, 20))


@pytest.mark.parametrize("min_p", [0.001, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_min_p_keeps_the_set_of_the_twin(samplers: Samplers, vocab: int, min_p: float) -> None:
    logits = random_logits(vocab)
    logits[[1, 3]] = logits.max()
    sampling = Sampling(1.7, min_p=min_p)
    adjusted = reference.penalize(logits, np.zeros(vocab, np.uint32), sampling)
    kept = samplers(vocab).kept(logits, sampling)
    np.testing.assert_array_equal(kept, reference.allowed(adjusted, sampling))
    assert kept[[1, 3]].all()


# ------------------------------------------------------------------------------------------------------------ penalties


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
@pytest.mark.parametrize("vocab", [5, 2000])
def test_penalties_are_those_of_the_twin(samplers: Samplers, vocab: int, sampling: Sampling) -> None:
    """Tokens that are new, in the prompt, generated several times, and both; positive and negative logits."""
    rng = np.random.default_rng(1)
    logits = random_logits(vocab)
    counts = rng.choice(np.array([0, PROMPT_BIT, 1, 5, PROMPT_BIT | 3], np.uint32), vocab)
    out = samplers(vocab).run(logits, sampling, counts=counts)
    want = reference.penalize(logits, counts, sampling)
    size = sample_limit.PART
    parts = [want[start : start + size] for start in range(0, vocab, size)]
    tops = out["tops"].reshape(-1, 2)
    np.testing.assert_allclose(tops[:, 0].copy().view(np.float32), [part.max() for part in parts], rtol=1e-6, atol=1e-6)
    if sampling.temperature > 0:
        for got, part in zip(sorted_parts(out, vocab), parts, strict=True):
            np.testing.assert_allclose(np.sort(got[: part.size]), np.sort(part), rtol=1e-6, atol=1e-6)
    token = int(out["state"][1])
    scores = reference.scores(want, sampling, 1)
    assert scores[token] >= scores.max() - CLOSE
    counts[token] += 1
    np.testing.assert_array_equal(out["counts"], counts)


def test_generated_tokens_are_penalized_from_step_to_step(samplers: Samplers) -> None:
    """Greedy with a frequency penalty: each step counts its token, so the next ones turn to others."""
    logits = np.array([1.0, 0.9, 0.8, -1.0, 0.0], np.float32)
    sampling = Sampling(0.0, frequency_penalty=0.3)
    counts = np.zeros(5, np.uint32)
    want = []
    for position in range(1, 21):
        want.append(reference.sample(logits, counts, sampling, position))
        counts[want[-1]] += 1
    assert samplers(5).draws(logits, sampling, 0, 20) == want
    assert len(set(want)) > 2


# -------------------------------------------------------------------------------------------------------------- golden


def test_golden_draws(samplers: Samplers) -> None:
    """Draws that do not change from version to version: a seed gives the same text for ever."""
    golden = json.loads(GOLDEN.read_text())
    logits = np.array(golden["logits"], np.float32)
    for case in golden["cases"]:
        sampling, position = Sampling(**case["sampling"]), case["position"]
        count = len(case["tokens"])
        zeros = np.zeros(len(logits), np.uint32)
        assert [reference.sample(logits, zeros, sampling, position + 1 + i) for i in range(count)] == case["tokens"]
        assert samplers(len(logits)).draws(logits, sampling, position, count) == case["tokens"]
