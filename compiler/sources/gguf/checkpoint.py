"""A GGUF file as a `Checkpoint`: Hugging Face's configuration, names and row order over ggml's blocks.

Reads weights some rows at a time, so that memory does not grow with the model. Rebuilt tokenizer files lie in a
temporary directory that goes with the object.
"""

import json
import shutil
import tempfile
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from ...errors import WispError
from ...models.base import WeightSpec
from ...weights.kept import Floats, Held, Steps, held_as, holds, pack_groups
from ...weights.quantize import GroupScales, parameter_layout
from ...weights.schemes import Scheme
from ..huggingface import HuggingFaceCheckpoint
from ..protocol import CheckpointSource, TensorInfo
from .architecture import ROPE_TENSORS, family, huggingface_config
from .dequantize import SCALED_GROUP, SCALED_TYPES, dequantize_rows, group_scales, row_bytes
from .metadata import Metadata
from .reader import GgufTensor, damaged, read_header
from .repack import FLOATS, KINDS, decode_rows
from .tokenizer import rebuild_tokenizer

REPACKED_ELEMENTS = 1 << 21  # what is unpacked at a time
# generation_config.json's names of what a file may recommend.
SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


@dataclass(frozen=True)
class Part:
    """Rows `[first, first + rows)` of a GGUF tensor, under a checkpoint's name; `heads` when they are permuted.

    `offset` is what the file's values have more than the checkpoint's.
    """

    tensor: GgufTensor
    first: int
    rows: int
    heads: int | None
    offset: float = 0.0


class GgufCheckpoint(HuggingFaceCheckpoint):
    """An open GGUF file, perhaps of several parts. Its header is read and proven at once; weights when asked for."""

    def __init__(
        self, file: Path, ignored_fields: Collection[str] = (), source: CheckpointSource | None = None
    ) -> None:
        self.file, self.directory = file, file.parent
        self.source = source or CheckpointSource("gguf", file.name, None)
        self._header = read_header(file)
        metadata = Metadata(file.name, self._header.metadata)
        stated = metadata.get("general.license")
        self.license = stated if isinstance(stated, str) and stated else None
        shapes = {name: tensor.shape for name, tensor in self._header.tensors.items()}
        self.config: dict[str, Any] = huggingface_config(metadata, shapes, self._read_vector, ignored_fields)
        tokens = rebuild_tokenizer(metadata)
        self.config |= {"bos_token_id": tokens.bos_token_id, "eos_token_id": list(tokens.end_token_ids)}
        self.generation_config = {
            ours: metadata.get(key) for ours, key in SAMPLING.items() if metadata.get(key) is not None
        }
        self.tokenizer_config = tokens.config
        self._tokenizer = tokens.json
        self._parts = self._name_parts(metadata)
        self._leasts: dict[GgufTensor, int] = {}  # of tensors of Q8_0

    # ------------------------------------------------------------------------------------------------------- tokenizer

    @cached_property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """tokenizer.json and tokenizer_config.json, rebuilt from the metadata."""
        directory = Path(tempfile.mkdtemp(prefix="wisp-tokenizer-"))
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        files = {"tokenizer.json": self._tokenizer, "tokenizer_config.json": self.tokenizer_config}
        for name, content in files.items():
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (directory / name).write_text(text, encoding="utf-8")
        return tuple(directory / name for name in files)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a conversation; None when the file has none."""
        template: str | None = self.tokenizer_config.get("chat_template")
        return template

    # --------------------------------------------------------------------------------------------------------- weights

    def _name_parts(self, metadata: Metadata) -> dict[str, Part]:
        """The checkpoint's names and what they stand for; a tensor without one keeps its own."""
        kind = family(metadata)
        heads = {"attn_q": self.config["num_attention_heads"], "attn_k": self.config["num_key_value_heads"]}
        parts: dict[str, Part] = {}
        for name, tensor in self._header.tensors.items():
            stem, _, suffix = name.rpartition(".")
            match stem.split("."):
                case ["blk", number, inner] if inner in kind.fused:
                    names = [f"model.layers.{number}.{kind.layer[i]}.{suffix}" for i in kind.fused[inner]]
                    rows = [tensor.shape[0] // len(names)] * len(names)
                    if sum(rows) == tensor.shape[0]:
                        for i, part in enumerate(names):
                            parts[part] = Part(tensor, i * rows[i], rows[i], None)
                        continue
                case ["blk", number, inner] if inner in kind.layer:
                    permuted = heads[inner] if inner in kind.permuted else None
                    if permuted and tensor.shape[0] % (2 * permuted):
                        raise damaged(self.file, f"tensor {name} of {tensor.shape[0]} rows in {permuted} heads")
                    full = f"model.layers.{number}.{kind.layer[inner]}.{suffix}"
                    offset = kind.norm_offset if inner.endswith("norm") else 0.0
                    parts[full] = Part(tensor, 0, tensor.shape[0], permuted, offset)
                    continue
                case [inner] if inner in kind.root:
                    offset = kind.norm_offset if inner == "output_norm" else 0.0
                    parts[f"{kind.root[inner]}.{suffix}"] = Part(tensor, 0, tensor.shape[0], None, offset)
                    continue
            if name not in ROPE_TENSORS:
                parts[name] = Part(tensor, 0, tensor.shape[0], None)
        return parts

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by the checkpoint's name, of the type that it is read as; blocks in a vector are not read."""
        return {
            name: TensorInfo(
                part.tensor.type.name if part.tensor.is_blocked_vector else "F32",
                (part.rows, *part.tensor.shape[1:]),
                part.tensor.file,
            )
            for name, part in self._parts.items()
        }

    def check_weights(self, specs: Sequence[WeightSpec], tied: bool) -> None:
        """Raises one WispError that lists every missing, unexpected or wrongly shaped tensor. Reads no weights."""
        try:
            super().check_weights(specs, tied)
        except WispError as error:
            raise WispError(
                f"the tensors of {self.file.name} do not match its metadata",
                got=error.got,
                remedy="convert the original checkpoint again",
            ) from error

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `[start, stop)` of a tensor in float32. Only those rows are read, of permuted ones whole heads."""
        part = self._parts[name]
        stop = part.rows if stop is None else stop
        rows = dequantize_rows(self._raw(part, start, stop), part.tensor.type)
        rows = rows.reshape(stop - start, *part.tensor.shape[1:])
        return rows - np.float32(part.offset) if part.offset else rows

    def source_scales(self, spec: WeightSpec, first: int = 0) -> GroupScales | None:
        """The scales of a matrix's groups of 32; None when none of its tensors has such groups."""
        parts = [self._parts[source] for source in spec.sources]
        if spec.kind != "matrix" or not any(part.tensor.type in SCALED_TYPES for part in parts):
            return None

        def scales(start: int, stop: int) -> NDArray[np.float16]:
            found, row = [], 0
            for part in parts:
                low, high = max(first + start - row, 0), min(first + stop - row, part.rows)
                if low < high and part.tensor.type in SCALED_TYPES:
                    found.append(group_scales(self._raw(part, low, high), part.tensor.type))
                elif low < high:
                    found.append(np.zeros((high - low, -(-spec.shape[1] // SCALED_GROUP)), np.float16))
                row += part.rows
            return np.concatenate(found)

        return scales

    # ------------------------------------------------------------------------------------- values as they are quantized

    @cached_property
    def _is_quantized(self) -> bool:
        """Whether any matrix is; the floats of a file without one are quantized like those of every other source."""
        return any(tensor.type in KINDS and len(tensor.shape) > 1 for tensor in self._header.tensors.values())

    def held(self, spec: WeightSpec) -> Held | None:
        """The scheme that takes a matrix's blocks as they are; all its parts where it is made of several."""
        missing = [source for source in spec.sources if source not in self._parts]  # `check_weights` complains
        if spec.kind != "matrix" or not self._is_quantized or missing:
            return None
        return held_as([self._format(self._parts[source].tensor) for source in spec.sources])

    def stored(self, spec: WeightSpec, scheme: Scheme) -> list[tuple[str, NDArray]] | None:
        """The blocks of a matrix in the words of the scheme, some rows at a time; None where it does not hold them."""
        parts, own = [self._parts[source] for source in spec.sources], scheme.of(spec)
        formats = [self._format(part.tensor) for part in parts] if spec.kind == "matrix" else []
        steps = [form for form in formats if isinstance(form, Steps) and holds(own, form)]
        if not steps or len(steps) < len(parts):
            return None
        layout = parameter_layout(spec, scheme)
        outputs = [np.empty(shape, dtype) for _, dtype, shape in layout]
        first, most = 0, max(1, REPACKED_ELEMENTS // spec.shape[1])
        for part, form in zip(parts, steps, strict=True):
            for start in range(0, part.rows, most):
                stop = min(part.rows, start + most)
                groups = decode_rows(self._raw(part, start, stop), part.tensor.type)
                for output, packed in zip(outputs, pack_groups(spec, form, groups, own), strict=True):
                    output[first + start : first + stop] = packed
            first += part.rows
        return [(name, output) for (name, _, _), output in zip(layout, outputs, strict=True)]

    def _format(self, tensor: GgufTensor) -> Steps | Floats:
        """What a tensor's type can say."""
        if tensor.type in FLOATS:
            return FLOATS[tensor.type]
        steps = KINDS[tensor.type].steps
        return self._with_least(tensor, steps) if tensor.type == GGMLQuantizationType.Q8_0 else steps

    def _with_least(self, tensor: GgufTensor, steps: Steps) -> Steps:
        """A tensor of Q8_0: with -128 among what it can say where that is in it, as other tools may write it."""
        if tensor not in self._leasts:
            most = max(1, REPACKED_ELEMENTS // tensor.shape[-1])
            blocks = (
                self._raw_rows(tensor, start, min(tensor.shape[0], start + most))
                for start in range(0, tensor.shape[0], most)
            )
            found = any((decode_rows(raw, tensor.type).q == -128).any() for raw in blocks)
            self._leasts[tensor] = -128 if found else steps.least
        return replace(steps, least=self._leasts[tensor])

    # -------------------------------------------------------------------------------------------------------- raw bytes

    def _raw(self, part: Part, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of rows `[start, stop)` of a part, (R, bytes of a row), in the checkpoint's order."""
        if part.heads is None:
            return self._raw_rows(part.tensor, part.first + start, part.first + stop)
        # Row (head, half, i) of the checkpoint is row (head, i, half) here.
        size = part.rows // part.heads
        head, within = np.divmod(np.arange(start, stop), size)
        half, i = np.divmod(within, size // 2)
        first, last = start // size * size, -(-stop // size) * size
        return self._raw_rows(part.tensor, first, last)[head * size + 2 * i + half - first]

    def _raw_rows(self, tensor: GgufTensor, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of rows `[start, stop)` as they lie in the file; an element of a vector is a row."""
        columns = int(np.prod(tensor.shape[1:], dtype=np.int64))
        width = row_bytes(tensor.type, columns)
        try:
            raw = np.fromfile(tensor.file, np.uint8, (stop - start) * width, offset=tensor.offset + start * width)
        except OSError as error:
            raise WispError(f"{tensor.file.name} cannot be read", got=error.strerror) from error
        if raw.size != (stop - start) * width:
            raise damaged(tensor.file, "it became shorter while it was read")
        return raw.reshape(stop - start, width)

    def _read_vector(self, name: str) -> NDArray[np.float32] | None:
        """A vector by its GGUF name; None when it is not there."""
        if name not in self._header.tensors:
            return None
        tensor = self._header.tensors[name]
        if tensor.is_blocked_vector:
            raise damaged(self.file, f"tensor {name} is a vector of type {tensor.type.name}")
        return dequantize_rows(self._raw_rows(tensor, 0, tensor.shape[0]), tensor.type).reshape(-1)
