"""The smoke test: a fixed short prompt through what was compiled, before the artifact takes its place.

It refuses a model that computes nothing, and its logits stand in `model.json`: whoever runs the artifact compares what
its device makes of the prompt. Runs the very module of the CPU where the artifact has one, else the reference; the
weights are those just written, a part at a time. Knows neither the checkpoint nor any GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.writer import StoredWeights
from ..errors import WispError
from ..lowering.lower import Lowered
from ..models.base import ModelConfig, Norm, ReadRows
from ..network.reference import ReferenceModel
from ..runtime.wasmtime import WasmRuntime
from ..target.variants import ALL_VARIANTS
from ..weights.schemes import Scheme
from ..weights.stored import stored_rows

PROMPT_TOKENS = 4
# A cache in 16 bits and products of integers cost less than 0.01 of the largest logit; what is wrong is far above.
TOLERANCE = 0.05
TOP = 8  # the ids of the largest logits
OTHERS = 8  # and as many of the whole vocabulary
DIGITS = 6
HUGE = 1e18  # its square, which a norm needs, is nearly all that float32 holds


@dataclass(frozen=True)
class Smoke:
    """A prompt and the logits after it: those of the largest ids, largest first, and of some others."""

    ids: tuple[int, ...]
    top: tuple[tuple[int, float], ...]
    others: tuple[tuple[int, float], ...]
    scale: float  # the largest absolute logit

    def described(self) -> dict[str, Any]:
        """As model.json has it."""
        return {
            "ids": list(self.ids),
            "top": [list(pair) for pair in self.top],
            "others": [list(pair) for pair in self.others],
            "scale": self.scale,
            "tolerance": TOLERANCE,
        }


def smoke_test(
    model: ModelConfig,
    scheme: Scheme,
    context: int,
    lowered: Mapping[str, Lowered],
    weights: StoredWeights,
) -> Smoke:
    """Runs the prompt. Raises WispError when the logits are not finite, or all the same."""
    ids = prompt_ids(model.vocab_size, context)
    cpu = next((lowered[name] for name in lowered if ALL_VARIANTS[name].backend == "wasm"), None)
    rows = stored_rows(weights, scheme)
    logits = reference_logits(model, rows, ids) if cpu is None else cpu_logits(cpu, weights, ids)
    finite = np.isfinite(logits)
    if not finite.all() or np.ptp(logits) == 0:
        got = "logits that are all the same" if finite.all() else f"{(~finite).sum()} logits that are not finite"
        raise WispError(
            "the compiled model computes nothing",
            got=f"{got} after the ids {', '.join(map(str, ids))}; {suspect(model, rows, ids)}",
            expected="finite logits that differ",
            remedy="the checkpoint is damaged or no model of this architecture: use another one (nothing was written)",
        )
    return summary(ids, logits)


def prompt_ids(vocab_size: int, context: int) -> tuple[int, ...]:
    """Ids spread over the vocabulary: the middles of as many equal parts of it."""
    return tuple(vocab_size * (2 * i + 1) // (2 * PROMPT_TOKENS) for i in range(min(PROMPT_TOKENS, context)))


def cpu_logits(lowered: Lowered, weights: StoredWeights, ids: Sequence[int]) -> NDArray[np.float32]:
    """The CPU's own kernels: prefill of all ids but the last, then one step of decode. Holds a dispatch's weights."""
    runtime = WasmRuntime(
        lowered.plan,
        lowered.modules["kernels"],
        lambda name, start, stop: weights.tensor(name, start, stop).tobytes(),
        weights.constants(),
        positions=PROMPT_TOKENS,
        resident=False,
    )
    return runtime.logits(ids)


def reference_logits(model: ModelConfig, rows: ReadRows, ids: Sequence[int]) -> NDArray[np.float32]:
    """What numpy makes of the stored weights: for artifacts without kernels of the CPU. Holds a matrix in float32."""
    reference = ReferenceModel(model, rows)
    with np.errstate(all="ignore"):
        hidden = reference.hidden_states(ids)
        return reference.embedding(hidden) if model.pooling is not None else reference.logits(hidden[-1:])[0]


def summary(ids: Sequence[int], logits: NDArray[np.float32]) -> Smoke:
    """What of the logits is kept."""

    def pairs(chosen: Iterable[int]) -> tuple[tuple[int, float], ...]:
        return tuple((int(i), _rounded(logits[i])) for i in chosen)

    ranked = np.argsort(-logits, kind="stable")
    top = ranked[:TOP].tolist()
    spread = [len(logits) * (2 * i + 1) // (2 * OTHERS) for i in range(OTHERS)]
    others = sorted(set(spread) - set(top))
    return Smoke(tuple(ids), pairs(top), pairs(others), _rounded(np.abs(logits).max()))


def _rounded(value: np.floating) -> float:
    return float(f"{value:.{DIGITS}g}")


class _Suspicious(ReferenceModel):
    """A sequence that remembers the first matrix or norm whose result float32 can hardly hold, or that is nothing."""

    found = "no layer looks extreme to the reference"

    def _linear(self, role: str, layer: int | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._look(role, layer, super()._linear(role, layer, x))

    def _norm(self, role: str, norm: Norm | None, layer: int | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
        found = super()._norm(role, norm, layer, x)
        return found if norm is None else self._look(role, layer, found)

    def _look(self, role: str, layer: int | None, result: NDArray[np.float32]) -> NDArray[np.float32]:
        largest = float(np.abs(result).max())  # NaN when there is one
        if self.found == _Suspicious.found and not 0 < largest < HUGE:
            kind = "is all zero" if largest == 0 else f"reaches {largest:.3g}"
            self.found = f"the result of {self._specs[role, layer].name} {kind}"
        return result


def suspect(model: ModelConfig, rows: ReadRows, ids: Sequence[int]) -> str:
    """Where a network that computes nothing goes wrong first, as far as numpy sees it."""
    watched = _Suspicious(model, rows)
    with np.errstate(all="ignore"):
        watched.hidden_states(ids)
    return watched.found
