"""Transcripts as people and players read them: text, JSON, SubRip, WebVTT.

JSON is OpenAI's `verbose_json`. Knows transcripts; nothing of how they came about.
"""

import json
from collections.abc import Callable
from typing import Any

from .transcript import Transcript


def as_text(transcript: Transcript) -> str:
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """OpenAI's `verbose_json`, on one line."""
    return json.dumps(describe(transcript), ensure_ascii=False) + "\n"


def describe(transcript: Transcript) -> dict[str, Any]:
    """The object of `verbose_json`."""
    segments = [
        {
            "id": i,
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": segment.text,
            "tokens": list(segment.ids),
            "temperature": segment.heard.temperature,
            "avg_logprob": round(segment.heard.average_logprob, 6),
            "compression_ratio": round(segment.heard.compression_ratio, 6),
            "no_speech_prob": round(segment.heard.no_speech, 6),
        }
        for i, segment in enumerate(transcript.segments)
    ]
    duration = round(transcript.seconds, 3)
    return {"language": transcript.language, "duration": duration, "text": transcript.text, "segments": segments}


def as_srt(transcript: Transcript) -> str:
    """SubRip: numbered, with commas before milliseconds."""
    parts = [
        f"{i}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{_line(segment.text)}\n"
        for i, segment in enumerate(transcript.segments, 1)
    ]
    return "\n".join(parts)


def as_vtt(transcript: Transcript) -> str:
    """WebVTT (W3C), its markup escaped."""
    parts = ["WEBVTT\n"]
    for segment in transcript.segments:
        text = _line(segment.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        parts.append(f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{text}\n")
    return "\n".join(parts)


def _line(text: str) -> str:
    """A segment's text without what would end a cue."""
    return " ".join(text.split())


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


FORMATS: dict[str, Callable[[Transcript], str]] = {"text": as_text, "json": as_json, "srt": as_srt, "vtt": as_vtt}
