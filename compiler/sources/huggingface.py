"""A Hugging Face checkpoint, in a directory or on the Hub: its configuration, its tokenizer files and its weights.

Knows safetensors files and the Hub; reads weights lazily, some rows at a time, and never runs code of a checkpoint.
Knows nothing of architectures beyond the list of weights it is asked to check.
"""

import contextlib
import json
import math
import os
import re
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import ml_dtypes  # noqa: F401 (gives numpy the bfloat16 that safetensors asks it for)
import numpy as np
from huggingface_hub import errors, snapshot_download
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from compiler.artifact.manifest import is_safe_id
from compiler.errors import WispError
from compiler.models import without_ignored
from compiler.models.base import WeightSpec, shortened
from compiler.sources import pytorch
from compiler.sources.files import checked_file, is_file
from compiler.weights.quantize import GroupScales

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILE = "chat_template.jinja"
MLC_FILES = ("mlc-chat-config.json", "tensor-cache.json", "ndarray-cache.json")
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# In order of preference, each beside the index of its shards.
WEIGHT_FILES = ((WEIGHTS_FILE, INDEX_FILE), (pytorch.TORCH_FILE, pytorch.TORCH_INDEX))
DTYPES = ("F32", "F16", "BF16")
BLOCK_ELEMENTS = 1 << 24

# Tensors that some checkpoints hold and no network needs: they are computed from config.json.
IGNORED_TENSORS = re.compile(r"(.*\.)?rotary_emb\.inv_freq|.*\.masked_bias|.*\.attn\.bias")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the checkpoint: safetensors' name of its type, its shape and its file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint came from, as model.json says it: no path of this machine."""

    kind: Literal["directory", "hub", "gguf"]
    id: str
    revision: str | None


class Checkpoint:
    """An open checkpoint. Small files are read at once; weights when they are asked for."""

    license: str | None = None  # as the checkpoint's own files state it

    def __init__(self, directory: Path, source: CheckpointSource, fetch_weights: Callable[[], object]) -> None:
        self.directory = directory
        self.source = source
        self._fetch_weights = fetch_weights
        self.config = read_object(directory / "config.json")
        self.generation_config = read_object(directory / "generation_config.json", optional=True)
        self.tokenizer_config = read_object(directory / "tokenizer_config.json", optional=True)

    # ------------------------------------------------------------------------------------------------------- tokenizer

    @cached_property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """The files that the artifact copies. Raises WispError for a damaged one, and without tokenizer.json."""
        if not is_file(self.directory / "tokenizer.json"):
            raise WispError(
                "the checkpoint has no tokenizer.json",
                got=", ".join(sorted(path.name for path in self.directory.glob("*token*"))) or "no tokenizer file",
                expected="a fast tokenizer",
                remedy="write one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            )
        files = tuple(path for name in TOKENIZER_FILES if is_file(path := self.directory / name))
        for file in files:  # what is copied has to be what it is called
            read_object(file, strict=True)
        return files

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        return read_object(self.tokenizer_files[0])

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Every token of tokenizer.json and its id."""
        try:
            vocabulary = (self.tokenizer.get("model") or {}).get("vocab") or {}
            if isinstance(vocabulary, list):  # Unigram: [[token, score], ...]
                vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
            ids = vocabulary | {token["content"]: token["id"] for token in self.tokenizer.get("added_tokens") or []}
        except (AttributeError, LookupError, TypeError) as error:
            raise _unusable_tokenizer(repr(error)) from error
        for text, token in ids.items():
            if not isinstance(text, str) or type(token) is not int:
                raise _unusable_tokenizer(f"token {shortened(text)} with id {shortened(token)}")
        return ids

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of a conversation; None when the checkpoint has none."""
        if is_file(self.directory / TEMPLATE_FILE):
            try:
                return (self.directory / TEMPLATE_FILE).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise WispError(f"{TEMPLATE_FILE} cannot be read", got=str(error), expected="UTF-8") from error
        template = self.tokenizer_config.get("chat_template")
        if isinstance(template, list):  # several named ones
            named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = named[-1].get("template") if named else None
        if template is not None and not (isinstance(template, str) and is_unicode(template)):
            raise WispError(
                "tokenizer_config.json chat_template is not usable", got=shortened(template), expected="a string"
            )
        return template

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: those of both configurations and the tokenizer's own end token."""
        found: list[int] = []
        for where, fields in (("generation_config.json", self.generation_config), ("config.json", self.config)):
            value = fields.get("eos_token_id")
            for token in value if isinstance(value, list) else [value]:
                if token is not None:
                    found.append(checked_token_id(token, f"{where} eos_token_id"))
        end = self.tokenizer_config.get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
        if isinstance(end, str) and end in self.token_ids:
            found.append(self.token_ids[end])
        return tuple(dict.fromkeys(found))

    @property
    def bos_token_id(self) -> int | None:
        value = self.config.get("bos_token_id")
        return None if value is None else checked_token_id(value, "config.json bos_token_id")

    # --------------------------------------------------------------------------------------------------------- weights

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name. Raises WispError for a damaged file and for a name that two tensors have."""
        self._fetch_weights()
        tensors: dict[str, TensorInfo] = {}
        twice: list[str] = []
        for file in self._weight_files():
            for name, info in read_header(file).items():
                if name in tensors:
                    twice.append(f"{name} (in {tensors[name].file.name} and {file.name})")
                tensors[name] = info
        if twice:
            raise WispError(
                "the checkpoint holds tensors twice", got=", ".join(twice), remedy="save the checkpoint again"
            )
        return tensors

    def _weight_files(self) -> list[Path]:
        single, index = self.directory / WEIGHTS_FILE, self.directory / INDEX_FILE
        if not is_file(single) and not is_file(index):
            single, index = self.directory / pytorch.TORCH_FILE, self.directory / pytorch.TORCH_INDEX
        if is_file(single) or not is_file(index):
            if not is_file(single):
                others = sorted(
                    path.name for pattern in ("*.bin", "*.pt", "*.gguf") for path in self.directory.glob(pattern)
                )
                raise WispError(
                    "the checkpoint has no weights",
                    got=", ".join(others) or "none",
                    expected=f"{WEIGHTS_FILE} or {INDEX_FILE}",
                    remedy="save it with transformers: model.save_pretrained(DIR)",
                )
            return [single]
        files = [self.directory / name for name in indexed_files(index)]
        missing = [file.name for file in files if not is_file(file)]
        if missing:
            raise WispError(
                "files of the checkpoint are missing",
                got=f"none of the name {', '.join(missing)}",
                expected=f"what {index.name} lists",
                remedy="download the checkpoint again",
            )
        return files

    def check_weights(self, specs: Sequence[WeightSpec], tied: bool) -> None:
        """Raises one WispError that lists every missing, unexpected or wrongly shaped tensor. Reads no weights."""
        expected: dict[str, tuple[int, ...]] = {}
        for spec in specs:
            for source, rows in zip(spec.sources, spec.source_rows, strict=True):
                expected[source] = (rows, *spec.shape[1:])
        extra = [n for n in self.tensors if n not in expected and not IGNORED_TENSORS.fullmatch(n)]
        if tied:
            extra = [name for name in extra if name != "lm_head.weight"]
        complaints = [
            ("missing", [name for name in expected if name not in self.tensors]),
            ("unexpected", sorted(extra)),
            (
                "of another shape",
                [
                    f"{name} {list(self.tensors[name].shape)} instead of {list(shape)}"
                    for name, shape in expected.items()
                    if name in self.tensors and self.tensors[name].shape != shape
                ],
            ),
            (
                "of an unsupported type",
                [
                    f"{name} {self.tensors[name].dtype} instead of {', '.join(DTYPES)}"
                    for name in expected
                    if name in self.tensors and self.tensors[name].dtype not in DTYPES
                ],
            ),
        ]
        found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in complaints if names]
        if found:
            raise WispError(
                "the weights do not match config.json",
                got="; ".join(found),
                remedy="check that config.json and the weights are of the same checkpoint",
            )

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `[start, stop)` of a tensor in float32. Only those rows are read."""
        info = self.tensors[name]
        stop = info.shape[0] if stop is None else stop
        if info.file.suffix == ".bin":
            return pytorch.read_rows(info.file, name, start, stop)
        try:
            with safe_open(info.file, "np") as file:
                return file.get_slice(name)[start:stop].astype(np.float32)
        except (SafetensorError, OSError) as error:
            raise _damaged(info.file, str(error)) from error

    def blocks(self, spec: WeightSpec) -> Iterator[NDArray[np.float32]]:
        """The rows of a weight in order, in float32 blocks of at most 64 MiB."""
        for source, rows in zip(spec.sources, spec.source_rows, strict=True):
            step = max(1, BLOCK_ELEMENTS // math.prod(spec.shape[1:]))
            for start in range(0, rows, step):
                yield self.read(source, start, min(rows, start + step))

    def source_scales(self, spec: WeightSpec, first: int = 0) -> GroupScales | None:
        """The scales that the source itself quantized a weight with, rows counted from `first`; here it did not."""
        return None


# ------------------------------------------------------------------------------------------------------------- opening


def open_checkpoint(
    source: str | Path, revision: str | None = None, token: str | None = None, ignored_fields: Collection[str] = ()
) -> Checkpoint:
    """Opens a directory, a GGUF file, or a Hub id `org/name`: small files are downloaded now, weights when needed.

    Fields of the configuration that nobody knows are refused but those in `ignored_fields`.
    """
    path = Path(source)
    if path.is_dir():
        described = CheckpointSource("directory", path.resolve().name, None)
        return _opened(path, described, lambda: None, ignored_fields)
    if path.is_file() and path.suffix.lower() == ".gguf":
        from compiler.sources.gguf import GgufCheckpoint  # which builds on this module

        return GgufCheckpoint(path, ignored_fields)
    return _open_hub(str(source), revision, token, ignored_fields)


def _opened(
    directory: Path, source: CheckpointSource, fetch_weights: Callable[[], object], ignored_fields: Collection[str]
) -> Checkpoint:
    """A Hugging Face checkpoint, or weights in MLC's format."""
    from compiler.sources.mlc.checkpoint import MlcCheckpoint, holds_mlc_weights  # which builds on this module

    kind = MlcCheckpoint if holds_mlc_weights(directory) else Checkpoint
    checkpoint = kind(directory, source, fetch_weights)
    checkpoint.config = dict(without_ignored(checkpoint.config, ignored_fields))
    return checkpoint


def is_hub_id(source: str) -> bool:
    """Whether a source reads like `org/name`."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}", source) is not None


def _open_hub(repo: str, revision: str | None, token: str | None, ignored_fields: Collection[str]) -> Checkpoint:
    small = [*CONFIG_FILES, *TOKENIZER_FILES, TEMPLATE_FILE, *MLC_FILES]
    with _no_progress_bars():
        directory = _download(repo, revision, token, small)
    commit = directory.name  # the cache names a snapshot after its commit

    def fetch(*names: str) -> None:
        if names:
            _download(repo, commit, token, names)

    def fetch_weights() -> None:
        """What the indexes list, whatever it is called, and nothing else."""
        from compiler.sources.mlc.tensor_cache import CACHES, shard_files  # which builds on this module

        with contextlib.nullcontext() if sys.stderr.isatty() else _no_progress_bars():
            cache = next((path for name in CACHES if is_file(path := directory / name)), None)
            if cache is not None:
                return fetch(*shard_files(cache))
            for single, index in WEIGHT_FILES:
                fetch(single, index)
                if is_file(directory / single):
                    return None
                if is_file(directory / index):
                    return fetch(*indexed_files(directory / index))
        return None

    return _opened(directory, CheckpointSource("hub", repo, commit), fetch_weights, ignored_fields)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keeps the Hub's library from drawing on stderr."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _download(repo: str, revision: str | None, token: str | None, files: Sequence[str]) -> Path:
    """The local snapshot of a Hub repository with these files in it."""
    what = f"'{repo}'" + (f" at revision '{revision}'" if revision else "")
    try:
        endpoint = os.environ.get("HF_ENDPOINT")
        return Path(
            snapshot_download(repo, revision=revision, token=token, allow_patterns=list(files), endpoint=endpoint)
        )
    except errors.GatedRepoError as error:
        raise WispError(
            f"the Hub does not give {what} to everybody (it is gated)",
            remedy="accept its terms on the Hub, then log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WispError(f"the Hub has no {what}", remedy="check the revision: a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise WispError(
            f"the Hub has no {what}, or it is private",
            expected="a directory that exists or the id of a model, org/name",
            remedy="check the spelling; for a private model log in with `hf auth login` or set HF_TOKEN",
        ) from error
    except (errors.HTTPError, errors.RevisionResolutionError, OSError) as error:  # OSError: no network, offline, disk
        raise WispError(
            f"{what} cannot be downloaded and is not in the local cache",
            got=str(error.__cause__ or error).split("\n")[0],
            remedy="check the network connection, or give a local directory",
        ) from error


# --------------------------------------------------------------------------------------------------------------- files


def read_object(path: Path, optional: bool = False, strict: bool = False) -> dict[str, Any]:
    """A JSON object; an empty one when the file is optional and not there. `strict`: as a browser reads JSON.

    Raises WispError for anything else, and for a link that leads out of the file's directory.
    """
    checked_file(path)
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant if strict else None)
    except FileNotFoundError:
        raise WispError(
            f"the checkpoint has no {path.name}",
            got=path.parent,
            expected="a Hugging Face checkpoint",
            remedy=f"give a directory with {path.name}, tokenizer.json and {WEIGHTS_FILE}",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WispError(f"{path.name} cannot be read", got=str(error), remedy="repair the checkpoint") from error
    if not isinstance(value, dict):
        raise WispError(f"{path.name} is not usable", got=type(value).__name__, expected="a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def indexed_files(index: Path) -> list[str]:
    """The plain names of the shards that an index lists. Raises WispError for an index that lists anything else."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise WispError(f"{index.name} is not usable", expected="a weight_map of tensor names to file names")
    files = sorted(set(names.values()))
    odd = [name for name in files if not is_safe_id(name)]
    if odd:
        raise WispError(f"{index.name} is not usable", got=shortened(odd[0]), expected="plain file names")
    return files


def _unusable_tokenizer(got: str) -> WispError:
    return WispError(
        "tokenizer.json cannot be read",
        got=got,
        expected="what Hugging Face's tokenizers writes",
        remedy="save the tokenizer again with a current transformers",
    )


def checked_token_id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WispError(f"{where} is not usable", got=repr(value), expected="token ids")
    return value


def _damaged(file: Path, reason: str) -> WispError:
    return WispError(
        f"{file.name} is damaged", got=reason, expected="a safetensors file", remedy="download or save it again"
    )


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file. The library proves that header and file agree; this names the culprit."""
    if file.suffix == ".bin":
        return {n: TensorInfo(dtype, shape, file) for n, (dtype, shape) in pytorch.read_header(file).items()}
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
