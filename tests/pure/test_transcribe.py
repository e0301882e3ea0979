"""What lies around a model that transcribes: rules of decoding, windows, recordings, forms, the command line."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig
from transformers.generation import WhisperTimeStampLogitsProcessor

from compiler.cli import main
from compiler.commands import transcribe as command
from compiler.errors import WispError
from compiler.speech.audio import Recording
from compiler.speech.formats import FORMATS, as_srt, as_text, as_vtt, describe
from compiler.speech.model import Heard, SpeechModel, Wanted
from compiler.speech.rules import Tokens, allowed_logits
from compiler.speech.transcript import Segment, Transcript, segments_of, transcribe

TOKENS = Tokens(
    start=51, end=50, translate=54, transcribe=55, previous=56, no_speech=57, no_timestamps=58,
    languages={"en": 52, "de": 53}, suppress=(7, 8), begin_suppress=(3, 50),
)  # fmt: skip
FIRST = TOKENS.timestamps
VOCABULARY = FIRST + 101  # timestamps up to two seconds


def heard(*ids: int, temperature: float = 0.0, logprob: float = -0.1, no_speech: float = 0.0, text: str = "") -> Heard:
    return Heard(ids, text, temperature, logprob, no_speech)


# --------------------------------------------------------------------------------------------------------------- rules


def test_timestamps_follow_the_rules_of_transformers() -> None:
    """Random logits after random beginnings: what is left is what transformers leaves."""
    rng = np.random.default_rng(0)
    config = GenerationConfig(
        no_timestamps_token_id=TOKENS.no_timestamps, eos_token_id=TOKENS.end, bos_token_id=TOKENS.end,
        max_initial_timestamp_index=50,
    )  # fmt: skip
    begin = TOKENS.beginning("en", "transcribe", timestamps=True)
    processor = WhisperTimeStampLogitsProcessor(config, begin_index=len(begin))
    beginnings: list[list[int]] = [[], [FIRST], [FIRST, 9], [FIRST, 9, FIRST + 4], [FIRST, 9, FIRST + 4, FIRST + 4]]
    beginnings += [[FIRST, 9, FIRST + 4, FIRST + 4, 11], [FIRST + 20, 9, 12], [FIRST, 9, FIRST + 100]]
    others = [*TOKENS.never, TOKENS.no_timestamps]
    for said in beginnings:
        for _ in range(20):
            logits = rng.normal(size=VOCABULARY).astype(np.float32) * 3
            silenced = logits.copy()
            silenced[others] = -np.inf
            if not said:
                silenced[list(TOKENS.begin_suppress)] = -np.inf
            ids = torch.tensor([[*begin, *said]])
            want = processor(ids, torch.from_numpy(silenced[None].copy()))[0].numpy()
            got = allowed_logits(logits, said, TOKENS, timestamps=True)
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want), err_msg=str(said))
            np.testing.assert_array_equal(got[np.isfinite(got)], logits[np.isfinite(got)])


def test_without_timestamps_none_is_said() -> None:
    got = allowed_logits(np.zeros(VOCABULARY, np.float32), [9], TOKENS, timestamps=False)
    assert np.isfinite(got[[0, 9, TOKENS.end]]).all()
    assert not np.isfinite(got[[*TOKENS.never, *range(TOKENS.no_timestamps, VOCABULARY)]]).any()


def test_a_transcript_begins_with_language_and_task() -> None:
    assert TOKENS.beginning("de", "translate", timestamps=True) == [51, 53, 54]
    assert TOKENS.beginning("en", "transcribe", timestamps=False) == [51, 52, 55, 58]
    english = Tokens(**{**vars(TOKENS), "languages": {}})
    assert english.beginning(None, "transcribe", timestamps=False) == [51, 58]
    with pytest.raises(WispError, match="knows English alone"):
        english.check("de", "transcribe")
    with pytest.raises(WispError, match="knows English alone: got --task translate"):
        english.check(None, "translate")
    with pytest.raises(WispError, match="not learned the language: got 'fr', expected one of en, de"):
        TOKENS.check("fr", "transcribe")


def test_what_is_poor_is_tried_again() -> None:
    assert not heard(text="An ordinary sentence.").is_poor
    assert heard(text="again and " * 40).is_poor
    assert heard(logprob=-1.5).is_poor
    silence = heard(logprob=-1.5, no_speech=0.9)
    assert silence.is_silence
    assert not silence.is_poor


# ------------------------------------------------------------------------------------------------------------- windows


@dataclass
class Scripted:
    """A model that hears what is written down, a window after the other; only its device is missing."""

    windows: list[Heard]
    tokens: Tokens = TOKENS
    seconds: float = 2.0
    asked: list[tuple[int, list[int]]] = field(default_factory=list)

    def hear(self, samples: Any) -> None:
        self.heard = len(samples)

    def detect_language(self) -> str:
        return "de"

    def decode(self, wanted: Wanted, language: str, before: list[int]) -> Heard:
        self.asked.append((self.heard, list(before)))
        return self.windows.pop(0)

    def text(self, ids: Any) -> str:
        return "".join(f" {token}" for token in ids if token < TOKENS.end)

    def ids(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def as_model(self) -> SpeechModel:
        return cast(SpeechModel, self)


def write(path: Path, samples: Any, rate: int = 16000, **options: Any) -> Path:
    soundfile.write(path, np.asarray(samples), rate, **options)
    return path


def test_a_window_ends_at_its_last_pair_of_timestamps(tmp_path: Path) -> None:
    first = heard(FIRST, 1, FIRST + 50, FIRST + 50, 2)  # the second sentence is cut off
    second = heard(FIRST, 2, 3, FIRST + 60)
    model = Scripted([first, second])
    with Recording(write(tmp_path / "a.wav", np.zeros(40000))) as recording:
        found = transcribe(model.as_model(), recording, Wanted())
    assert [(s.start, s.end, s.text) for s in found.segments] == [(0.0, 1.0, " 1"), (1.0, 2.2, " 2 3")]
    assert model.asked == [(32000, []), (24000, [FIRST, 1, FIRST + 50])]
    assert (found.language, found.text) == ("de", "1 2 3")


def test_silence_and_drawn_texts_tell_the_next_window_nothing(tmp_path: Path) -> None:
    drawn = heard(FIRST, 1, FIRST + 100, temperature=0.8)
    silence = heard(FIRST, 4, FIRST + 100, logprob=-2.0, no_speech=0.9)
    model = Scripted([drawn, silence, heard(FIRST, 2, FIRST + 10)])
    with Recording(write(tmp_path / "a.wav", np.zeros(5 * 16000))) as recording:
        found = transcribe(model.as_model(), recording, Wanted(language="en"))
    assert [text for _, text in model.asked] == [[], [], []]
    assert found.text == "1 2"


def test_the_first_window_is_told_the_prompt(tmp_path: Path) -> None:
    model = Scripted([heard(FIRST, 1, FIRST + 100), heard(FIRST, 2, FIRST + 50)])
    with Recording(write(tmp_path / "a.wav", np.zeros(3 * 16000))) as recording:
        found = transcribe(model.as_model(), recording, Wanted(language="en", prompt="40 41"))
    assert [told for _, told in model.asked] == [[40, 41], [40, 41, FIRST, 1, FIRST + 100]]
    assert found.text == "1 2"


def test_a_window_without_pairs_is_one_segment() -> None:
    model = Scripted([]).as_model()
    for ids, end in (((1, 2), 1.5), ((FIRST, 1, FIRST + 25), 0.5)):
        segments, moved = segments_of(heard(*ids), model, 10.0, 1.5)
        assert [(s.start, s.end) for s in segments] == [(10.0, 10.0 + end)]
        assert moved == 1.5
    assert segments_of(heard(FIRST, FIRST + 25), model, 0.0, 1.5) == ([], 1.5)


# ---------------------------------------------------------------------------------------------------------- recordings


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000])
def test_recordings_of_any_rate_are_mono_at_16_khz(tmp_path: Path, rate: int) -> None:
    time = np.arange(3 * rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 440 * time)
    file = write(tmp_path / "a.flac", np.stack([tone * 1.5, tone * 0.5], axis=1), rate)
    with Recording(file) as recording:
        assert recording.seconds == 3.0
        for start, seconds in ((0.0, 2.0), (0.5, 1.0), (2.5, 30.0)):
            got = recording.window(start, seconds)
            count = round(min(seconds, 3.0 - start) * 16000)
            assert abs(len(got) - count) <= 1 + 16000 // rate
            want = 0.4 * np.sin(2 * np.pi * 440 * (start + np.arange(len(got)) / 16000))
            inside = slice(400, len(got) - 400)  # a filter rings at the ends
            np.testing.assert_allclose(got[inside], want[inside], atol=2e-3)


def test_32_bit_floats_beyond_1_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", np.full(1600, 3.0, np.float32), subtype="FLOAT")
    with Recording(file) as recording:
        assert recording.window(0.0, 1.0).max() == 3.0


FORMAT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
NO_SAMPLES = struct.pack("<4sI4s", b"RIFF", 36, b"WAVE") + FORMAT + struct.pack("<4sI", b"data", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"RIFF", "cannot be read"),
        (b"\x00" * 4096, "expected a WAV, FLAC, Ogg or MP3 file"),
        (NO_SAMPLES, "is empty"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(WispError, match=message):
        Recording(tmp_path / "a.wav")


def test_samples_have_to_be_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", np.array([0.0, np.nan], np.float32), subtype="FLOAT")
    with Recording(file) as recording, pytest.raises(WispError, match="samples that are not finite"):
        recording.window(0.0, 1.0)


# --------------------------------------------------------------------------------------------------------------- forms


def spoken() -> Transcript:
    segments = (
        Segment(0.0, 1.5, " It <b>is</b> & was.", (FIRST, 1, FIRST + 75), heard(text=" It <b>is</b> & was.")),
        Segment(3661.0, 3662.25, " Two\nlines.", (FIRST, 2, FIRST + 62), heard()),
    )
    return Transcript("en", 3663.0, segments)


def test_forms_of_a_transcript() -> None:
    assert as_text(spoken()) == "It <b>is</b> & was. Two\nlines.\n"
    assert as_srt(spoken()) == (
        "1\n00:00:00,000 --> 00:00:01,500\nIt <b>is</b> & was.\n\n2\n01:01:01,000 --> 01:01:02,250\nTwo lines.\n"
    )
    assert as_vtt(spoken()) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nIt &lt;b&gt;is&lt;/b&gt; &amp; was.\n\n"
        "01:01:01.000 --> 01:01:02.250\nTwo lines.\n"
    )
    described = describe(spoken())
    assert (described["language"], described["duration"]) == ("en", 3663.0)
    assert [(s["id"], s["start"], s["end"]) for s in described["segments"]] == [(0, 0.0, 1.5), (1, 3661.0, 3662.25)]


# -------------------------------------------------------------------------------------------------------- command line


def test_the_command_offers_every_form() -> None:
    assert tuple(FORMATS) == command.FORMATS


def test_recordings_are_looked_at_before_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", str(tmp_path / "none.wav"), "--model", "nowhere"]) == 2
    assert "there is no such recording" in capsys.readouterr().err
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    files = [write(tmp_path / name / "a.wav", np.zeros(160)) for name in ("x", "y")]
    assert main(["transcribe", *map(str, files), "--model", "nowhere", "-o", str(tmp_path / "out")]) == 2
    assert "recordings of one name would share a file" in capsys.readouterr().err
