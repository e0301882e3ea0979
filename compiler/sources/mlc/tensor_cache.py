"""MLC's weight cache: `tensor-cache.json` (`ndarray-cache.json` in earlier years) and its raw shards.

The writer is `tvm/contrib/tvmjs.py`; what Wisp's own differ in (tensors that are split by rows) is read too. Knows
names, shapes and bytes; knows nothing of networks.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...artifact.manifest import DTYPE_BYTES, is_safe_id
from ...errors import WispError
from ..files import checked_file, is_file, read_object

CACHES = ("tensor-cache.json", "ndarray-cache.json")
FORMATS = ("raw", "f32-to-bf16")
REMEDY = "convert the model again with mlc_llm convert_weight, or compile the original checkpoint"


@dataclass(frozen=True)
class Record:
    """Rows of a tensor, from `row` on: `bytes` bytes of a shard from `offset` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: str
    shard: str
    offset: int
    bytes: int
    row: int
    rows: int  # of the whole tensor


class TensorCache:
    """The stored tensors of a directory, by name. Shards are mapped when they are read, after their MD5 was checked."""

    def __init__(self, directory: Path) -> None:
        """Raises WispError for a cache that does not hold together. Opens no shard."""
        self._directory = directory
        self._path = next(path for name in CACHES if is_file(path := directory / name))
        self._shards: list[dict[str, Any]] = read_object(self._path).get("records", [])
        self._maps: dict[str, NDArray[np.uint8]] = {}
        self.tensors = self._parse()

    def _parse(self) -> dict[str, tuple[Record, ...]]:
        parts: dict[str, list[Record]] = {}
        try:
            if not isinstance(self._shards, list) or not self._shards:
                raise _Unusable("records", repr(self._shards), "a list of shards")
            for shard in self._shards:
                for record in _shard_records(shard):
                    parts.setdefault(record.name, []).append(record)
            return {name: _join(name, records) for name, records in parts.items()}
        except _Unusable as error:
            raise WispError(
                f"{self._path.name} is not usable: {error.where}", got=error.got, expected=error.wanted, remedy=REMEDY
            ) from None
        except (KeyError, TypeError, AttributeError) as error:
            raise WispError(
                f"{self._path.name} is not usable", got=repr(error), expected="MLC's records", remedy=REMEDY
            ) from error

    @property
    def shards(self) -> list[str]:
        """The names of the shards, plain ones all."""
        return sorted({shard["dataPath"] for shard in self._shards})

    def check_files(self) -> None:
        """Every shard is there, of its size."""
        for shard in self._shards:
            path = self._directory / shard["dataPath"]
            size = path.stat().st_size if is_file(path) else None
            if size != shard["nbytes"]:
                raise WispError(
                    f"{path.name} is not whole",
                    got="no such file" if size is None else f"{size} bytes",
                    expected=f"{shard['nbytes']} bytes",
                    remedy="download it again",
                )

    def rows(self, name: str, start: int, stop: int, dtype: np.dtype) -> NDArray:
        """Rows `[start, stop)` of a tensor. Floats of another type are converted when nothing is lost by it."""
        pieces = []
        for part in self.tensors[name]:
            low, high = max(start, part.row) - part.row, min(stop, part.row + part.shape[0]) - part.row
            if low < high:
                pieces.append(_converted(name, self._part(part)[low:high], dtype))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _part(self, part: Record) -> NDArray:
        raw = self._mapped(part.shard)[part.offset : part.offset + part.bytes]
        if part.format == "f32-to-bf16" and part.dtype == "float32":
            return raw.view(ml_dtypes.bfloat16).reshape(part.shape)
        return raw.view(np.dtype(part.dtype).newbyteorder("<")).reshape(part.shape)

    def _mapped(self, shard: str) -> NDArray[np.uint8]:
        if shard not in self._maps:
            path = checked_file(self._directory / shard)
            expected = next(s for s in self._shards if s["dataPath"] == shard).get("md5sum")
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if expected is not None and digest != expected:  # the very first caches had none
                raise WispError(
                    f"{shard} is damaged", got=f"MD5 {digest}", expected=expected, remedy="download it again"
                )
            self._maps[shard] = np.memmap(path, np.uint8, "r")
        return self._maps[shard]


def _converted(name: str, array: NDArray, dtype: np.dtype) -> NDArray:
    if array.dtype.kind != "u" and not np.isfinite(array).all():
        raise WispError(f"tensor {name} holds NaN or infinity", expected="finite numbers", remedy=REMEDY)
    if array.dtype == dtype:
        return array
    converted = array.astype(dtype)
    if not np.array_equal(converted.astype(np.float64), array.astype(np.float64)):
        raise WispError(f"tensor {name} does not fit {dtype}", got=array.dtype, remedy=REMEDY)
    return converted


class _Unusable(Exception):
    def __init__(self, where: str, got: object, wanted: str) -> None:
        super().__init__(where)
        self.where, self.got, self.wanted = where, got, wanted


def _shard_records(shard: Mapping[str, Any]) -> Iterator[Record]:
    name = shard["dataPath"]
    if not is_safe_id(name):
        raise _Unusable("dataPath", repr(name), "a plain file name")
    if shard["format"] != "raw-shard":
        raise _Unusable(f"{name} format", repr(shard["format"]), "raw-shard")
    size = _count(shard["nbytes"], f"{name} nbytes")
    end = 0
    for entry in sorted(shard["records"], key=lambda entry: entry["byteOffset"]):
        where, dtype, encoding = f"{name} {entry['name']}", entry["dtype"], entry.get("format", "raw")
        if not isinstance(entry["name"], str) or dtype not in DTYPE_BYTES:
            raise _Unusable(f"{where} dtype", repr(dtype), " or ".join(DTYPE_BYTES))
        if encoding not in FORMATS:
            raise _Unusable(f"{where} format", repr(encoding), " or ".join(FORMATS))
        shape = tuple(_count(n, f"{where} shape") for n in entry["shape"])
        item = 2 if (encoding, dtype) == ("f32-to-bf16", "float32") else DTYPE_BYTES[dtype]
        nbytes, offset = _count(entry["nbytes"], f"{where} nbytes"), entry["byteOffset"]
        if not shape or nbytes != math.prod(shape) * item:
            raise _Unusable(f"{where} nbytes", nbytes, f"{math.prod(shape) * item}, for {list(shape)} of {dtype}")
        if type(offset) is not int or offset < end or offset + nbytes > size:
            raise _Unusable(f"{where} byteOffset", offset, f"{nbytes} bytes from {end} or later, within {size}")
        end = offset + nbytes
        row = entry.get("rowOffset", 0)
        rows = entry["rows"] if "rowOffset" in entry else shape[0]
        yield Record(entry["name"], dtype, shape, encoding, name, offset, nbytes, row, rows)


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise _Unusable(where, repr(value), "a positive whole number")
    return int(value)


def _join(name: str, records: list[Record]) -> tuple[Record, ...]:
    """The parts of a tensor in order: all its rows, each once."""
    records = sorted(records, key=lambda record: record.row)
    row, first = 0, records[0]
    for record in records:
        if record.row != row or record.dtype != first.dtype or record.shape[1:] != first.shape[1:]:
            raise _Unusable(f"tensor {name}", f"a part from row {record.row} on", f"one from row {row} on, of one type")
        row += record.shape[0]
    if any(record.rows != row for record in records):
        raise _Unusable(f"tensor {name}", f"{row} rows", f"{first.rows} rows, each once")
    return tuple(records)
