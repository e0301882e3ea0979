"""Log-mel bands of a recording, as Whisper was trained on them: 16 kHz, windows of 25 ms every 10 ms.

Knows samples; nothing of files or models. Equal to `WhisperFeatureExtractor` of transformers, whose filters are
Slaney's (Auditory Toolbox, 1998): linear up to 1 kHz, logarithmic above, each of area 1.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
FFT, HOP = 400, 160
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
LINEAR_HZ, LINEAR_MEL = 1000.0, 15.0  # where the scale turns logarithmic
LOG_STEP = np.log(6.4) / 27.0
LEAST = 1e-10
RANGE = 8.0  # powers of ten below the largest that count
BLOCK = 3000  # frames that are transformed at once


@cache
def mel_filters(bands: int) -> NDArray[np.float32]:
    """`[bands, 201]`: triangles over the frequencies of the transform."""
    mels = np.linspace(0.0, _to_mel(SAMPLE_RATE / 2), bands + 2)
    edges = np.where(
        mels < LINEAR_MEL, mels * LINEAR_HZ / LINEAR_MEL, LINEAR_HZ * np.exp(LOG_STEP * (mels - LINEAR_MEL))
    )
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1)
    slopes = edges[:, None] - frequencies[None, :]
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0.0, np.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]))
    filters: NDArray[np.float32] = (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    return filters


def _to_mel(hertz: float) -> float:
    return float(LINEAR_MEL + np.log(hertz / LINEAR_HZ) / LOG_STEP)


def log_mel(samples: NDArray[np.float32], bands: int, frames: int) -> NDArray[np.float32]:
    """`[bands, frames]` of mono samples at 16 kHz: those of a window, with silence behind them or cut.

    The largest value is of the window alone, as the extractor has it when it is given a window.
    """
    window = np.zeros(frames * HOP, np.float32)
    window[: min(len(samples), len(window))] = samples[: len(window)]
    padded = np.pad(window, FFT // 2, mode="reflect").astype(np.float64)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    slices = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP][:frames]
    blocks = (np.abs(np.fft.rfft(slices[i : i + BLOCK] * hann)) ** 2 for i in range(0, frames, BLOCK))
    power = np.concatenate(list(blocks))  # (frames, 201)
    logs = np.log10(np.maximum(mel_filters(bands).astype(np.float64) @ power.T, LEAST))
    logs = np.maximum(logs, logs.max() - RANGE)
    result: NDArray[np.float32] = ((logs + 4.0) / 4.0).astype(np.float32)
    return result
