"""Artifacts with random weights, for benchmarks: any shape of network without a checkpoint.

Weights are drawn straight in the stored format, a matrix at a time, with scales that keep activations of order one.
Everything else (network, plans, kernels, manifest) is the pipeline's own. Knows nothing of what is measured.
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.writer import MANIFEST, ArtifactWriter, check_output, tensor_metadata
from ..build import Source, Text, describe, fitting_variants, lower, plan_network, write_text, write_variants
from ..config import generation_defaults, resolve_config
from ..errors import WispError
from ..models.base import WeightSpec
from ..places import PACKAGE
from ..progress import Report, Silent
from ..sources.protocol import CheckpointSource
from ..target.variants import VARIANTS
from ..weights.choice import DEFAULT_QUANTIZATION
from ..weights.quantize import join_pairs, parameter_layout
from ..weights.schemes import SCHEMES, Scheme

# What config.json says of each; the context is what the plans are compiled for.
LLAMA: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _llama(hidden: int, layers: int, heads: int, groups: int, inner: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        **LLAMA,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": inner,
        "vocab_size": vocab,
        **more,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "llama-tiny": _llama(256, 2, 4, 2, 512, 1024, max_position_embeddings=512, tie_word_embeddings=True),
    "llama-110m": _llama(768, 12, 12, 4, 2048, 8192),
    "tinyllama-1.1b": _llama(2048, 22, 32, 4, 5632, 32000),
    "llama-3.2-1b": _llama(2048, 16, 32, 8, 8192, 128256, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "llama-3.2-3b": _llama(3072, 28, 24, 8, 8192, 128256, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, 128256, rope_parameters={**LLAMA3_ROPE, "factor": 8.0}),
    "phi-3-mini": {**_llama(3072, 32, 32, 32, 8192, 32064), "model_type": "phi3", "sliding_window": 2047},
}
STOP_TOKEN = 1

# The stored tensors of a weight, (name, array), as `parameter_layout` lists them.
MakeTensors = Callable[[WeightSpec, Scheme], Iterable[tuple[str, NDArray]]]


@dataclass(frozen=True)
class RandomModel:
    """What is written: a config.json, how its weights are made, its tokenizer.json."""

    id: str
    config: Mapping[str, Any]
    make_tensors: MakeTensors
    tokenizer: bytes


def shape_artifact(name: str, quantization: str | None = None, progress: Report | None = None) -> Path:
    """The artifact of a named shape, from the user's cache unless the compiler has changed since."""
    if name not in SHAPES:
        raise WispError("there is no such shape", got=repr(name), expected=" or ".join(SHAPES))
    quantization = quantization or DEFAULT_QUANTIZATION
    if quantization not in SCHEMES:
        raise WispError("the quantization is not known", got=repr(quantization), expected=" or ".join(SCHEMES))
    model = RandomModel(name, SHAPES[name], random_tensors, byte_tokenizer())
    directory = cache_directory() / f"{name}-{quantization}"
    stamp, inputs = directory.with_name(f".{directory.name}.inputs"), _inputs(model)
    if not (directory / MANIFEST).is_file() or not stamp.is_file() or stamp.read_text() != inputs:
        write_random_artifact(model, directory, quantization, progress=progress)
        stamp.write_text(inputs)
    return directory


def cache_directory() -> Path:
    """Where the artifacts of shapes are kept."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "wisp" / "bench"


def write_random_artifact(
    model: RandomModel,
    output: Path,
    quantization: str = DEFAULT_QUANTIZATION,
    *,
    variants: Iterable[str] = tuple(VARIANTS),
    progress: Report | None = None,
) -> Path:
    """Compiles `model` for its whole `max_position_embeddings` and writes it as an artifact."""
    progress = progress or Silent()
    check_output(output)
    with tempfile.TemporaryDirectory() as scratch, ArtifactWriter(output) as writer:
        (Path(scratch) / "config.json").write_text(json.dumps(model.config))
        (Path(scratch) / "tokenizer.json").write_bytes(model.tokenizer)
        config = resolve_config(
            scratch,
            output=output,
            identifier=model.id,
            quantization=quantization,
            context=model.config["max_position_embeddings"],
            variants=variants,
            kv="f16",
        )
        source = Source(None, model.config, CheckpointSource("directory", model.id, None))
        network = plan_network(config, source)
        lowered = lower(config, network, fitting_variants(config, network, progress), progress)
        tensors = 0
        with progress.stage("random weights", len(network.specs)) as advance:
            for spec in network.specs:
                for name, tensor in model.make_tensors(spec, network.scheme):
                    writer.add_tensor(name, tensor)
                    tensors += 1
                advance(1)
        text = Text((Path(scratch) / "tokenizer.json",), None, None, None, (STOP_TOKEN,), generation_defaults({}, {}))
        write_variants(network, lowered, writer)
        write_text(source, network, text, writer)
        metadata = tensor_metadata(tensors, network.parameters, network.weight_bytes)
        return writer.finish(describe(config, source, network, text, lowered), metadata)


def random_tensors(spec: WeightSpec, scheme: Scheme) -> Iterable[tuple[str, NDArray]]:
    """Uniform quantized weights of variance 1 / columns, the same for a name every time."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(spec.name.encode())))
    layout = parameter_layout(spec, scheme)
    if spec.kind == "vector":
        ((name, dtype, shape),) = layout
        yield name, rng.uniform(0.9, 1.1, shape).astype(dtype)
        return
    deviation = spec.shape[1] ** -0.5
    if scheme.group_size == 0:
        ((name, dtype, shape),) = layout
        values = rng.random(shape, np.float32)
        values -= 0.5
        values *= deviation * np.float32(12**0.5)
        yield name, values.astype(dtype, copy=False)
        return
    (words, _, words_shape), (scales, _, scales_shape) = layout
    spread = np.std(scheme.codebook) if scheme.codebook else ((scheme.largest + 1) ** 2 / 12) ** 0.5
    step = deviation / spread
    yield words, _random_words(rng, words_shape, scheme)
    steps = step * rng.uniform(0.75, 1.25, (scales_shape[0], scheme.groups(spec.shape[1])))
    factors = steps.astype(np.float16)
    if scheme.zeros:
        middle = scheme.largest // 2 + np.arange(factors.shape[1]) % 2  # the mean is zero over two groups
        factors = join_pairs(factors, np.broadcast_to(middle.astype(np.float16), factors.shape))
    elif scheme.bias:  # the mean is zero
        factors = join_pairs(factors, (steps * (-scheme.largest / 2)).astype(np.float16))
    yield scales, factors


def _random_words(rng: np.random.Generator, shape: tuple[int, ...], scheme: Scheme) -> NDArray[np.uint32]:
    """Words whose elements are uniform in 0..largest."""
    levels = scheme.largest + 1
    if scheme.codebook or levels == 2**scheme.bits:
        return rng.integers(0, 2**32, size=shape, dtype=np.uint32)
    if scheme.bits == 4:
        choices = np.array([low | high << 4 for high in range(levels) for low in range(levels)], np.uint8)
    else:
        choices = np.arange(levels, dtype=np.uint8)
    drawn = choices[rng.integers(0, len(choices), size=(*shape, 4), dtype=np.uint8)]
    words: NDArray[np.uint32] = drawn.view("<u4")[..., 0]
    return words


def byte_tokenizer() -> bytes:
    """The smallest tokenizer.json that reads and writes any text: one token a byte, behind two special ones."""
    special = [
        {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for i, content in enumerate(("<s>", "</s>"))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {entry["content"]: entry["id"] for entry in special}
    vocabulary |= {character: 2 + i for i, character in enumerate(_byte_characters())}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
        | {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []},
    }
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte (GPT-2's `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _inputs(model: RandomModel) -> str:
    """A digest of the model's numbers and of the compiler."""
    digest = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
