"""A Hugging Face checkpoint: a directory's configuration, its tokenizer files and its weights.

Reads weights lazily, some rows at a time, and never runs code of a checkpoint. Knows nothing of architectures beyond
the list of weights it is asked to check. Other kinds of source differ from this one in what they override.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import is_safe_id
from ..errors import WispError
from ..models import POOLING, text_fields
from ..models.base import ZEROS, WeightSpec
from ..models.fields import shortened
from ..weights.kept import Held
from ..weights.quantize import GroupScales
from ..weights.schemes import Scheme
from . import pooling, pytorch, safetensors
from .files import checked_token_id, is_file, is_unicode, read_object
from .protocol import CheckpointSource, Request, TensorInfo
from .safetensors import DTYPES

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILE = "chat_template.jinja"
SMALL_FILES = (*CONFIG_FILES, *TOKENIZER_FILES, TEMPLATE_FILE, *pooling.FILES)
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# In order of preference, each beside the index of its shards.
WEIGHT_FILES = ((WEIGHTS_FILE, INDEX_FILE), (pytorch.TORCH_FILE, pytorch.TORCH_INDEX))
BLOCK_ELEMENTS = 1 << 24

# Tensors that some checkpoints hold and no network needs: they are computed from config.json.
IGNORED_TENSORS = re.compile(r"(.*\.)?rotary_emb\.inv_freq|.*\.masked_bias|.*\.attn\.bias")

HEADS = ("lm_head.weight", "proj_out.weight")  # copies of a tied embedding

# Where checkpoints that also see keep the tensors of their language model, and what is not of it.
LANGUAGE_MODEL = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
VISION_TENSORS = re.compile(r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\..*")

# Brings files of these names into the directory, those of them that there are.
Fetch = Callable[[Sequence[str]], object]


class HuggingFaceCheckpoint:
    """An open checkpoint. Small files are read at once; weights when they are asked for."""

    license: str | None = None  # as the checkpoint's own files state it
    takes_as_it_is: bool = False

    def __init__(self, directory: Path, source: CheckpointSource, fetch: Fetch) -> None:
        self.directory = directory
        self.source = source
        self._fetch = fetch
        stated = read_object(directory / "config.json")
        self.config = dict(text_fields(stated))
        self._sees = self.config != stated  # a language model is a part of it
        self._pooling = pooling.read_pooling(directory)
        if self._pooling is not None:
            self.config[POOLING] = self._pooling
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
        return self._read_headers()

    def _read_headers(self) -> dict[str, TensorInfo]:
        self._fetch_weights()
        tensors: dict[str, TensorInfo] = {}
        twice: list[str] = []
        for file in self._weight_files():
            for name, info in _tensors_of(file).items():
                if name in tensors:
                    twice.append(f"{name} (in {tensors[name].file.name} and {file.name})")
                tensors[name] = info
        if twice:
            raise WispError(
                "the checkpoint holds tensors twice", got=", ".join(twice), remedy="save the checkpoint again"
            )
        if self._sees:
            return _language_part(tensors)
        return tensors if self._pooling is None else _as_of_a_decoder(tensors)

    def _fetch_weights(self) -> None:
        """Fetches what the indexes list, whatever it is called, and nothing else."""
        for single, index in WEIGHT_FILES:
            self._fetch([single, index])
            if is_file(self.directory / single):
                return
            if is_file(self.directory / index):
                self._fetch(indexed_files(self.directory / index))
                return

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
            expected |= spec.source_shapes
        extra = [n for n in self.tensors if n not in expected and not self._says_nothing(n)]
        if tied:
            extra = [name for name in extra if name not in HEADS]
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

    def _says_nothing(self, name: str) -> bool:
        """Whether a tensor that no network asks for may be there all the same."""
        return IGNORED_TENSORS.fullmatch(name) is not None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `[start, stop)` of a tensor in float32. Only those rows are read."""
        info = self.tensors[name]
        stop = info.shape[0] if stop is None else stop
        stored = info.stored_as or name
        if info.file.suffix == ".bin":
            return pytorch.read_rows(info.file, stored, start, stop)
        return safetensors.read_rows(info.file, stored, start, stop)

    def blocks(self, spec: WeightSpec) -> Iterator[NDArray[np.float32]]:
        """The rows of a weight in order, in float32 blocks of at most 64 MiB."""
        step = max(1, BLOCK_ELEMENTS // math.prod(spec.shape[1:]))
        for source, begin, rows in spec.pieces:
            for start in range(begin, begin + rows, step):
                stop = min(begin + rows, start + step)
                yield zeros_of(spec, stop - start) if source == ZEROS else spec.shaped(self.read(source, start, stop))

    def source_scales(self, spec: WeightSpec, first: int = 0) -> GroupScales | None:
        """The scales that the source itself quantized a weight with, rows counted from `first`; here it did not."""
        return None

    def check_request(self, request: Request) -> None:
        """Floats may become whatever is asked for."""

    def held(self, spec: WeightSpec) -> Held | None:
        """None: weights are ours to quantize."""
        return None

    def stored(self, spec: WeightSpec, scheme: Scheme) -> list[tuple[str, NDArray]] | None:
        """None: weights are ours to store."""
        return None


def zeros_of(spec: WeightSpec, rows: int) -> NDArray[np.float32]:
    """What stands in place of rows that no tensor holds."""
    return np.zeros((rows, *spec.shape[1:]), np.float32)


def _language_part(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of the language model under the names that it has alone."""
    found = {}
    for name, info in tensors.items():
        begin = next((prefix for prefix in LANGUAGE_MODEL if name.startswith(prefix)), "")
        if not VISION_TENSORS.fullmatch(name):
            found[LANGUAGE_MODEL.get(begin, "") + name.removeprefix(begin)] = replace(info, stored_as=name)
    return found


def _as_of_a_decoder(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a body that was saved without its head, under the names that they have beside one."""
    if any(name.startswith("model.") for name in tensors):
        return dict(tensors)
    return {f"model.{name}": replace(info, stored_as=name) for name, info in tensors.items()}


def _tensors_of(file: Path) -> dict[str, TensorInfo]:
    if file.suffix == ".bin":
        return {n: TensorInfo(dtype, shape, file) for n, (dtype, shape) in pytorch.read_header(file).items()}
    return safetensors.read_header(file)


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
