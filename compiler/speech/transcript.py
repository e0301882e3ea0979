"""The transcript of a whole recording: windows that end at timestamps, each told what was said before.

Knows a model of windows and a recording; nothing of devices. Source: `whisper/transcribe.py` of OpenAI.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .audio import Recording
from .model import Heard, SpeechModel, Wanted
from .rules import TIMESTAMP_SECONDS

# A text that was drawn at a higher temperature is no example for what follows.
MOST_TEMPERATURE = 0.5


@dataclass(frozen=True)
class Segment:
    """What was said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str
    ids: tuple[int, ...]
    heard: Heard  # the window that it is of


@dataclass(frozen=True)
class Transcript:
    """Everything that was said in a recording of `seconds`."""

    language: str | None
    seconds: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


def transcribe(
    model: SpeechModel, recording: Recording, wanted: Wanted, advance: Callable[[int], None] = lambda _: None
) -> Transcript:
    """Transcribes a recording; `advance` is told how many milliseconds are done, whenever some are.

    Raises WispError for a language that the model has not learned.
    """
    model.tokens.check(wanted.language, wanted.task)
    language, at = wanted.language, 0.0
    segments: list[Segment] = []
    said = model.ids(wanted.prompt)  # so far, as far as the next window is told
    while at < recording.seconds:
        model.hear(recording.window(at, model.seconds))
        if language is None:
            language = model.detect_language()
        heard = model.decode(wanted, language, said)
        length = min(model.seconds, recording.seconds - at)
        moved = length
        if not heard.is_silence:
            found, moved = segments_of(heard, model, at, length)
            segments += found
            said += [token for segment in found for token in segment.ids]
        if not wanted.condition or heard.temperature > MOST_TEMPERATURE:
            said = []
        advance(round(1000 * moved))
        at += moved
    return Transcript(language or "en", recording.seconds, tuple(segments))


def segments_of(heard: Heard, model: SpeechModel, at: float, length: float) -> tuple[list[Segment], float]:
    """The segments of a window that begins at `at` and is `length` seconds long, and where the next one begins in it.

    A window ends at its last pair of timestamps; what was cut off behind it is heard again.
    """
    first, ids = model.tokens.timestamps, heard.ids
    is_time = [token >= first for token in ids]
    pairs = [i + 1 for i in range(len(ids) - 1) if is_time[i] and is_time[i + 1]]
    ends_alone = is_time[-2:] == [False, True]

    def seconds(token: int) -> float:
        return (token - first) * TIMESTAMP_SECONDS

    def segment(part: Sequence[int], start: float, end: float) -> Iterator[Segment]:
        text = model.text(part)
        if text.strip() and end > start:
            yield Segment(at + start, at + min(end, length), text, tuple(part), heard)

    if not pairs:
        times = [token for token in ids if token > first]
        return list(segment(ids, 0.0, seconds(times[-1]) if times else length)), length
    found: list[Segment] = []
    for begin, end in zip([0, *pairs], [*pairs, *([len(ids)] if ends_alone else [])], strict=False):
        part = ids[begin:end]
        found += segment(part, seconds(part[0]), seconds(part[-1]))
    moved = length if ends_alone else min(seconds(ids[pairs[-1] - 1]), length)
    return found, moved if moved > 0 else length
