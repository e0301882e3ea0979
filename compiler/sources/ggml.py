"""Whisper as whisper.cpp keeps it: a ggml file of sizes, mel filters, tokens and tensors, f16 or quantized.

Knows the container (`models/convert-pt-to-ggml.py` of whisper.cpp) and OpenAI's names of tensors; what a block is,
`gguf` says. Every number is checked against the file before it is believed.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ..errors import WispError
from .files import GGML
from .gguf.checkpoint import GgufCheckpoint, Part
from .gguf.dequantize import SUPPORTED_TYPES
from .gguf.reader import GgufHeader, GgufTensor
from .protocol import CheckpointSource
from .whisper_tokenizer import no_speech, special_tokens, tokenizer_of

SIZES = (
    *("vocab_size", "max_source_positions", "encoder_hidden", "encoder_heads", "encoder_layers"),
    *("max_target_positions", "decoder_hidden", "decoder_heads", "decoder_layers", "mel_bands", "type"),
)
MOST_TOKENS, MOST_TOKEN_BYTES, MOST_NAME_BYTES, MOST_DIMENSIONS = 1 << 20, 1 << 10, 1 << 10, 4
MOST_TENSORS = 1 << 16

# Ours by theirs: within a block, and around the blocks of a side.
_BLOCK = {
    "attn_ln": "self_attn_layer_norm",
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "cross_attn_ln": "encoder_attn_layer_norm",
    "cross_attn.query": "encoder_attn.q_proj",
    "cross_attn.key": "encoder_attn.k_proj",
    "cross_attn.value": "encoder_attn.v_proj",
    "cross_attn.out": "encoder_attn.out_proj",
    "mlp_ln": "final_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
}
_AROUND = {
    "conv1": "conv1",
    "conv2": "conv2",
    "ln_post": "layer_norm",
    "ln": "layer_norm",
    "token_embedding": "embed_tokens",
}


class GgmlCheckpoint(GgufCheckpoint):
    """An open file of whisper.cpp; its blocks are kept as those of a GGUF file are."""

    def __init__(self, file: Path) -> None:
        self.file, self.directory = file, file.parent
        self.source = CheckpointSource("ggml", file.name, None)
        self.generation_config, self.tokenizer_config = {}, {}
        self._leasts = {}
        parsed = read_file(file)
        sizes, special = parsed.sizes, special_tokens(parsed.sizes["vocab_size"], len(parsed.tokens))
        if sizes["encoder_hidden"] != sizes["decoder_hidden"]:
            _damaged(file, f"states of {sizes['encoder_hidden']} and {sizes['decoder_hidden']} numbers")
        try:
            self._tokenizer = tokenizer_of(parsed.tokens, special)
            suppress, begin_suppress = no_speech(self._tokenizer)
        except ValueError as error:
            _damaged(file, str(error))
        self._header = GgufHeader({}, parsed.tensors)
        self._parts = {_named(name): Part(tensor, 0, tensor.shape[0], None) for name, tensor in parsed.tensors.items()}
        self.config = {
            "model_type": "whisper",
            "d_model": sizes["decoder_hidden"],
            "vocab_size": sizes["vocab_size"],
            **{f"{side}_{what}": sizes[f"{side}_{what}"] for side in ("encoder", "decoder") for what in ("layers",)},
            **{f"{side}_attention_heads": sizes[f"{side}_heads"] for side in ("encoder", "decoder")},
            **{f"{side}_ffn_dim": self._inner(side) for side in ("encoder", "decoder")},
            "num_mel_bins": sizes["mel_bands"],
            "max_source_positions": sizes["max_source_positions"],
            "max_target_positions": sizes["max_target_positions"],
            "bos_token_id": len(parsed.tokens),
            "eos_token_id": len(parsed.tokens),
            "suppress_tokens": suppress,
            "begin_suppress_tokens": begin_suppress,
        }

    def _inner(self, side: str) -> int:
        part = self._parts.get(f"model.{side}.layers.0.fc1.weight")
        if part is None:
            _damaged(self.file, f"no tensor {side}.blocks.0.mlp.0.weight")
        return part.rows


@dataclass(frozen=True)
class Parsed:
    """What a file holds; tokens of text by id, tensors by OpenAI's names."""

    sizes: dict[str, int]
    tokens: list[bytes]
    tensors: dict[str, GgufTensor]


def read_file(file: Path) -> Parsed:
    """Everything but the weights. Raises WispError for a damaged file."""
    with file.open("rb") as stream:
        reader = _Reader(file, stream)
        reader.take(len(GGML), "its first word")
        sizes = {name: reader.number(f"{name}") for name in SIZES}
        bands, bins = reader.number("mel bands"), reader.number("frequencies")
        reader.skip(4 * bands * bins, "mel filters")
        count = reader.number("tokens", MOST_TOKENS)
        tokens = [reader.take(reader.number("bytes of a token", MOST_TOKEN_BYTES), "a token") for _ in range(count)]
        tensors: dict[str, GgufTensor] = {}
        while not reader.at_end:
            name, tensor = _tensor(reader)
            if name in tensors or len(tensors) >= MOST_TENSORS:
                _damaged(file, f"tensor {name[:100]} is there twice" if name in tensors else "too many tensors")
            tensors[name] = tensor
    return Parsed(sizes, tokens, tensors)


class _Reader:
    """Numbers and bytes of a file, none of them beyond its end."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.file, self.stream, self.size = file, stream, file.stat().st_size

    @property
    def at_end(self) -> bool:
        return self.stream.tell() >= self.size

    def take(self, count: int, what: str) -> bytes:
        begin = self.stream.tell()
        if count < 0 or count > self.size - begin:
            _damaged(self.file, f"{what} of {count} bytes at byte {begin} of {self.size} (is the file complete?)")
        return self.stream.read(count)

    def skip(self, count: int, what: str) -> int:
        """Moves over bytes; returns where they begin."""
        begin = self.stream.tell()
        if count < 0 or count > self.size - begin:
            _damaged(self.file, f"{what} of {count} bytes at byte {begin} of {self.size} (is the file complete?)")
        self.stream.seek(count, 1)
        return begin

    def number(self, what: str, most: int = 1 << 30) -> int:
        (value,) = struct.unpack("<i", self.take(4, what))
        if not 0 <= value <= most:
            _damaged(self.file, f"{value} {what}")
        return int(value)


def _tensor(reader: _Reader) -> tuple[str, GgufTensor]:
    axes = reader.number("dimensions", MOST_DIMENSIONS)
    length, number = reader.number("bytes of a name", MOST_NAME_BYTES), reader.number("a type")
    shape = tuple(reader.number("elements") for _ in range(axes))[::-1]
    name = reader.take(length, "a name").decode("utf-8", "replace")
    known = {int(kind): kind for kind in SUPPORTED_TYPES}
    if number not in known or not shape or 0 in shape:
        _damaged(reader.file, f"tensor {name[:100]} {list(shape)} of type {number}")
    kind = GGMLQuantizationType(known[number])
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        _damaged(reader.file, f"tensor {name[:100]} {list(shape)} in blocks of {block}")
    nbytes = math.prod(shape) // block * block_bytes
    offset = reader.skip(nbytes, f"tensor {name[:100]}")
    if name.endswith(".bias"):  # those of convolutions are columns
        shape = (math.prod(shape),)
    return name, GgufTensor(reader.file, kind, shape, offset, nbytes)


def _named(name: str) -> str:
    """Hugging Face's name of a tensor; one without keeps its own."""
    match name.split("."):
        case [("encoder" | "decoder") as side, "blocks", number, *inner, kind] if ".".join(inner) in _BLOCK:
            return f"model.{side}.layers.{number}.{_BLOCK['.'.join(inner)]}.{kind}"
        case [("encoder" | "decoder") as side, "positional_embedding"]:
            return f"model.{side}.embed_positions.weight"
        case [("encoder" | "decoder") as side, inner, kind] if inner in _AROUND:
            return f"model.{side}.{_AROUND[inner]}.{kind}"
        case _:
            return name


def _damaged(file: Path, reason: str) -> NoReturn:
    raise WispError(f"{file.name} is damaged", got=reason, expected="a file of whisper.cpp", remedy="download it again")
