"""Recordings in files as mono samples at 16 kHz, a window at a time: what is in memory is bounded, whatever the length.

Knows what `soundfile` reads (WAV, FLAC, Ogg, MP3) and how `soxr` resamples; nothing of speech.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from .mel import SAMPLE_RATE

MARGIN = 0.05  # seconds on either side of a window that resampling looks at


class Recording:
    """An open file. `seconds` is its length. Close it, or use it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Raises WispError for what is no recording, and for an empty one."""
        soundfile = _soundfile()
        self.path = path
        if not path.is_file():
            raise WispError("there is no such recording", got=path)
        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.SoundFileError, OSError) as error:
            raise _unreadable(path, str(error)) from error
        self._rate = int(self._file.samplerate)
        self.frames = int(self._file.frames)
        if self.frames <= 0:
            self.close()
            raise WispError(f"the recording {path} is empty", got="no samples", expected="a recording of speech")

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def seconds(self) -> float:
        return self.frames / self._rate

    def window(self, start: float, seconds: float) -> NDArray[np.float32]:
        """Mono samples at 16 kHz from `start` on, at most `seconds` of them; fewer at the end."""
        if self._rate == SAMPLE_RATE:
            return self._read(round(start * SAMPLE_RATE), round(seconds * SAMPLE_RATE))
        import soxr

        # A whole second is a whole number of samples at either rate.
        second = max(0, math.floor(start - MARGIN))
        first, last = second * self._rate, round((start + seconds + MARGIN) * self._rate)
        samples = soxr.resample(self._read(first, last - first), self._rate, SAMPLE_RATE)
        skipped = round((start - second) * SAMPLE_RATE)
        cut: NDArray[np.float32] = samples[skipped : skipped + round(seconds * SAMPLE_RATE)]
        return cut

    def _read(self, first: int, count: int) -> NDArray[np.float32]:
        soundfile = _soundfile()
        try:
            self._file.seek(min(first, self.frames))
            samples = self._file.read(count, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise _unreadable(self.path, str(error)) from error
        mono: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
        if not np.isfinite(mono).all():
            raise _unreadable(self.path, "samples that are not finite")
        return mono


def _soundfile() -> Any:
    try:
        import soundfile
        import soxr  # noqa: F401 (what reads some files reads all)
    except (ImportError, OSError) as error:  # OSError: the library behind it
        raise WispError(
            "recordings cannot be read", got=str(error), remedy="pip install 'wisp[speech]' (soundfile and soxr)"
        ) from error
    return soundfile


def _unreadable(path: Path, reason: str) -> WispError:
    return WispError(
        f"the recording {path} cannot be read",
        got=reason,
        expected="a WAV, FLAC, Ogg or MP3 file",
        remedy="convert it, for example with ffmpeg",
    )
