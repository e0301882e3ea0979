"""The state buffer's sampling words, as `FORMAT.md` has them: the one place for what `decode` is told."""

import struct
from dataclasses import dataclass

SAMPLING_OFFSET = 12  # bytes, behind position, token and valid length


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
        """Eight words, from `SAMPLING_OFFSET` on."""
        return struct.pack(
            "<IfIfffff",
            self.seed,
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
        )
