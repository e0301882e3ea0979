"""Whisper as CTranslate2 converts it (faster-whisper's directories): `model.bin`, a config.json of ids, tokenizer.json.

The file is a version, a specification's name and its revision, tensors by name, then aliases
(`ctranslate2/specs/model_spec.py`). Knows its layout and what its names are in Hugging Face's checkpoints; everything
is checked against the file's length before it is believed.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from .files import is_file, read_object
from .huggingface import Fetch, HuggingFaceCheckpoint
from .protocol import CheckpointSource, TensorInfo

MODEL_FILE = "model.bin"
SPECIFICATION = "WhisperSpec"
VERSIONS = (5, 6)
# By the number in the file: safetensors' name, numpy's type.
TYPES: dict[int, tuple[str, Any]] = {
    0: ("F32", np.float32),
    1: ("I8", np.int8),
    2: ("I16", np.int16),
    3: ("I32", np.int32),
    4: ("F16", np.float16),
    5: ("BF16", ml_dtypes.bfloat16),
}
MOST_TENSORS, MOST_AXES = 1 << 16, 8
SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class _Stored:
    """A tensor in the file."""

    type: int
    shape: tuple[int, ...]
    offset: int


def is_converted(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one that CTranslate2 writes beside a converted Whisper."""
    return "model_type" not in config and ("suppress_ids" in config or "lang_ids" in config)


class CTranslate2Checkpoint(HuggingFaceCheckpoint):
    """A converted Whisper; `config` is what Hugging Face's config.json would say."""

    def __init__(self, directory: Path, source: CheckpointSource, fetch: Fetch) -> None:
        super().__init__(directory, source, fetch)
        fetch([MODEL_FILE])
        if not is_file(directory / MODEL_FILE):
            raise WispError("the checkpoint has no weights", got=f"no {MODEL_FILE}", expected="what CTranslate2 writes")
        self._file = directory / MODEL_FILE
        self._stored = read_header(self._file)
        self._places = dict(_places(self._stored))
        self.config = self._described(read_object(directory / "config.json"))

    def _described(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        layers = {side: len(_layers(self._stored, side)) for side in SIDES}
        try:
            shapes = {name: self._stored[name].shape for name in self._stored}
            vocab_size, hidden = shapes["decoder/embeddings/weight"]
            end = self.token_ids.get("<|endoftext|>")
            return {
                "model_type": "whisper",
                "d_model": hidden,
                "vocab_size": vocab_size,
                **{f"{side}_layers": count for side, count in layers.items()},
                **{f"{side}_attention_heads": self._number(f"{side}/num_heads") for side in SIDES},
                **{f"{side}_ffn_dim": shapes[f"{side}/layer_0/ffn/linear_0/weight"][0] for side in SIDES},
                "num_mel_bins": shapes["encoder/conv1/weight"][1],
                "max_source_positions": shapes["encoder/position_encodings/encodings"][0],
                "max_target_positions": shapes["decoder/position_encodings/encodings"][0],
                "bos_token_id": end,
                "eos_token_id": end,
                "suppress_tokens": stated.get("suppress_ids"),
                "begin_suppress_tokens": stated.get("suppress_ids_begin"),
                "alignment_heads": stated.get("alignment_heads"),
            }
        except (KeyError, ValueError, IndexError) as error:
            _damaged(self._file, f"no usable tensor {error}")

    def _number(self, name: str) -> int:
        return int(self._values(name, 0, 1)[0])

    def _read_headers(self) -> dict[str, TensorInfo]:
        """Every tensor by Hugging Face's name; what has none there keeps its own."""
        found = {}
        for name, (stored, first, rows) in self._places.items():
            kind, shape = TYPES[self._stored[stored].type][0], self._stored[stored].shape
            there = max(0, min(rows, shape[0] - first)) if rows else shape[0]
            found[name] = TensorInfo(kind, (there, *shape[1:]), self._file, stored)
        return found

    def _says_nothing(self, name: str) -> bool:
        """Settings of the network are single numbers, and were read."""
        return name in self._stored and math.prod(self._stored[name].shape) <= 1

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `[start, stop)` of a tensor in float32. Only those rows are read."""
        stored, first, _ = self._places[name]
        stop = self.tensors[name].shape[0] if stop is None else stop
        return self._values(stored, first + start, first + stop).astype(np.float32)

    def _values(self, name: str, start: int, stop: int) -> NDArray[Any]:
        stored = self._stored[name]
        dtype, row = np.dtype(TYPES[stored.type][1]), stored.shape[1:]
        count = math.prod(row)
        with self._file.open("rb") as file:
            file.seek(stored.offset + start * count * dtype.itemsize)
            data = file.read((stop - start) * count * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(stop - start, *row)


def read_header(file: Path) -> dict[str, _Stored]:
    """The tensors of a file by name. Raises WispError for a damaged one and for one of another network."""
    size = file.stat().st_size
    with file.open("rb") as stream:

        def number(code: str) -> int:
            data = stream.read(struct.calcsize(code))
            if len(data) != struct.calcsize(code):
                _damaged(file, f"it ends at byte {size}")
            (value,) = struct.unpack(f"<{code}", data)
            return int(value)

        def text() -> str:
            data = stream.read(number("H"))
            return data[:-1].decode("utf-8", "replace")

        version, specification = number("I"), text()
        if version not in VERSIONS or specification != SPECIFICATION:
            raise WispError(
                f"{file.name} cannot be compiled",
                got=f"{specification[:60]!r} of version {version}",
                expected=f"{SPECIFICATION} of version {' or '.join(map(str, VERSIONS))}",
                remedy="compile the checkpoint that it was converted from",
            )
        number("I")
        count = number("I")
        if count > MOST_TENSORS:
            _damaged(file, f"{count} tensors")
        found: dict[str, _Stored] = {}
        for _ in range(count):
            name, axes = text(), number("B")
            if axes > MOST_AXES or name in found:
                _damaged(file, f"tensor {name[:100]} of {axes} axes" if axes > MOST_AXES else f"{name[:100]} twice")
            shape = tuple(number("I") for _ in range(axes)) or (1,)
            kind, length, offset = number("B"), number("I"), stream.tell()
            if kind not in TYPES or math.prod(shape) * np.dtype(TYPES[kind][1]).itemsize != length:
                _damaged(file, f"tensor {name[:100]} of {list(shape)} in {length} bytes")
            if offset + length > size:
                _damaged(file, f"tensor {name[:100]} ends at byte {offset + length} of {size}")
            stream.seek(length, 1)
            found[name] = _Stored(kind, shape, offset)
    return found


def _damaged(file: Path, reason: str) -> NoReturn:
    raise WispError(f"{file.name} is damaged", got=reason, expected="what CTranslate2 writes", remedy="get it again")


# Within a layer: (ours, theirs, rows of which part of how many; none: all).
_LINEAR = {
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": ("self_attention/linear_1", 0, 1),
    "encoder_attn.q_proj": ("attention/linear_0", 0, 1),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": ("attention/linear_2", 0, 1),
    "fc1": ("ffn/linear_0", 0, 1),
    "fc2": ("ffn/linear_1", 0, 1),
}
_NORMS = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "final_layer_norm": "ffn/layer_norm",
}
_AROUND = {
    "embed_positions.weight": "position_encodings/encodings",
    "embed_tokens.weight": "embeddings/weight",
    "layer_norm.weight": "layer_norm/gamma",
    "layer_norm.bias": "layer_norm/beta",
    **{f"conv{i}.{kind}": f"conv{i}/{kind}" for i in (1, 2) for kind in ("weight", "bias")},
}


def _layers(stored: Mapping[str, _Stored], side: str) -> list[str]:
    """The names of a side's layers, which begin so in those of their tensors."""
    names = (name.split("/") for name in stored if name.startswith(f"{side}/layer_"))
    return sorted({parts[1] for parts in names if len(parts) > 3})


def _places(stored: Mapping[str, _Stored]) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """Hugging Face's names: (the tensor in the file, its first row, rows or 0 for all); others under their own."""
    known: set[str] = set()

    def place(ours: str, theirs: str, part: int = 0, parts: int = 1) -> Iterator[tuple[str, tuple[str, int, int]]]:
        if theirs in stored:
            known.add(theirs)
            rows = stored[theirs].shape[0] // parts
            yield ours, (theirs, part * rows, rows if parts > 1 else 0)

    for side in SIDES:
        for ours, theirs in _AROUND.items():
            yield from place(f"model.{side}.{ours}", f"{side}/{theirs}")
        for layer in _layers(stored, side):
            begin, inner = f"model.{side}.layers.{layer.removeprefix('layer_')}.", f"{side}/{layer}/"
            for ours, (theirs, part, parts) in _LINEAR.items():
                yield from place(f"{begin}{ours}.weight", f"{inner}{theirs}/weight", part, parts)
                if not ours.endswith("k_proj"):  # zeros
                    yield from place(f"{begin}{ours}.bias", f"{inner}{theirs}/bias", part, parts)
            for ours, theirs in _NORMS.items():
                yield from place(f"{begin}{ours}.weight", f"{inner}{theirs}/gamma")
                yield from place(f"{begin}{ours}.bias", f"{inner}{theirs}/beta")
    for name in stored.keys() - known:
        yield name, (name, 0, 0)
