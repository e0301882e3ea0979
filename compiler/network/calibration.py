"""How much each column of a matrix counts: the mean square of the activations it meets on a text.

Knows the numpy reference and a tokenizer; nothing of how the figures are used. It runs the whole network once, in
float32, over at most `CALIBRATION_TOKENS` tokens: about 2 x parameters x tokens operations (10 to 20 seconds a billion
parameters on two cores), with one matrix at a time in memory.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from ..models.base import ModelConfig, ReadRows
from ..sources.sandbox import encode
from .calibration_text import TEXT
from .reference import ReferenceModel

CALIBRATION_TOKENS = 256
PIECE = 16  # tokens that are read together of a longer text, from places all over it: prose, code and languages alike
LEAST_TOKENS = 16
# A column that the text leaves silent still counts this much of the mean one.
FLOOR = 0.01


@dataclass(frozen=True)
class CalibrationText:
    """Token ids of a text; `sha256` is the text's."""

    ids: tuple[int, ...]
    sha256: str

    def described(self) -> dict[str, Any]:
        """As model.json says it."""
        return {"sha256": self.sha256, "tokens": len(self.ids)}


class _Recording(ReferenceModel):
    """The reference, which also sums the squares of what each matrix is multiplied with."""

    def __init__(self, config: ModelConfig, read_rows: ReadRows) -> None:
        super().__init__(config, read_rows)
        self.squares: dict[tuple[str, int | None], NDArray[np.float32]] = {}

    def _linear(self, role: str, layer: int | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.squares[role, layer] = np.square(x).mean(axis=0)
        return super()._linear(role, layer, x)


def read_calibration_text(path: Path | None, tokenizer: Path, vocab_size: int, context: int) -> CalibrationText | None:
    """Tokens of a text, of our own when `path` is None.

    None when our own has next to no tokens that the model knows, or its context holds next to none.
    Raises WispError when a text cannot be read or holds next to nothing.
    """
    try:
        content = TEXT.encode() if path is None else path.read_bytes()
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise WispError(
            "the calibration text cannot be read", got=f"{path}: {error}", expected="a UTF-8 file"
        ) from error
    ids = spread([token for token in encode(tokenizer, text) if token < vocab_size], min(CALIBRATION_TOKENS, context))
    if len(ids) < LEAST_TOKENS and path is None:
        return None
    if len(ids) < LEAST_TOKENS:
        raise WispError(
            f"the calibration text {path} is too short",
            got=f"{len(ids)} tokens",
            expected=f"at least {LEAST_TOKENS}",
            remedy="give a longer one; no more of it is read than the context holds",
        )
    return CalibrationText(tuple(ids), hashlib.sha256(content).hexdigest())


def spread(ids: Sequence[int], count: int) -> list[int]:
    """So many of a text's tokens, in pieces that begin at even distances from its beginning to its end."""
    if len(ids) <= count:
        return list(ids)
    size = min(PIECE, count)
    pieces = count // size
    starts = [(len(ids) - size) * piece // max(1, pieces - 1) for piece in range(pieces)]
    return [token for start in starts for token in ids[start : start + size]]


def column_importance(
    config: ModelConfig, read_rows: ReadRows, ids: Sequence[int]
) -> dict[tuple[str, int | None], NDArray[np.float32]]:
    """Per matrix, by (role, layer), one positive number a column. A tied embedding is weighed as the projection."""
    model = _Recording(config, read_rows)
    with np.errstate(all="ignore"):  # a model that overflows is refused by what it computes, once it is stored
        hidden = model.hidden_states(ids)
        if config.pooling is None:
            head = "lm_head" if config.has_head else "embedding"
            model.squares[head, None] = np.square(hidden).mean(axis=0)
        found = {key: squares + FLOOR * squares.mean() + 1e-20 for key, squares in model.squares.items()}
    return {key: value if np.isfinite(value).all() else np.ones_like(value) for key, value in found.items()}
