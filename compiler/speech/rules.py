"""Which token may come next when speech is transcribed: OpenAI's rules, on logits as a model computes them.

Knows token ids; nothing of devices or texts. Source: `whisper/decoding.py` of OpenAI.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError

Task = Literal["transcribe", "translate"]
TIMESTAMP_SECONDS = 0.02  # from one timestamp to the next
MOST_INITIAL = 50  # timestamps that a window may begin after: one second


@dataclass(frozen=True)
class Tokens:
    """The special tokens of a model, as model.json's `speech` has them. Timestamps follow `no_timestamps`."""

    start: int
    end: int
    translate: int
    transcribe: int
    previous: int
    no_speech: int
    no_timestamps: int
    languages: Mapping[str, int]
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> "Tokens":
        lists = {key: tuple(stated[key]) for key in ("suppress", "begin_suppress")}
        return cls(**{**stated, **lists})

    @property
    def timestamps(self) -> int:
        """The first timestamp, of 0 seconds."""
        return self.no_timestamps + 1

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that are never said."""
        return (*self.suppress, self.start, self.translate, self.transcribe, self.previous, self.no_speech)

    def beginning(self, language: str | None, task: Task, timestamps: bool) -> list[int]:
        """What a transcript begins with. A model for English alone has neither language nor task."""
        ids = [self.start]
        if self.languages:
            assert language is not None
            ids += [self.languages[language], self.translate if task == "translate" else self.transcribe]
        return ids if timestamps else [*ids, self.no_timestamps]

    def language_of(self, logits: NDArray[np.float32]) -> str:
        """The likeliest language, by the logits after `start`."""
        return max(self.languages, key=lambda name: logits[self.languages[name]])

    def check(self, language: str | None, task: Task) -> None:
        """Raises WispError for a language or a task that the model has not learned."""
        if not self.languages and (language not in (None, "en") or task == "translate"):
            raise WispError(
                "the model knows English alone",
                got=f"--task {task}" if task == "translate" else f"--language {language}",
                remedy="use a multilingual model",
            )
        if self.languages and language is not None and language not in self.languages:
            known = ", ".join(self.languages)
            raise WispError("the model has not learned the language", got=repr(language), expected=f"one of {known}")


def allowed_logits(
    logits: NDArray[np.float32], said: Sequence[int], tokens: Tokens, timestamps: bool
) -> NDArray[np.float32]:
    """The logits after `said`, the tokens so far behind the beginning, -inf where a token may not come."""
    found = logits.astype(np.float32)
    found[list(tokens.never)] = -np.inf
    found[tokens.no_timestamps] = -np.inf
    if not said:
        found[list(tokens.begin_suppress)] = -np.inf
    if not timestamps:
        found[tokens.timestamps :] = -np.inf
        return found
    _pair_timestamps(found, said, tokens)
    if not said:
        found[: tokens.timestamps] = -np.inf
        found[tokens.timestamps + MOST_INITIAL + 1 :] = -np.inf
    probabilities = log_softmax(found)
    of_timestamps, of_text = probabilities[tokens.timestamps :], probabilities[: tokens.timestamps]
    if np.logaddexp.reduce(of_timestamps) > of_text.max():
        found[: tokens.timestamps] = -np.inf
    return found


def _pair_timestamps(logits: NDArray[np.float32], said: Sequence[int], tokens: Tokens) -> None:
    """Timestamps come in pairs, but before the end; they never go back, and a segment is not empty."""
    first = tokens.timestamps
    if said and said[-1] >= first:
        if len(said) < 2 or said[-2] >= first:
            logits[first:] = -np.inf
        else:
            logits[: tokens.end] = -np.inf
    before = [token for token in said if token >= first]
    if before:
        begins_a_segment = said[-1] >= first and not (len(said) < 2 or said[-2] >= first)
        logits[first : before[-1] + (0 if begins_a_segment else 1)] = -np.inf


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of probabilities; -inf stays."""
    shifted = logits - logits.max()
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum())
    return result
