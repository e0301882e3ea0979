"""safetensors files: what one holds, and what is wrong with one that is damaged, by the tensor's name.

The library proves that header and file agree; this names the culprit. Knows nothing of checkpoints.
"""

import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (gives numpy the bfloat16 that safetensors asks it for)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..errors import WispError
from .protocol import TensorInfo

DTYPES = ("F32", "F16", "BF16")


def read_rows(file: Path, name: str, start: int, stop: int) -> NDArray[np.float32]:
    """Rows `[start, stop)` of a tensor in float32. Only those rows are read."""
    try:
        with safe_open(file, "np") as opened:
            rows: NDArray[np.float32] = opened.get_slice(name)[start:stop].astype(np.float32)
            return rows
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def read_slice(file: Path, name: str, axis: int, start: int, stop: int | None) -> NDArray:
    """Part of a tensor along its first or second axis, in its own type."""
    try:
        with safe_open(file, "np") as opened:
            tensor = opened.get_slice(name)
            part: NDArray = tensor[start:stop] if axis == 0 else tensor[:, start:stop]
            return part
    except (SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, reason: str) -> WispError:
    return WispError(
        f"{file.name} is damaged", got=reason, expected="a safetensors file", remedy="download or save it again"
    )


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a file by name. Raises WispError for a damaged one."""
    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
            tensors = {
                name: TensorInfo(part.get_dtype(), tuple(part.get_shape()), file) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise _damaged(file, _culprit(file) or str(error)) from error
    _raw_header(file, _refuse_duplicates(file))
    return tensors


def _raw_header(file: Path, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> tuple[Any, int]:
    """The JSON header of a safetensors file and the bytes that follow it."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length), object_pairs_hook=hook)
    return header, file.stat().st_size - 8 - length


def _refuse_duplicates(file: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise _damaged(file, f"its header names {', '.join(twice)} twice")
        return dict(pairs)

    return hook


def _culprit(file: Path) -> str | None:
    """What the library found wrong, with the tensor's name; None when the header itself cannot be read."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
        if length > size - 8:
            return f"its header claims {length} bytes in a file of {size} (is the file complete?)"
        header, available = _raw_header(file)
        end = 0
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = entry["data_offsets"]
            if stop > available:
                return f"tensor {name} ends at byte {stop} of {available} (is the file complete?)"
            if start != end:
                return f"tensor {name} begins at byte {start}, the one before it ends at {end}"
            bits = re.search(r"\d+", entry["dtype"])
            if bits and math.prod(entry["shape"]) * int(bits[0]) != (stop - start) * 8:
                return f"tensor {name} is {entry['dtype']} {entry['shape']} in {stop - start} bytes"
            end = stop
        return f"{available} bytes of data, its header describes {end}" if end != available else None
    except (OSError, MemoryError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        return None
