"""The artifact directory: its only writer, and the reader that hands its tensors out again.

`artifact/FORMAT.md` specifies the files and `manifest.py` checks them. A directory appears whole or not at all:
everything is written beside it and renamed at the end, so a failure of any kind leaves what was there before.
"""

import contextlib
import errno
import hashlib
import json
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from .manifest import (
    FORMAT_VERSION,
    SPLIT_ROWS,
    Tensor,
    fail,
    validate,
    validate_model,
    validate_tensor_cache,
)

SHARD_BYTES = 24 * 1024 * 1024  # less than the format allows: there are hosts that take 25 MiB a file

MANIFEST = "model.json"
TENSOR_CACHE = "tensor-cache.json"
CONSTANTS = "constants.bin"


def dump_json(value: Any, indent: int | None = 2) -> bytes:
    """JSON as every file of an artifact is written: UTF-8, stable, no NaN."""
    separators = None if indent else (",", ":")
    return (
        json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, separators=separators) + "\n"
    ).encode()


def is_json(value: Any) -> bool:
    """Whether `dump_json` can write it: Python also reads NaN, infinity and half of a surrogate pair."""
    try:
        dump_json(value)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------- writing


def check_output(output: Path) -> None:
    """Raises WispError unless `output` can become, or be replaced as, an artifact directory."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise WispError(
            "the output is not a directory",
            got=output,
            expected="a directory or a new name",
            remedy="choose another -o",
        )
    if output.is_dir() and any(output.iterdir()):
        foreign = _foreign_files(output)
        if foreign:
            shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
            raise WispError(
                f"the output directory {output} holds files that are not a Wisp artifact's",
                got=shown,
                expected="a new or empty directory, or an artifact to replace",
                remedy="move them away or choose another -o",
            )
    ancestor = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise WispError(
            f"the output {output} cannot be written",
            got=f"no permission to write in {ancestor}" if ancestor.is_dir() else f"{ancestor} is not a directory",
            remedy="choose another -o",
        )


def _foreign_files(output: Path) -> list[str]:
    """Files of a directory that its model.json does not list, or what it holds when it is no artifact of ours."""
    with contextlib.suppress(OSError, ValueError):
        model = json.loads((output / MANIFEST).read_bytes())
        if isinstance(model, dict) and model.get("format") == "wisp" and isinstance(model.get("files"), dict):
            names = (path.relative_to(output).as_posix() for path in sorted(output.rglob("*")) if not path.is_dir())
            return [name for name in names if name != MANIFEST and name not in model["files"]]
    return sorted(path.name for path in output.iterdir())


class ArtifactWriter:
    """Writes an artifact; `with ArtifactWriter(output) as writer: ...; writer.finish(model)`.

    Tensors are streamed in order into shards of at most 32 MiB. Leaving the block without `finish`, by an exception or
    not, removes what was written and leaves `output` as it was.
    """

    def __init__(self, output: Path, *, mlc_shards: bool = False) -> None:
        check_output(output)
        self._output = output.absolute()
        self._mlc_shards = mlc_shards
        self._temporary = self._output.with_name(f".{self._output.name}.{secrets.token_hex(4)}.partial")
        self._files: dict[str, dict[str, Any]] = {}
        self._shards: list[dict[str, Any]] = []
        self._shard: _Shard | None = None

    def __enter__(self) -> Self:
        with self._reporting():
            self._temporary.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard is not None:
            self._shard.abandon()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add_file(self, name: str, content: bytes) -> None:
        """One complete file; `name` may have directories in it."""
        with self._reporting():
            path = self._temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
                _sync(file)
        self._files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def add_tensor(self, name: str, tensor: NDArray) -> None:
        """One tensor of 1 or more axes, split by rows over several shards when it is larger than one."""
        if tensor.nbytes <= SHARD_BYTES or self._mlc_shards:
            if self._shard is None or self._shard.room < tensor.nbytes:
                self._next_shard()
            self._append(name, tensor, {})
            return
        rows = tensor.shape[0]
        row_bytes = tensor.nbytes // rows
        if row_bytes * SPLIT_ROWS > SHARD_BYTES:
            raise WispError(
                f"tensor '{name}' cannot be split over shards",
                got=f"rows of {row_bytes} bytes",
                expected=f"at most {SHARD_BYTES // SPLIT_ROWS}",
                remedy="use --mlc-shards",
            )
        start = 0
        while start < rows:
            if self._shard is None or self._shard.room < row_bytes * SPLIT_ROWS:
                self._next_shard()
            assert self._shard is not None
            count = min(self._shard.room // (row_bytes * SPLIT_ROWS) * SPLIT_ROWS, rows - start)
            self._append(name, tensor[start : start + count], {"rowOffset": start, "rows": rows})
            start += count

    def stored(self) -> "StoredWeights":
        """What was written so far, to read while the artifact is not finished. No tensor can be added after it."""
        self._close_shard()
        model = {"files": self._files, "weight_bytes": sum(shard["nbytes"] for shard in self._shards)}
        return StoredWeights(self._temporary, validate_tensor_cache({"records": self._shards}, model))

    def finish(self, model: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> Path:
        """Writes `tensor-cache.json` (when there is `metadata` for it) and `model.json`, checks all, and renames.

        `model` is model.json without its `files`.
        """
        cache = None
        if metadata is not None:
            self._close_shard()
            cache = {"metadata": dict(metadata), "records": self._shards}
            self.add_file(TENSOR_CACHE, dump_json(cache))
        manifest = {"format": "wisp", "format_version": FORMAT_VERSION, **model, "files": self._files}
        plans = {v["name"]: json.loads((self._temporary / v["plan"]).read_bytes()) for v in manifest["variants"]}
        validate(manifest, cache, plans)
        self.add_file(MANIFEST, dump_json(manifest))
        del self._files[MANIFEST]
        with self._reporting():
            self._replace()
        return self._output

    def _replace(self) -> None:
        """Moves the finished directory into place; an artifact that was there goes only when the new one is there."""
        check_output(self._output)  # it may have changed since the start
        old = self._temporary.with_suffix(".old")
        existed = self._output.exists()
        if existed:
            self._output.rename(old)
        try:
            self._temporary.rename(self._output)
        except BaseException:
            if existed:
                old.rename(self._output)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _append(self, name: str, tensor: NDArray, split: dict[str, int]) -> None:
        assert self._shard is not None
        with self._reporting():
            self._shard.append(name, tensor, split)

    def _next_shard(self) -> None:
        self._close_shard()
        name = f"params_shard_{len(self._shards)}.bin"
        with self._reporting():
            self._shard = _Shard(self._temporary / name)

    def _close_shard(self) -> None:
        if self._shard is None:
            return
        with self._reporting():
            entry, record = self._shard.close()
        self._files[entry["dataPath"]] = record
        self._shards.append(entry)
        self._shard = None

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns what the file system refuses into bad input with a remedy."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WispError(
                    f"the disk is full while writing {self._output}",
                    got=error.strerror,
                    remedy="free some space or choose another -o (nothing was changed)",
                ) from error
            raise WispError(
                f"the output {self._output} cannot be written",
                got=error.strerror or str(error),
                remedy="choose another -o (nothing was changed)",
            ) from error


class _Shard:
    """One `params_shard_N.bin` while it is written."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("xb")
        self._md5, self._sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self._records: list[dict[str, Any]] = []
        self._bytes = 0

    @property
    def room(self) -> int:
        return SHARD_BYTES - self._bytes

    def append(self, name: str, tensor: NDArray, split: dict[str, int]) -> None:
        data = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).data.cast("B")
        self._file.write(data)
        self._md5.update(data)
        self._sha256.update(data)
        record = {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype.name, "format": "raw"}
        self._records.append({**record, "nbytes": data.nbytes, "byteOffset": self._bytes, **split})
        self._bytes += data.nbytes

    def close(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The shard's entries in tensor-cache.json and in model.json."""
        _sync(self._file)
        self._file.close()
        entry = {
            "dataPath": self._path.name,
            "format": "raw-shard",
            "nbytes": self._bytes,
            "md5sum": self._md5.hexdigest(),
            "records": self._records,
        }
        return entry, {"bytes": self._bytes, "sha256": self._sha256.hexdigest()}

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _sync(file: BinaryIO) -> None:
    """A disk may turn out to be full only now."""
    file.flush()
    os.fsync(file.fileno())


# ------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class StoredWeights:
    """Tensors in the shards of a directory, and the tables beside them."""

    path: Path
    tensors: dict[str, Tensor]

    def constants(self) -> bytes:
        """`constants.bin`, or nothing when there is none."""
        file = self.path / CONSTANTS
        return file.read_bytes() if file.is_file() else b""

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> NDArray:
        """Rows `[start, stop)` of a tensor, put together from its parts. Reads only those rows."""
        tensor = self.tensors[name]
        stop = tensor.shape[0] if stop is None else stop
        data = bytearray()
        for part in tensor.parts:
            first, last = max(start, part.row) - part.row, min(stop, part.row + part.rows) - part.row
            if first < last:
                row_bytes = tensor.row_bytes
                with (self.path / part.file).open("rb") as file, _mapped(file) as view:
                    data += view[part.offset + first * row_bytes : part.offset + last * row_bytes]
        rows = np.frombuffer(data, np.dtype(tensor.dtype).newbyteorder("<"))
        return rows.reshape(stop - start, *tensor.shape[1:])


@dataclass(frozen=True)
class Artifact:
    """A valid artifact on disk. `model` is model.json, `tensors` where each tensor lies, `plans` by variant name."""

    path: Path
    model: dict[str, Any]
    tensors: dict[str, Tensor]
    plans: dict[str, dict[str, Any]]

    def kernels(self, variant: str) -> str:
        """The WGSL module of a variant."""
        entry = next(v for v in self.model["variants"] if v["name"] == variant)
        return (self.path / entry["kernels"]).read_text(encoding="utf-8")

    def constants(self) -> bytes:
        """`constants.bin`, or nothing when no plan has constants."""
        return StoredWeights(self.path, self.tensors).constants()

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> NDArray:
        """Rows `[start, stop)` of a tensor, put together from its parts. Reads only those rows."""
        return StoredWeights(self.path, self.tensors).tensor(name, start, stop)


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[mmap.mmap]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        yield view


def load_artifact(path: Path, *, verify: bool = True, on_file: Callable[[str], None] | None = None) -> Artifact:
    """Reads and checks an artifact: the manifest, the size of every file and, with `verify`, their SHA-256.

    Raises WispError when it is not an artifact, of another format version, or damaged.
    """
    if not (path / MANIFEST).is_file():
        raise WispError(
            f"{path} is not an artifact", got="no model.json", remedy="give a directory that wisp compile wrote"
        )
    model = _read_json(path / MANIFEST)
    validate_model(model)
    for name, entry in model["files"].items():
        _check_file(path / name, name, entry, verify)
        if on_file is not None:
            on_file(name)
    cache = None if model["weights"] is None else _read_json(path / model["weights"])
    plans = {variant["name"]: _read_json(path / variant["plan"]) for variant in model["variants"]}
    return Artifact(path, model, validate(model, cache, plans), plans)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        fail(path.name, str(error), "readable JSON")


def _check_file(path: Path, name: str, entry: dict[str, Any], verify: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        fail(f"file {name}", "no file" if size is None else f"{size} bytes", f"{entry['bytes']} bytes")
    if verify:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            fail(f"file {name}", f"SHA-256 {digest[:16]}...", f"{entry['sha256'][:16]}...")


def tensor_metadata(tensors: int, parameters: int, nbytes: int) -> dict[str, Any]:
    """The `metadata` of tensor-cache.json, as MLC writes it; `parameters` are counted before quantization."""
    return {"ParamSize": tensors, "ParamBytes": nbytes, "BitsPerParam": round(8 * nbytes / max(1, parameters), 4)}
