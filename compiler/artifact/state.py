"""The state buffer's sampling words, as `FORMAT.md` has them: the one place for what `decode` is told."""

import struct
from dataclasses import dataclass

SAMPLING_OFFSET = 12  # bytes, behind position, token and valid length
VERIFIED_FROM_OFFSET = 44  # of the position of a draft's first row

# What a sampling parameter may be: from, to, and whether it is a whole number. The page's twin of the table is
# web/src/api/sampling.ts; tests/golden/sampling.json holds both together. top_k: -1 and 0 are off; top_p: 0 is the most
# probable token alone; temperature: below LEAST_TEMPERATURE greedy, as quotients beyond float32 have no order.
SAMPLING_RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 100, False),
    "top_k": (-1, 2**31 - 1, True),
    "top_p": (0, 1, False),
    "min_p": (0, 1, False),
    "repetition_penalty": (0.01, 100, False),
    "presence_penalty": (-100, 100, False),
    "frequency_penalty": (-100, 100, False),
}
LEAST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class SamplingParameters:
    """How `decode` picks a token; the defaults are greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def penalizes(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def words(self) -> bytes:
        """Eight words, from `SAMPLING_OFFSET` on: the sampler's own words for what SAMPLING_RANGES allows."""
        greedy = self.temperature < LEAST_TEMPERATURE or self.top_p == 0
        return struct.pack(
            "<IfIfffff",
            self.seed,
            0.0 if greedy else self.temperature,
            max(self.top_k, 0),
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
        )
