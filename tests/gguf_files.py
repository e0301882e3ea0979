"""GGUF files as llama.cpp's converter writes them, from small checkpoints of transformers.

Knows the `gguf` package's writer and its own map of tensor names, not Wisp's; states llama.cpp's permutation once more.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes  # noqa: F401 (gives numpy the bfloat16 that safetensors asks it for)
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "phi": gguf.MODEL_ARCH.PHI2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "minicpm": gguf.MODEL_ARCH.MINICPM,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}
# Whose rotary embedding turns neighbours: their queries and keys are permuted.
PERMUTED = ("llama", "mistral", "granite", "minicpm", "smollm3")
GEMMAS = ("gemma", "gemma2", "gemma3_text")  # whose norms get 1 added

AddTokenizer = Callable[[GGUFWriter], None]


def write_gguf(
    checkpoint: Path,
    file: Path,
    kind: Type = Type.F16,
    *,
    kinds: Mapping[str, Type] | None = None,
    raw: Mapping[str, NDArray[np.uint8]] | None = None,
    tokenizer: AddTokenizer | None = None,
    metadata: Callable[[GGUFWriter], None] | None = None,
    tensors_a_part: int = 0,
) -> Path:
    """Converts a checkpoint directory; matrices have type `kind`, or `kinds[GGUF name]`, or the bytes `raw[GGUF name]`.

    `tokenizer` adds the tokenizer (by default the directory's tokenizer.json, byte-level BPE); `metadata` adds keys.
    With `tensors_a_part` the file is cut as llama.cpp cuts them: returns the first part.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture], split_max_tensors=tensors_a_part)
    add_numbers(writer, config)
    if tokenizer is not None:
        tokenizer(writer)
    else:
        add_byte_level(writer, checkpoint, "gpt-2", config["vocab_size"])
    if metadata is not None:
        metadata(writer)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        array = tensor.astype(np.float32)
        if config["model_type"] in PERMUTED and "q_proj" in name:
            array = permute(array, config["num_attention_heads"])
        if config["model_type"] in PERMUTED and "k_proj" in name:
            array = permute(array, config["num_key_value_heads"])
        if config["model_type"] in GEMMAS and name.endswith("norm.weight"):
            array = array + np.float32(1)
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert ours is not None, name
        if raw and ours in raw:
            writer.add_tensor(ours, raw[ours], raw_dtype=(kinds or {})[ours])
        else:
            own = Type.F32 if array.ndim == 1 else (kinds or {}).get(ours, kind)
            writer.add_tensor(ours, encode(array, own), raw_dtype=own)
    add_rope_tensors(writer, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(file.parent.glob(f"{file.stem}-00001-of-*.gguf")) if tensors_a_part else file


def encode(array: NDArray[np.float32], kind: Type) -> NDArray:
    """An array in a tensor type, as the `gguf` package quantizes it."""
    if kind == Type.F32:
        return np.ascontiguousarray(array)
    if kind == Type.F16:
        return array.astype(np.float16)
    return gguf.quants.quantize(np.ascontiguousarray(array), kind)


def permute(weights: NDArray, heads: int) -> NDArray:
    """The rows of queries or keys as llama.cpp's rotary embedding wants them (`LlamaModel.permute`)."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def random_blocks(kind: Type, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Rows of arbitrary blocks whose scales are small finite numbers: (rows, bytes of a row)."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    scale_places = {
        **dict.fromkeys((Type.Q4_0, Type.Q5_0, Type.Q8_0, Type.IQ4_NL, Type.IQ4_XS), (0,)),
        **dict.fromkeys((Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K), (0, 2)),
        Type.Q2_K: (size - 4, size - 2),
        Type.Q3_K: (size - 2,),
        **dict.fromkeys((Type.Q6_K, Type.TQ1_0, Type.TQ2_0), (size - 2,)),
        **dict.fromkeys((Type.IQ1_S, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S), (0,)),
    }
    for place in scale_places.get(kind, ()):
        scales = rng.uniform(1e-3, 1e-2, (rows, columns // block, 1)) * rng.choice((-1, 1), (rows, columns // block, 1))
        blocks[:, :, place : place + 2] = scales.astype("<f2").view(np.uint8)
    if kind == Type.MXFP4:
        blocks[:, :, 0] = rng.integers(117, 122, blocks.shape[:2])  # powers of two
    if kind == Type.IQ1_M:  # a float16 in four pieces, each the upper bits of a word
        scales = rng.uniform(1e-3, 1e-2, (rows, columns // block)).astype("<f2").view("<u2")
        for piece in range(4):
            upper = (scales >> (4 * piece) & 15) << 4
            blocks[:, :, 49 + 2 * piece] = blocks[:, :, 49 + 2 * piece] & 15 | upper.astype(np.uint8)
    return blocks.reshape(rows, -1)


def blocks_of(kind: Type, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random blocks; of Q8_0 without -128, as ggml's quantizer writes them."""
    raw = random_blocks(kind, rows, columns, seed)
    if kind == Type.Q8_0:
        blocks = raw.reshape(rows, -1, 34)
        blocks[:, :, 2:] = np.where(blocks[:, :, 2:] == 0x80, 0x7F, blocks[:, :, 2:])
    return raw


def write_blocks(checkpoint: Path, file: Path, kind: Type, kinds: Mapping[str, Type] | None = None) -> Path:
    """Converts a llama with random blocks in its matrices: of `kind`, or by a part of their name."""
    tensors = load_file(checkpoint / "model.safetensors")
    layers = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    shapes: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        ours = names.get_name(name, try_suffixes=(".weight",))
        if tensor.ndim == 2 and ours is not None:
            shapes[ours] = tensor.shape
    chosen = {n: next((own for part, own in (kinds or {}).items() if part in n), kind) for n in sorted(shapes)}
    raw = {
        name: blocks_of(own, *shapes[name], seed=i)
        for i, (name, own) in enumerate(chosen.items())
        if own not in (Type.F32, Type.F16, Type.BF16)
    }
    return write_gguf(checkpoint, file, kinds=chosen, raw=raw)


# -------------------------------------------------------------------------------------------------------------- numbers


def add_numbers(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    """The architecture's numbers, in the converter's order and words."""
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_type("model")
    writer.add_name(f"tiny {config['model_type']}")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    if "layer_norm_eps" in config:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * head_dim))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config["model_type"] in ("llama", "mistral"):
        writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if config["model_type"] == "minicpm":
        writer.add_embedding_scale(float(config["scale_emb"]))
        writer.add_residual_scale(config["scale_depth"] / config["num_hidden_layers"] ** 0.5)
        writer.add_logit_scale(config["hidden_size"] / config["dim_model_base"])
    if config["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] == "mistral" and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        writer.add_sliding_window(config.get("sliding_window") or 0)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "attn_factor" in rope:
            writer.add_rope_scaling_attn_factors(rope["attn_factor"])
    if rope.get("rope_type") == "longrope":
        original, longest = config["original_max_position_embeddings"], config["max_position_embeddings"]
        stretch = longest / original
        factor = np.sqrt(1 + np.log(stretch) / np.log(original)) if stretch > 1 else 1.0
        writer.add_rope_scaling_attn_factors(float(factor))


def add_rope_tensors(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    """Divisors of the rotary frequencies, which llama.cpp keeps as tensors."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    if rope.get("rope_type") != "llama3":
        return
    dim = config["head_dim"]
    old, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    factors = []
    for i in range(0, dim, 2):
        wavelen = 2 * np.pi * rope["rope_theta"] ** (i / dim)
        if wavelen < old / high:
            factors.append(1.0)
        elif wavelen > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelen - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))


# ------------------------------------------------------------------------------------------------------------ tokenizer


def add_byte_level(writer: GGUFWriter, directory: Path, pre: str, vocab_size: int) -> None:
    """A byte-level BPE tokenizer.json as the converter's `_set_vocab_gpt2` writes it."""
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
    special = {t["id"]: t["special"] for t in tokenizer["added_tokens"]}
    texts = {i: text for text, i in vocabulary.items()}
    types = []
    for i in range(vocab_size):
        if i in special:
            types.append(TokenType.CONTROL if special[i] else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.NORMAL if i in texts else TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([texts.get(i, f"[PAD{i}]") for i in range(vocab_size)])
    writer.add_token_types(types)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    config = json.loads((directory / "tokenizer_config.json").read_text())
    for name, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id)):
        if f"{name}_token" in config:
            add(vocabulary[config[f"{name}_token"]])
    template = directory / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text())


def add_sentence_piece(
    writer: GGUFWriter, model: Path, vocab_size: int, added: Iterable[tuple[str, bool]] = ()
) -> None:
    """A SentencePiece model as the converter writes it, `added` tokens (text, special) after its pieces."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor()
    pieces.LoadFromFile(str(model))
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    scores, types = [-10000.0] * vocab_size, [TokenType.UNUSED] * vocab_size
    for i in range(pieces.vocab_size()):
        tokens[i], scores[i], types[i] = pieces.IdToPiece(i), pieces.GetScore(i), TokenType.NORMAL
        for kind, holds in (
            (TokenType.UNKNOWN, pieces.IsUnknown(i)),
            (TokenType.CONTROL, pieces.IsControl(i)),
            (TokenType.UNUSED, pieces.IsUnused(i)),
            (TokenType.BYTE, pieces.IsByte(i)),
        ):
            if holds:
                types[i] = kind
                break
    for i, (text, special) in enumerate(added, pieces.vocab_size()):
        tokens[i], scores[i] = text, -1000.0
        types[i] = TokenType.CONTROL if special else TokenType.USER_DEFINED
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())
