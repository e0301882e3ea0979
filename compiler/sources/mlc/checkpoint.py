"""Weights that are quantized already: a directory that `mlc_llm convert_weight` or `wisp compile` wrote.

They are taken as they are, bit for bit. Knows `mlc-chat-config.json` and MLC's names of the tensors; `tensor_cache.py`
knows their bytes. Knows nothing of how the values came about.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.mlc_config import MLC_CONFIG
from ...errors import WispError
from ...models import config_from_huggingface, weight_specs
from ...models.base import WeightSpec
from ...weights.choice import AUTO, role_names, scheme_of_model
from ...weights.kept import Held
from ...weights.quantize import dequantize, parameter_layout, span_of
from ...weights.schemes import SCHEMES, STORED, Scheme
from ..files import checked_token_id, is_file, read_object
from ..huggingface import Fetch, HuggingFaceCheckpoint
from ..protocol import CheckpointSource, Request, TensorInfo
from .conversation import chat_template
from .tensor_cache import CACHES, REMEDY, TensorCache

SMALL_FILES = (MLC_CONFIG, *CACHES)
# Fields of MLC's model_config that say how MLC runs a model.
RUNTIME_FIELDS = (
    "context_window_size",
    "prefill_chunk_size",
    "attention_sink_size",
    "tensor_parallel_shards",
    "pipeline_parallel_stages",
    "max_batch_size",
    "disaggregation",
    "position_embedding_base",
    "sliding_window_size",
    "kwargs",
)
SMALLEST_CONTEXT = 16
BLOCK_ROWS = 4096


def holds_mlc_weights(directory: Path) -> bool:
    """Whether a directory is one for `MlcCheckpoint`."""
    return is_file(directory / MLC_CONFIG) and any(is_file(directory / name) for name in CACHES)


class MlcCheckpoint(HuggingFaceCheckpoint):
    """A checkpoint whose weights are stored tensors already; `config` is what config.json would say."""

    takes_as_it_is = True

    def __init__(self, directory: Path, source: CheckpointSource, fetch: Fetch) -> None:
        self.directory = directory
        self.source = source
        self._fetch = fetch
        self._chat = read_object(directory / MLC_CONFIG)
        self._model = _wisp_manifest(directory)
        self._base = _scheme(self._chat)
        self.tokenizer_config = read_object(directory / "tokenizer_config.json", optional=True)
        self.generation_config = self._model["generation"] if self._model else self._chat
        # An artifact of Wisp holds config.json; MLC's description leaves out what MLC does not use.
        own = self._model is not None and is_file(directory / "config.json")
        self.config = read_object(directory / "config.json") if own else huggingface_config(self._chat, self._is_tied)

    @cached_property
    def scheme(self) -> Scheme:
        """What the weights are stored in, each matrix in its own."""
        specs = weight_specs(config_from_huggingface(self.config, SMALLEST_CONTEXT))
        return scheme_of_model(self._model or {}, self._base, specs)

    def check_request(self, request: Request) -> None:
        """Raises WispError when more is asked for than to take the weights as they are."""
        if request.lora is not None:
            raise WispError(
                "an adapter cannot be merged into weights that are quantized already",
                got=f"--lora {request.lora} and {self.scheme.name} weights",
                remedy="compile the original checkpoint with --lora",
            )
        if request.quantization not in (AUTO, self.scheme.name):
            raise WispError(
                "the weights are quantized already",
                got=f"--quant {request.quantization}",
                expected=self.scheme.name,
                remedy=f"use --quant {self.scheme.name}, or compile the original checkpoint",
            )
        overrides, own = request.quantization_overrides, role_names(self.scheme)
        if any(name != own.get(role, self.scheme.name) for role, name in overrides.items()):
            raise WispError(
                "the weights are quantized already",
                got=f"recipe [quantization_overrides] of {', '.join(overrides)}",
                expected=", ".join(f"{role} {name}" for role, name in own.items()) or "none",
                remedy="leave them out of the recipe, or compile the original checkpoint",
            )

    # ------------------------------------------------------------------------------------------------------------ text

    @property
    def chat_template(self) -> str | None:
        """`conv_template` in Jinja; the tokenizer's own template when that is only a name."""
        if self._model is not None:
            return self._model.get("chat_template")
        texts = {token: text for text, token in self.token_ids.items()}
        return chat_template(self._chat.get("conv_template"), texts.get) or super().chat_template

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Of both places where MLC keeps them, and stop strings that are one token; then the tokenizer's own."""
        if self._model is not None:
            return tuple(self._model["stop_token_ids"])
        ends = self._chat.get("eos_token_id")
        found = [
            checked_token_id(t, f"{MLC_CONFIG} eos_token_id") for t in (ends if isinstance(ends, list) else [ends]) if t
        ]
        conversation = self._chat.get("conv_template")
        if isinstance(conversation, Mapping):
            # Models share these templates; an id that is not in this vocabulary cannot end anything.
            known = set(self.token_ids.values())
            found += [token for token in conversation.get("stop_token_ids") or () if token in known]
            found += [self.token_ids[s] for s in conversation.get("stop_str") or () if s in self.token_ids]
        end = self.tokenizer_config.get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
        found += [self.token_ids[end]] if isinstance(end, str) and end in self.token_ids else []
        return tuple(dict.fromkeys(found))

    @property
    def bos_token_id(self) -> int | None:
        value = (self._model or self._chat).get("bos_token_id")
        return None if value is None else checked_token_id(value, f"{MLC_CONFIG} bos_token_id")

    # --------------------------------------------------------------------------------------------------------- weights

    @cached_property
    def cache(self) -> TensorCache:
        """The stored tensors. Raises WispError for a cache that does not hold together."""
        return TensorCache(self.directory)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every stored tensor by name, of MLC's type."""
        first = {name: records[0] for name, records in self.cache.tensors.items()}
        return {n: TensorInfo(r.dtype, (r.rows, *r.shape[1:]), self.directory / r.shard) for n, r in first.items()}

    def _is_tied(self) -> bool:
        return not any(name.startswith("lm_head.") for name in self.cache.tensors)

    def check_weights(self, specs: Sequence[WeightSpec], tied: bool) -> None:
        """Raises one WispError that lists every missing, unexpected or wrongly shaped tensor. Reads no weights."""
        self._fetch(self.cache.shards)
        self.cache.check_files()
        used: set[str] = set()
        missing: list[str] = []
        odd: list[str] = []
        for spec in specs:
            for name, dtype, shape in parameter_layout(spec, self.scheme):
                parts = self._locate(spec, name, shape[0])
                if not parts:
                    missing.append(name)
                for part, rows in parts:
                    used.add(part)
                    odd += self._odd(spec, part, dtype, (rows, *shape[1:]))
        extra = sorted(set(self.cache.tensors) - used)
        if tied:
            extra = [name for name in extra if not name.startswith("lm_head.")]
        complaints = [("missing", missing), ("unexpected", extra), ("of another shape or type", odd)]
        found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in complaints if names]
        if found:
            raise WispError(f"the weights do not match {MLC_CONFIG}", got="; ".join(found), remedy=REMEDY)

    def _odd(self, spec: WeightSpec, name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[str]:
        first = self.cache.tensors[name][0]
        got = (first.rows, *first.shape[1:])
        if spec.kind == "matrix" and self.scheme.of(spec).group_size and got == shape[::-1] != shape:
            raise WispError(
                f"tensor {name} is in the transposed layout of q4f16_0, which is not supported",
                got=list(got),
                expected=f"{list(shape)}, the layout of {self.scheme.of(spec).name}",
                remedy=REMEDY,
            )
        if got != shape or (first.dtype != dtype and "uint32" in (first.dtype, dtype)):
            yield f"{name} {first.dtype} {list(got)} instead of {dtype} {list(shape)}"

    def _locate(self, spec: WeightSpec, name: str, rows: int) -> list[tuple[str, int]]:
        """The stored tensors that make up a tensor of ours, with their rows; none when they are not there.

        MLC fuses query, key and value, gate and up, and names Phi-3's layers in its own way. Packs that kept the
        checkpoint's names, fused or not, hold the same rows: groups never cross one.
        """
        if name in self.cache.tensors:
            return [(name, rows)]
        suffix = name.removeprefix(spec.name)
        stems = [source.removesuffix(".weight") if spec.kind == "matrix" else source for source in spec.sources]
        parts = [(stem + suffix, rows) for stem, rows in zip(stems, spec.source_rows, strict=True)]
        return parts if all(part in self.cache.tensors for part, _ in parts) else []

    def held(self, spec: WeightSpec) -> Held | None:
        """The scheme that a matrix is stored in."""
        own = self.scheme.of(spec)
        return Held(own, exact=True, formats=(own.name,)) if spec.kind == "matrix" else None

    def stored(self, spec: WeightSpec, scheme: Scheme) -> list[tuple[str, NDArray]] | None:
        """The stored tensors of a weight, bit for bit."""
        if parameter_layout(spec, scheme) != parameter_layout(spec, self.scheme):
            return None
        return self._stored_rows(spec, 0, spec.shape[0])

    def _stored_rows(self, spec: WeightSpec, start: int, stop: int) -> list[tuple[str, NDArray]]:
        return [
            (name, self._rows(self._locate(spec, name, rows), *span_of(name, rows, start, stop), np.dtype(dtype)))
            for name, dtype, (rows, *_) in parameter_layout(spec, self.scheme)
        ]

    def _rows(self, located: list[tuple[str, int]], start: int, stop: int, dtype: np.dtype) -> NDArray:
        pieces, first = [], 0
        for name, rows in located:
            low, high = max(start, first) - first, min(stop, first + rows) - first
            if low < high:
                pieces.append(self.cache.rows(name, low, high, dtype))
            first += rows
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    # ------------------------------------------------------------------------------------------------ as float32 values

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows of what was the checkpoint's tensor `name`, dequantized; MLC adds what a norm's weight is offset by."""
        spec, first, rows = self._sources[name]
        return self._dequantized(spec, first + start, first + (rows if stop is None else stop)) - np.float32(
            spec.offset
        )

    def blocks(self, spec: WeightSpec) -> Iterator[NDArray[np.float32]]:
        """The rows of a weight in order, dequantized."""
        for start in range(0, spec.shape[0], BLOCK_ROWS):
            yield self._dequantized(spec, start, min(spec.shape[0], start + BLOCK_ROWS))

    def _dequantized(self, spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        part = replace(spec, shape=(stop - start, *spec.shape[1:]))
        return dequantize(part, dict(self._stored_rows(spec, start, stop)), self.scheme)

    @cached_property
    def _sources(self) -> dict[str, tuple[WeightSpec, int, int]]:
        found = {}
        for spec in weight_specs(config_from_huggingface(self.config, SMALLEST_CONTEXT)):
            first = 0
            for source, rows in zip(spec.sources, spec.source_rows, strict=True):
                found[source] = (spec, first, rows)
                first += rows
        return found


# ------------------------------------------------------------------------------------------------------- configuration


def huggingface_config(chat: Mapping[str, Any], is_tied: Callable[[], bool]) -> dict[str, Any]:
    """The fields of config.json that `mlc-chat-config.json` stands for.

    `is_tied` says whether the weights lack a head, for descriptions that do not say. Fields that this does not know are
    handed on, for the architecture to refuse.
    """
    fields = chat.get("model_config")
    if not isinstance(fields, Mapping):
        raise WispError(f"{MLC_CONFIG} model_config is not usable", got=type(fields).__name__, expected="an object")
    fields = {**(fields.get("kwargs") or {}), **fields}
    if fields.get("tensor_parallel_shards") not in (None, 1):
        raise WispError(
            f"{MLC_CONFIG} model_config.tensor_parallel_shards is not supported",
            got=fields["tensor_parallel_shards"],
            expected=1,
            remedy=REMEDY,
        )
    config = {name: value for name, value in fields.items() if name not in RUNTIME_FIELDS}
    config["model_type"] = chat.get("model_type")
    config["vocab_size"] = fields.get("vocab_size") or chat.get("vocab_size")
    for name in ("head_dim", "num_key_value_heads", "original_max_position_embeddings"):
        if config.get(name) == 0:  # MLC's way to leave a field out
            del config[name]
    windows = [fields.get("context_window_size"), chat.get("context_window_size")]
    config.setdefault("max_position_embeddings", max((w for w in windows if isinstance(w, int)), default=None))
    if isinstance(fields.get("sliding_window_size"), int) and fields["sliding_window_size"] > 0:
        config.setdefault("sliding_window", fields["sliding_window_size"])
    if fields.get("position_embedding_base"):
        config["rope_theta"] = fields["position_embedding_base"]
    if isinstance(config.get("rope_scaling"), Mapping):
        # MLC copies the first from beside it, and the second too: 0 when there is none.
        copied = {"max_position_embeddings"} | {n for n, v in config["rope_scaling"].items() if v == 0}
        config["rope_scaling"] = {n: v for n, v in config["rope_scaling"].items() if n not in copied}
    if config.get("tie_word_embeddings") is None:
        config["tie_word_embeddings"] = is_tied()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config[name] = chat.get(name)
    return config


def _scheme(chat: Mapping[str, Any]) -> Scheme:
    name = chat.get("quantization")
    if not isinstance(name, str) or name not in STORED:
        transposed = " (its matrices are transposed)" if name in ("q4f16_0", "q3f16_0", "q4bf16_0") else ""
        raise WispError(
            f"{MLC_CONFIG} quantization is not supported",
            got=f"{name!r}{transposed}",
            expected=" or ".join(SCHEMES),
            remedy=REMEDY,
        )
    return STORED[name]


def _wisp_manifest(directory: Path) -> dict[str, Any] | None:
    """model.json of an artifact of Wisp: its text settings are what was compiled; None for a directory of MLC's."""
    model = read_object(directory / "model.json", optional=True)
    if model.get("format") != "wisp":
        return None
    generation, stops = model.get("generation"), model.get("stop_token_ids")
    if not isinstance(generation, dict) or not isinstance(stops, list):
        raise WispError("model.json is not usable", expected="an artifact that wisp compile wrote")
    return model
