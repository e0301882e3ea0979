"""Reads the header of a GGUF file and proves it before anything relies on it: counts, lengths, types, offsets, sizes.

Knows the container (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and nothing of what is in it. Every
number of the header is checked against the file's size or a cap before memory is taken for it. Refused: other versions
and byte orders, nested arrays, duplicate names, unknown tensor types, tensors that overlap, leave gaps or
end beyond the file.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from ...errors import WispError
from .dequantize import SUPPORTED_TYPES

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 3 differs from 2 only in admitting big-endian files
OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # ggml, ggmf, ggjt, ggla: what came before GGUF
QUANTIZATION_VERSION = 2

# A header of 262,144 tokens and 600,000 merges takes about 20 MiB.
MOST_HEADER_BYTES = 128 << 20
MOST_KEYS = 1 << 14
MOST_TENSORS = 1 << 16
MOST_ELEMENTS = 1 << 22  # of a metadata array
MOST_TEXT_BYTES = 16 << 20
MOST_NAME_BYTES = 1 << 10
MOST_DIMENSIONS = 4
MOST_ALIGNMENT = 1 << 20
MOST_PARTS = 1000

PART_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")  # of a file that llama-gguf-split has cut

SCALARS: dict[GGUFValueType, np.dtype] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
    GGUFValueType.BOOL: np.dtype("?"),
}


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` as numpy has it (rows first), `offset` and `nbytes` in `file`."""

    file: Path
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def is_blocked_vector(self) -> bool:
        """Whether an element cannot be read by itself."""
        return len(self.shape) == 1 and GGML_QUANT_SIZES[self.type][0] > 1


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself. A float32 of the metadata is the shortest decimal that rounds to it."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def part_names(name: str) -> list[str]:
    """The names of all parts of a split file, of its first one; the name alone of any other."""
    found = PART_NAME.fullmatch(name)
    if found is None or int(found[2]) != 1 or not 1 <= int(found[3]) <= MOST_PARTS:
        return [name]
    return [f"{found[1]}-{number:05d}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def read_header(file: Path) -> GgufHeader:
    """The proven header of a GGUF file, and of its other parts where it is the first of several.

    Reads no weights. Raises WispError for whatever does not hold.
    """
    header = _read_one(file)
    count = header.metadata.get("split.count", 1)
    if count in (0, 1):
        if not header.tensors:
            raise damaged(file, "no tensors")
        return header
    names = part_names(file.name)
    if len(names) != count or header.metadata.get("split.no", 0) != 0:
        raise WispError(
            f"{file.name} is one of several parts of a GGUF file",
            got=f"part {header.metadata.get('split.no')} of {count}",
            expected=f"the first one, NAME-00001-of-{count:05d}.gguf, beside the others",
            remedy="give the first part",
        )
    tensors = dict(header.tensors)
    for number, name in enumerate(names[1:], 1):
        part = file.with_name(name)
        other = _read_one(part)
        if (other.metadata.get("split.no"), other.metadata.get("split.count")) != (number, count):
            raise damaged(part, f"it is not part {number} of {count} as its name says")
        if twice := tensors.keys() & other.tensors.keys():
            raise damaged(part, f"tensor {min(twice)} is in another part, too")
        tensors |= other.tensors
    stated = header.metadata.get("split.tensors.count", len(tensors))
    if stated != len(tensors) or not tensors:
        raise damaged(file, f"{len(tensors)} tensors in all parts instead of {stated}")
    return GgufHeader(header.metadata, tensors)


def _read_one(file: Path) -> GgufHeader:
    try:
        with file.open("rb") as stream:
            start = stream.read(24)
            _check_start(file, start)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(file, data).header()
    except OSError as error:
        raise WispError(f"{file.name} cannot be read", got=error.strerror, expected="a GGUF file") from error


def damaged(file: Path, reason: str) -> WispError:
    """The complaint about a file that contradicts itself."""
    return WispError(f"{file.name} is damaged", got=reason, expected="a GGUF file", remedy="download it again")


def _check_start(file: Path, start: bytes) -> None:
    if start[:4] in OLD_MAGICS:
        raise WispError(
            f"{file.name} is older than GGUF",
            got=f"a {start[:4][::-1].decode()} file",
            expected=f"GGUF version {' or '.join(map(str, VERSIONS))}",
            remedy="convert the original checkpoint again",
        )
    if start[:4] != MAGIC:
        shown = repr(start[:4]) if start else "an empty file"
        raise WispError(f"{file.name} is no GGUF file", got=shown, expected=f"a file that begins with {MAGIC!r}")
    if len(start) < 24:
        raise damaged(file, f"{len(start)} bytes (is the file complete?)")
    version = struct.unpack_from("<I", start, 4)[0]
    if version in VERSIONS:
        return
    got = f"version {version}"
    if version & 0xFFFF == 0 and version:
        got = f"big-endian version {struct.unpack_from('>I', start, 4)[0]}"
    raise WispError(
        f"this GGUF version of {file.name} is not supported",
        got=got,
        expected=f"little-endian version {' or '.join(map(str, VERSIONS))}",
        remedy="convert the original checkpoint again",
    )


class _Parser:
    """One pass over the header. `position` never leaves the file."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.position = file, data, 8
        self.size = len(data)

    def header(self) -> GgufHeader:
        tensor_count = self._count("tensors", MOST_TENSORS)
        key_count = self._count("metadata keys", MOST_KEYS)
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._text("a metadata key", MOST_NAME_BYTES)
            if key in metadata:
                raise damaged(self.file, f"its metadata has '{key}' twice")
            metadata[key] = self._value(key)
        self._check_metadata(metadata)
        entries = [self._tensor() for _ in range(tensor_count)]
        alignment = self._alignment(metadata)
        return GgufHeader(metadata, self._place(entries, alignment))

    # -------------------------------------------------------------------------------------------------------- elements

    def _take(self, size: int, what: str) -> int:
        """Moves over `size` bytes and returns where they begin."""
        begin = self.position
        if size > self.size - begin:
            raise damaged(self.file, f"{what} of {size} bytes at byte {begin} of {self.size} (is the file complete?)")
        if begin + size > MOST_HEADER_BYTES:
            raise damaged(self.file, f"a header of more than {MOST_HEADER_BYTES} bytes")
        self.position = begin + size
        return begin

    def _number(self, code: str, what: str) -> int:
        value: int = struct.unpack_from(f"<{code}", self.data, self._take(struct.calcsize(code), what))[0]
        return value

    def _count(self, what: str, most: int) -> int:
        count = self._number("Q", f"the number of {what}")
        if count > most:
            raise damaged(self.file, f"{count} {what}, more than {most}")
        return count

    def _text(self, what: str, most: int = MOST_TEXT_BYTES) -> str:
        length = self._number("Q", f"the length of {what}")
        if length > most:
            raise damaged(self.file, f"{what} of {length} bytes, more than {most}")
        begin = self._take(length, what)
        try:
            return self.data[begin : self.position].decode("utf-8")
        except UnicodeDecodeError:
            raise damaged(self.file, f"{what} at byte {begin} that is not UTF-8") from None

    def _type(self, key: str) -> GGUFValueType:
        number = self._number("I", f"the type of metadata '{key}'")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise damaged(self.file, f"metadata '{key}' of unknown type {number}") from None

    def _value(self, key: str) -> Any:
        kind = self._type(key)
        if kind == GGUFValueType.STRING:
            return self._text(f"metadata '{key}'")
        if kind != GGUFValueType.ARRAY:
            return self._scalars(key, kind, 1)[0]
        kind = self._type(key)
        count = self._count(f"elements in metadata '{key}'", MOST_ELEMENTS)
        if kind == GGUFValueType.ARRAY:
            raise damaged(self.file, f"metadata '{key}' is an array of arrays")
        if kind == GGUFValueType.STRING:
            return [self._text(f"an element of metadata '{key}'") for _ in range(count)]
        return self._scalars(key, kind, count)

    def _scalars(self, key: str, kind: GGUFValueType, count: int) -> list[Any]:
        dtype = SCALARS[kind]
        begin = self._take(dtype.itemsize * count, f"metadata '{key}'")
        raw = self.data[begin : self.position]
        if kind == GGUFValueType.BOOL and raw.strip(b"\0\1"):
            raise damaged(self.file, f"metadata '{key}' holds a truth value that is neither 0 nor 1")
        values = np.frombuffer(raw, dtype)
        if kind == GGUFValueType.FLOAT32:
            # 1e-5 is stored as 9.99999974737875e-06; the shortest decimal gives back what config.json said.
            return [float(str(value)) for value in values] if count < 4096 else values.tolist()
        return values.tolist()

    # --------------------------------------------------------------------------------------------------------- meaning

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        quantization = metadata.get("general.quantization_version", QUANTIZATION_VERSION)
        if quantization != QUANTIZATION_VERSION:
            raise WispError(
                f"the quantization version of {self.file.name} is not supported",
                got=quantization,
                expected=QUANTIZATION_VERSION,
                remedy="quantize the original checkpoint again",
            )
        count = metadata.get("split.count", 1)
        if not isinstance(count, int) or not 0 <= count <= MOST_PARTS:
            raise damaged(self.file, f"split.count {count!r}")

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
            raise damaged(self.file, f"general.alignment {alignment!r}, which is no power of two")
        return alignment

    def _tensor(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        """Name, type, shape and offset within the data, each by itself valid."""
        name = self._text("a tensor's name", MOST_NAME_BYTES)
        rank = self._number("I", f"the rank of tensor {name}")
        if not 0 < rank <= MOST_DIMENSIONS:
            raise damaged(self.file, f"tensor {name} of {rank} dimensions")
        shape = tuple(self._number("Q", f"the shape of tensor {name}") for _ in range(rank))[::-1]
        number = self._number("I", f"the type of tensor {name}")
        offset = self._number("Q", f"the offset of tensor {name}")
        supported = ", ".join(kind.name for kind in SUPPORTED_TYPES)
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            kind = None
        if kind not in SUPPORTED_TYPES:
            raise WispError(
                f"a tensor type of {self.file.name} is not supported",
                got=f"{name} of {f'unknown type {number}' if kind is None else kind.name}",
                expected=supported,
                remedy="use a file with one of these, such as Q4_K_M or Q8_0",
            )
        if not all(0 < size < 1 << 40 for size in shape):
            raise damaged(self.file, f"tensor {name} of shape {list(shape)}")
        block = GGML_QUANT_SIZES[kind][0]
        if shape[-1] % block:
            raise damaged(self.file, f"tensor {name} has {shape[-1]} columns, no multiple of {kind.name}'s {block}")
        return name, kind, shape, offset

    def _place(
        self, entries: list[tuple[str, GGMLQuantizationType, tuple[int, ...], int]], alignment: int
    ) -> dict[str, GgufTensor]:
        """The tensors in the file, one after another, each begun at a multiple of the alignment."""
        base = -(-self.position // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        expected = 0
        for name, kind, shape, offset in entries:
            if name in tensors:
                raise damaged(self.file, f"it holds tensor {name} twice")
            if offset != expected:
                raise damaged(self.file, f"tensor {name} begins at byte {offset} of the data instead of {expected}")
            block, block_bytes = GGML_QUANT_SIZES[kind]
            nbytes = math.prod(shape) // block * block_bytes
            if base + offset + nbytes > self.size:
                raise damaged(
                    self.file,
                    f"tensor {name} ends at byte {base + offset + nbytes} of {self.size} (is the file complete?)",
                )
            tensors[name] = GgufTensor(self.file, kind, shape, base + offset, nbytes)
            expected = -(-(offset + nbytes) // alignment) * alignment
        return tensors
