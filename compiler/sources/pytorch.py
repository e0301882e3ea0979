"""Weights in PyTorch's files, `pytorch_model.bin`, single or sharded: pickles, read by torch's restricted unpickler.

A pickle can run any code, so only `torch.load(weights_only=True)` opens one, and torch is an extra that nothing else
under `compiler/` imports. Knows nothing of what the tensors are for.
"""

import pickle
import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError

TORCH_FILE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
# Before 2.6 the restricted unpickler could be made to run code (CVE-2025-32434).
LEAST_TORCH = (2, 6)
CONVERT = "save it as model.safetensors with transformers: model.save_pretrained(DIR)"

# safetensors' names of torch's types; anything else is refused as an unsupported type, under torch's name.
DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and the shape of every tensor in a file. Raises WispError for a file that holds anything else."""
    tensors = _load(file)
    return {name: (DTYPES.get(str(t.dtype), str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}


def read_rows(file: Path, name: str, start: int, stop: int) -> NDArray[np.float32]:
    """Rows `[start, stop)` of a tensor in float32. The file is mapped, not read: only these rows are touched."""
    rows: NDArray[np.float32] = _load(file)[name][start:stop].float().contiguous().numpy()
    return rows


def _load(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return _load_version(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)  # parsing the pickle again for every block of rows would take longer than reading them
def _load_version(file: Path, modified: int, size: int) -> dict[str, Any]:
    torch = _torch(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that it reads all the same
            # What torch wrote before 1.6 is no zip file, and cannot be mapped.
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = re.search(r"WeightsUnpickler error: ([^\n]+)", str(error))  # the rest is advice to trust the file
        raise WispError(
            f"{file.name} is refused: it does not hold tensors alone",
            got=f"{unsafe[1]}, which could run code" if unsafe else reason[1].strip() if reason else "no tensors",
            expected="a dictionary of tensors",
            remedy=CONVERT,
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... for what is not its file
        raise WispError(
            f"{file.name} is damaged",
            got=str(error).split("\n")[0] or type(error).__name__,
            expected="a file of torch.save",
            remedy=f"download it again, or {CONVERT}",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise _unusable(file, f"a {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise _unusable(file, f"'{name}' of type {type(tensor).__name__}")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _unusable(file: Path, got: str) -> WispError:
    return WispError(f"{file.name} is not usable", got=got, expected="a dictionary of dense tensors", remedy=CONVERT)


def _torch(file: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise WispError(
            f"{file.name} is a pickle, which needs PyTorch's restricted unpickler",
            got="no torch",
            expected="torch 2.6 or later",
            remedy=f"pip install 'wisp[torch]', or {CONVERT}",
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < LEAST_TORCH:
        raise WispError(
            f"{file.name} is a pickle, and this torch cannot read one safely",
            got=f"torch {torch.__version__}",
            expected="torch 2.6 or later",
            remedy=f"pip install 'wisp[torch]', or {CONVERT}",
        )
    return torch
