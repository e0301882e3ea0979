"""Checkpoints whose matrices were quantized by another tool: integers in words, with scales and zeros, in safetensors.

What is common to AWQ, GPTQ and MLX: a matrix lies in several tensors of one stem, others are floats as ever. Each
format's own file says what its tensors hold; this one makes a checkpoint of it whose values are kept as they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from ..models.base import WeightSpec
from ..models.fields import FieldReader
from ..weights.kept import Floats, Groups, Held, Steps, held_as, holds, pack_groups
from ..weights.quantize import parameter_layout
from ..weights.schemes import SCHEMES, Scheme
from . import safetensors
from .huggingface import Fetch, HuggingFaceCheckpoint
from .protocol import CheckpointSource, TensorInfo

# What a matrix in act-order is quantized to again, where a scheme is named or an adapter changes it.
REQUANTIZED = "q8f16_1"
UNPACKED_ELEMENTS = 1 << 21  # what is unpacked at a time

GROUP_SIZES = (32, 64, 128)
# Fields of quantization_config that say how the weights were found, or how another engine runs them.
INERT_FIELDS = frozenset(
    (
        "modules_to_not_convert",
        "modules_in_block_to_quantize",
        "block_name_to_quantize",
        "module_name_preceding_first_block",
        "do_fuse",
        "fuse_max_seq_len",
        "modules_to_fuse",
        "exllama_config",
        "use_exllama",
        "disable_exllama",
        "use_cuda_fp16",
        "max_input_length",
        "cache_block_outputs",
        "backend",
        "batch_size",
        "damp_percent",
        "damp_auto_increment",
        "dataset",
        "tokenizer",
        "true_sequential",
        "model_seqlen",
        "model_name_or_path",
        "model_file_base_name",
        "pad_token_id",
        "lm_head",
        "meta",
        "quantizer",
    )
)
# Tensors of a matrix by their suffixes.
Parts = Mapping[str, NDArray]


class Format(Protocol):
    """How one tool packs a matrix. Suffixes name its tensors behind the stem."""

    @property
    def name(self) -> str: ...

    @property
    def suffixes(self) -> Mapping[str, int]:
        """Tensors of a matrix, words first -> how many of its rows an element along `row_axis` holds."""
        ...

    @property
    def scales(self) -> str:
        """The suffix of a matrix's scales."""
        ...

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tensors that may stand beside them and say nothing more, once `check` has seen them."""
        ...

    @property
    def index(self) -> str:
        """The suffix, among `ignored`, of the group that each column is of (act-order); empty where there is none."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether groups follow each other where nothing says which column is of which."""
        ...

    @property
    def row_axis(self) -> int:
        """The axis of the tensors along which the rows of the matrix lie."""
        ...

    def shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        """(rows, columns) of the matrix whose words have this shape."""
        ...

    def shapes(self, rows: int, columns: int) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Each suffix -> the types that its tensor may have, and the shape that it has to have."""
        ...

    def steps(self, columns: int, scales: str) -> Steps:
        """What can be said of a matrix with that many columns and scales of that type."""
        ...

    def decode(self, parts: Parts) -> Groups:
        """Integers and factors of the rows that the parts hold."""
        ...

    def check(self, stem: str, shape: tuple[int, int], ignored: Parts) -> None:
        """Raises WispError for a matrix that cannot be kept, by the tensors that are otherwise ignored."""
        ...


def group_size_of(reader: FieldReader) -> int:
    """`group_size` of a configuration; 0 where a whole row is a group."""
    size = reader.get("group_size")
    if isinstance(size, bool) or size not in (-1, *GROUP_SIZES):
        reader.refuse("group_size", ", ".join(map(str, GROUP_SIZES)) + " or -1", "compile the original checkpoint")
    return 0 if size == -1 else int(size)


def unpacked(words: NDArray, bits: int) -> NDArray[np.uint8]:
    """(N, words) of 32 bits -> (N, words * 32 / bits), the first element in the low bits."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    elements = np.ascontiguousarray(words).view("<u4")[:, :, None] >> shifts & np.uint32(2**bits - 1)
    return elements.astype(np.uint8).reshape(len(words), -1)


class PackedCheckpoint(HuggingFaceCheckpoint):
    """An open checkpoint of a format. `tensors` has `STEM.weight` for a packed matrix, as if it were floats."""

    def __init__(self, directory: Path, source: CheckpointSource, fetch: Fetch, form: Format) -> None:
        super().__init__(directory, source, fetch)
        self._form = form
        for field in ("quantization", "quantization_config"):  # read by now, as the format
            self.config.pop(field, None)

    @cached_property
    def _raw(self) -> dict[str, TensorInfo]:
        """Every tensor as the files have them."""
        return self._read_headers()

    @cached_property
    def _packed(self) -> dict[str, tuple[int, int]]:
        """Stems of packed matrices -> shapes. Raises WispError for one whose tensors do not fit each other."""
        first = next(iter(self._form.suffixes))
        found: dict[str, tuple[int, int]] = {}
        odd: list[str] = []
        for name, info in self._raw.items():
            stem, _, suffix = name.rpartition(".")
            if suffix != first or f"{stem}.{self._form.scales}" not in self._raw:
                continue
            if len(info.shape) != 2:
                odd.append(f"{name} of shape {list(info.shape)}")
                continue
            found[stem] = self._form.shape(info.shape)
            odd += self._misfits(stem, *found[stem])
        if odd:
            raise WispError(
                f"tensors of a matrix in {self._form.name} do not fit each other",
                got="; ".join(odd[:4]) + (f" and {len(odd) - 4} more" if len(odd) > 4 else ""),
                expected=f"what quantization_config says: {', '.join(self._form.suffixes)} of one matrix",
                remedy="download the checkpoint again, or compile the original one",
            )
        if not found:
            raise WispError(
                f"the checkpoint holds no matrix in {self._form.name}",
                expected=f"tensors NAME.{first} and NAME.{self._form.scales}, as quantization_config says",
                remedy="download the checkpoint again, or compile the original one",
            )
        return found

    def _misfits(self, stem: str, rows: int, columns: int) -> Iterator[str]:
        for suffix, (types, shape) in self._form.shapes(rows, columns).items():
            part = self._raw.get(f"{stem}.{suffix}")
            wanted = f"{' or '.join(types)} {list(shape)}"
            if part is None:
                yield f"no {stem}.{suffix}"
            elif part.dtype not in types or part.shape != shape:
                yield f"{stem}.{suffix} {part.dtype} {list(part.shape)} instead of {wanted}"

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, a packed matrix as one."""
        names = (*self._form.suffixes, *self._form.ignored)
        packed = {f"{stem}.{suffix}" for stem in self._packed for suffix in names}
        found = {name: info for name, info in self._raw.items() if name not in packed}
        for stem, shape in self._packed.items():
            found[f"{stem}.weight"] = TensorInfo("F32", shape, self._raw[f"{stem}.{self._form.scales}"].file)
        return found

    def check_weights(self, specs: Sequence[WeightSpec], tied: bool) -> None:
        """Raises WispError for tensors that are missing, too many or of another shape, and for what cannot be kept."""
        super().check_weights(specs, tied)
        _ = self._orders  # which raises for what is no order
        for stem, shape in self._packed.items():
            names = [suffix for suffix in self._form.ignored if f"{stem}.{suffix}" in self._raw]
            self._form.check(stem, shape, {suffix: self._slice(stem, suffix, 0, None) for suffix in names})

    def _says_nothing(self, name: str) -> bool:
        """Also zero biases of packed matrices: tools write them for networks that have none."""
        stem = name.removesuffix(".bias")
        packed = stem != name and stem in self._packed
        return super()._says_nothing(name) or (packed and not self.read(name).any())

    @cached_property
    def _orders(self) -> dict[str, NDArray[np.int64]]:
        """Stems of matrices in act-order, whose groups do not follow each other -> the group of each column."""
        form, found = self._form, dict[str, NDArray[np.int64]]()
        for stem, (_, columns) in self._packed.items() if form.index else ():
            size = self._steps(stem).group_size
            stated = f"{stem}.{form.index}" in self._raw
            index = self._slice(stem, form.index, 0, None) if stated else np.arange(columns) // size
            groups = -(-columns // size)
            right = index.shape == (columns,) and ((index >= 0) & (index < groups)).all()
            if not right or (not stated and not form.ordered):
                extent = f", {index.min()} to {index.max()}" if index.size else ""
                told = f"{form.index} of shape {list(index.shape)}{extent}"
                raise WispError(
                    f"nothing says of which group each column of {stem} is",
                    got=told if stated else f"no {form.index}",
                    expected=f"{columns} numbers from 0 to {groups - 1}: columns are in the order of their activations",
                    remedy="download the checkpoint again, or compile the original one",
                )
            if not np.array_equal(index, np.arange(columns) // size):
                found[stem] = index.astype(np.int64)
        return found

    # ------------------------------------------------------------------------------------------------------------ rows

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `[start, stop)` of a tensor in float32."""
        stem = name.removesuffix(".weight")
        if stem not in self._packed:
            return super().read(name, start, stop)
        rows, columns = self._packed[stem]
        groups = self._groups(stem, start, rows if stop is None else stop)
        index = self._orders.get(stem)
        if index is None:
            index = np.arange(columns) // self._steps(stem).group_size
        values = groups.q.astype(np.float32) * groups.scale[:, index]
        return values if groups.bias is None else values + groups.bias[:, index]

    def held(self, spec: WeightSpec) -> Held | None:
        """The scheme that takes a matrix's integers, or its floats, as they are."""
        stems = [source.removesuffix(".weight") for source in spec.sources]
        known = all(stem in self._packed or f"{stem}.weight" in self._raw for stem in stems)
        if spec.kind != "matrix" or not known:  # `check_weights` complains
            return None
        in_act_order = any(stem in self._orders for stem in stems)
        if in_act_order and self._order_of(stems) is None:
            what = f"the columns of {spec.name} are in no order that makes whole groups of all of them"
            told = f"{what}, which are {', '.join(stems)} in act-order" if len(stems) > 1 else what
            return Held(SCHEMES[REQUANTIZED], False, (f"{self._form.name} in act-order",), told)
        held = held_as([self._format(stem) for stem in stems], in_act_order)
        if held is not None and in_act_order:
            return replace(held, formats=tuple(f"{name} in act-order" for name in held.formats))
        if held is None:
            raise WispError(
                f"no scheme takes the groups of '{spec.name}'",
                got=f"groups of {spec.shape[1]} columns",
                expected="a multiple of 16",
                remedy="compile the original checkpoint",
            )
        return held

    def stored(self, spec: WeightSpec, scheme: Scheme) -> list[tuple[str, NDArray]] | None:
        """The integers of a matrix in the words of the scheme, some rows at a time; None where it holds them not."""
        stems, own = [source.removesuffix(".weight") for source in spec.sources], scheme.of(spec)
        if spec.kind != "matrix" or not all(stem in self._packed and holds(own, self._steps(stem)) for stem in stems):
            return None
        order = self._order_of(stems) if any(stem in self._orders for stem in stems) else None
        if own.ordered != (order is not None):
            return None
        layout = parameter_layout(spec, scheme)
        outputs = [np.empty(shape, dtype) for _, dtype, shape in layout]
        if order is not None:
            outputs[-1][:] = order
        first, most = 0, max(1, UNPACKED_ELEMENTS // spec.shape[1])
        for stem, (_, begin, rows) in zip(stems, spec.pieces, strict=True):
            part = replace(spec, name=stem, sources=(f"{stem}.{self._form.scales}",))  # what an error names
            for start in range(0, rows, most):
                stop = min(rows, start + most)
                groups = self._groups(stem, begin + start, begin + stop)
                if order is not None:
                    groups = replace(groups, q=groups.q[:, order])
                packed = pack_groups(part, self._steps(stem), groups, own)
                for output, piece in zip(outputs, packed, strict=False):  # the order, if any, is there
                    output[first + start : first + stop] = piece
            first += rows
        return [(name, output) for (name, _, _), output in zip(layout, outputs, strict=True)]

    def _order_of(self, stems: Sequence[str]) -> NDArray[np.int64] | None:
        """The order of columns that makes whole groups, one after the other, of all these; None where there is none."""
        first = self._orders.get(stems[0])
        if first is None or not all(np.array_equal(first, self._orders.get(stem, ())) for stem in stems):
            return None
        size = self._steps(stems[0]).group_size
        order = np.argsort(first, kind="stable")
        return order if np.array_equal(first[order], np.arange(len(first)) // size) else None

    def _format(self, stem: str) -> Steps | Floats:
        if stem in self._packed:
            return self._steps(stem)
        dtype = self._raw[f"{stem}.weight"].dtype
        return Floats(dtype, exact=dtype == "F16")

    def _steps(self, stem: str) -> Steps:
        return self._form.steps(self._packed[stem][1], self._raw[f"{stem}.{self._form.scales}"].dtype)

    def _groups(self, stem: str, start: int, stop: int) -> Groups:
        """The integers of rows `[start, stop)`; read are the whole words that these rows lie in."""
        several = max(self._form.suffixes.values())
        low, high = start // several * several, min(-(-stop // several) * several, self._packed[stem][0])
        parts = {s: self._slice(stem, s, low // per, -(-high // per)) for s, per in self._form.suffixes.items()}
        found = self._form.decode(parts)
        rows = slice(start - low, stop - low)
        bias, zeros = (None if part is None else part[rows] for part in (found.bias, found.zeros))
        return Groups(found.q[rows], found.scale[rows], bias, zeros)

    def _slice(self, stem: str, suffix: str, start: int, stop: int | None) -> NDArray:
        """Part of a tensor along the axis that rows lie along; a vector whole."""
        name = f"{stem}.{suffix}"
        info = self._raw[name]
        axis = self._form.row_axis if len(info.shape) > 1 else 0
        return safetensors.read_slice(info.file, info.stored_as or name, axis, start, stop)
