"""A model that transcribes, on a device: a window of log-mel in, tokens out, with what they say of themselves.

Knows artifacts, sessions and the rules of decoding; nothing of files or of what lies before and behind a window.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..artifact.inspect import task_of
from ..artifact.writer import load_artifact
from ..errors import WispError
from ..runtime.choose import Running, open_best
from .mel import FRAMES_PER_SECOND, log_mel
from .rules import Task, Tokens, allowed_logits, log_softmax

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # the next one where the last gave a poor transcript
MOST_COMPRESSION = 2.4  # of a text by zlib: beyond it something is repeated
LEAST_LOGPROB = -1.0  # of a token, on average
NO_SPEECH = 0.6  # probability


@dataclass(frozen=True)
class Wanted:
    """What is asked of a transcript. `temperatures` are tried in order."""

    language: str | None = None  # None: detected in the first window
    task: Task = "transcribe"
    prompt: str = ""  # what the first window is told was said before: names, spellings
    timestamps: bool = True
    temperatures: tuple[float, ...] = TEMPERATURES
    condition: bool = True  # on the text before
    seed: int = 0


@dataclass(frozen=True)
class Heard:
    """The tokens of a window, without those of the beginning and the end."""

    ids: tuple[int, ...]
    text: str
    temperature: float
    average_logprob: float
    no_speech: float  # probability

    @property
    def compression_ratio(self) -> float:
        data = self.text.encode()
        return len(data) / len(zlib.compress(data)) if data else 0.0

    @property
    def is_silence(self) -> bool:
        return self.no_speech > NO_SPEECH and self.average_logprob < LEAST_LOGPROB

    @property
    def is_poor(self) -> bool:
        """Whether a higher temperature may give a better one."""
        if self.is_silence:
            return False
        return self.compression_ratio > MOST_COMPRESSION or self.average_logprob < LEAST_LOGPROB


@dataclass
class SpeechModel:
    """An artifact on a device. One window is heard at a time."""

    name: str
    about: str
    notes: tuple[str, ...]
    bands: int
    frames: int  # of log-mel, of a window
    tokens: Tokens
    _running: Running = field(repr=False)
    _tokenizer: Tokenizer = field(repr=False)

    @property
    def seconds(self) -> float:
        """The length of a window."""
        return self.frames / FRAMES_PER_SECOND

    @property
    def context(self) -> int:
        """Most tokens of a window, with the text before it."""
        return self._running.session.capacity

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Encode a window of mono samples at 16 kHz; silence fills it up."""
        self._running.session.hear(log_mel(samples, self.bands, self.frames))

    def detect_language(self) -> str | None:
        """Of the window that was heard; None where the model knows one alone."""
        if not self.tokens.languages:
            return None
        return self.tokens.language_of(self._logits([self.tokens.start]))

    def decode(self, wanted: Wanted, language: str | None, before: Sequence[int] = ()) -> Heard:
        """The transcript of the window that was heard, after the text `before`: the first that is not poor."""
        rng = np.random.default_rng(wanted.seed)
        for temperature in wanted.temperatures:
            found = self._decode_at(temperature, wanted, language, before, rng)
            if not found.is_poor:
                break
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens and timestamps."""
        text: str = self._tokenizer.decode([token for token in ids if token < self.tokens.end])
        return text

    def ids(self, text: str) -> list[int]:
        """A text as what was said before; special tokens in it are not."""
        ids: list[int] = self._tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids
        return [token for token in ids if token < self.tokens.end] if text.strip() else []

    def _logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        session = self._running.session
        session.reset()
        session.prefill(ids)
        session.run("decode")
        session.history.append(int(ids[-1]))
        found: NDArray[np.float32] = session.read("logits")
        return found

    def _decode_at(
        self,
        temperature: float,
        wanted: Wanted,
        language: str | None,
        before: Sequence[int],
        rng: np.random.Generator,
    ) -> Heard:
        tokens, session, half = self.tokens, self._running.session, self.context // 2
        beginning = tokens.beginning(language, wanted.task, wanted.timestamps)
        kept = list(before)[max(0, len(before) - (half - 1)) :]
        logits = self._logits([*([tokens.previous, *kept] if kept else []), beginning[0]])
        no_speech = float(np.exp(log_softmax(logits)[tokens.no_speech]))
        for token in beginning[1:]:
            logits = session.next_logits(token)
        said: list[int] = []
        total = 0.0
        while True:
            allowed = allowed_logits(logits, said, tokens, wanted.timestamps)
            token = _choose(allowed, temperature, rng)
            total += float(log_softmax(allowed)[token])
            if token == tokens.end or len(said) + 1 >= half or len(session.history) >= self.context:
                break
            said.append(token)
            logits = session.next_logits(token)
        return Heard(tuple(said), self.text(said), temperature, total / (len(said) + 1), no_speech)


def _choose(logits: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    noise = rng.gumbel(size=len(logits))
    return int((logits / temperature + noise).argmax())


def load_model(path: Path, variant: str | None = None) -> SpeechModel:
    """An artifact on the device that runs it best. Raises WispError for one that does not transcribe."""
    artifact = load_artifact(path, verify=False)
    model = artifact.model
    if task_of(model) != "transcription":
        raise WispError(
            "wisp transcribe is for models that transcribe speech",
            got=f"{path}, a model for {task_of(model)}",
            remedy="compile a checkpoint of Whisper",
        )
    speech: dict[str, Any] = model["speech"]
    if speech["tokens"] is None or "tokenizer.json" not in model["tokenizer"]:
        raise WispError(f"{path} has no tokenizer", expected="tokenizer.json", remedy="compile it with its weights")
    tokenizer = Tokenizer.from_str((path / "tokenizer.json").read_text(encoding="utf-8"))
    running = open_best(artifact, variant)
    name = model.get("name") or model["id"]
    about = f"{name}: {running.variant} on {running.device}"
    tokens, frames = Tokens.of(speech["tokens"]), 2 * speech["positions"]
    return SpeechModel(name, about, running.skipped, speech["mel_bands"], frames, tokens, running, tokenizer)
