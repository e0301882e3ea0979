"""GGUF's words for a network -> Hugging Face's: the fields of config.json and the names of the tensors.

Reference: llama.cpp's converter (`conversion/*.py`) and `gguf/tensor_mapping.py`. What a `config.json` may say is
checked where every checkpoint's is, in `models`; here only what GGUF says otherwise is refused.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import WispError
from ...models import POOLING
from ...models.base import Pooling
from .metadata import Metadata

# Reads a small tensor whole, by its GGUF name; None when it is not there.
ReadVector = Callable[[str], NDArray[np.float32] | None]

ROPE_FREQS, ROPE_LONG, ROPE_SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (ROPE_FREQS, ROPE_LONG, ROPE_SHORT)

_ROOT = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QWEN3 = _LLAMA | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_AFTER = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_GEMMA2 = _LLAMA | _AFTER | {"ffn_norm": "pre_feedforward_layernorm"}
_GEMMA3 = _GEMMA2 | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_OLMO2 = {name: theirs for name, theirs in _QWEN3.items() if name not in ("attn_norm", "ffn_norm")} | _AFTER
_PHI3 = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_PHI2 = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}


@dataclass(frozen=True)
class Family:
    """How one `general.architecture` reads as a `model_type`.

    `permuted` tensors have the rows of each head in pairs, 0, D/2, 1, D/2 + 1, ..., as llama.cpp's converter puts them.
    `fused` tensors hold the rows of several checkpoint tensors, one after another. `norm_offset` is what the converter
    adds to the weights of norms. `more` reads what other families do not say: (metadata, fields so far) -> fields.
    """

    model_type: str
    layer: Mapping[str, str]
    root: Mapping[str, str] = field(default_factory=lambda: _ROOT)
    permuted: tuple[str, ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_eps: tuple[str, str] = (".attention.layer_norm_rms_epsilon", "rms_norm_eps")
    fixed: Mapping[str, Any] = field(default_factory=lambda: {"hidden_act": "silu"})
    norm_offset: float = 0.0
    more: Callable[[Metadata, Mapping[str, Any]], Mapping[str, Any]] = lambda arch, config: {}


def _granite(arch: Metadata, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "embedding_multiplier": arch.number(".embedding_scale", default=1.0),
        "attention_multiplier": arch.number(".attention.scale", default=1.0),
        "residual_multiplier": arch.number(".residual_scale", default=1.0),
        "logits_scaling": arch.number(".logit_scale", default=1.0),
    }


def _minicpm(arch: Metadata, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "scale_emb": arch.number(".embedding_scale", default=1.0),
        "scale_depth": arch.number(".residual_scale", default=1.0) * math.sqrt(config["num_hidden_layers"]),
        "dim_model_base": round(config["hidden_size"] / max(arch.number(".logit_scale", default=1.0), 1e-6)),
    }


def _gemma2(arch: Metadata, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """llama.cpp knows by its 46 layers the one model whose scores are scaled otherwise than by the head's size."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return {
        "attn_logit_softcapping": arch.number(".attn_logit_softcapping", default=50.0),
        "final_logit_softcapping": arch.number(".final_logit_softcapping", default=30.0),
        "query_pre_attn_scalar": hidden // heads if config["num_hidden_layers"] == 46 else config.get("head_dim", 256),
    }


def _gemma3(arch: Metadata, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """As of Gemma 2, with 62 layers."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    cap = arch.number(".final_logit_softcapping", default=0.0)
    return {
        "rope_local_base_freq": arch.number(".rope.freq_base_swa", default=10000.0),
        "sliding_window_pattern": arch.integer(".attention.sliding_window_pattern", default=6),
        "query_pre_attn_scalar": hidden // heads if config["num_hidden_layers"] == 62 else config.get("head_dim", 256),
        "final_logit_softcapping": cap or None,
    }


_GELU = {"hidden_activation": "gelu_pytorch_tanh"}
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _LLAMA, permuted=("attn_q", "attn_k")),
    "phi3": Family("phi3", _PHI3),
    "qwen2": Family("qwen2", _LLAMA),
    "qwen3": Family("qwen3", _QWEN3),
    "gemma": Family("gemma", _LLAMA, fixed=_GELU, norm_offset=1.0),
    "gemma2": Family("gemma2", _GEMMA2, fixed=_GELU, norm_offset=1.0, more=_gemma2),
    "gemma3": Family("gemma3_text", _GEMMA3, fixed=_GELU, norm_offset=1.0, more=_gemma3),
    "granite": Family("granite", _LLAMA, permuted=("attn_q", "attn_k"), more=_granite),
    "minicpm": Family("minicpm", _LLAMA, permuted=("attn_q", "attn_k"), more=_minicpm),
    "olmo2": Family("olmo2", _OLMO2),
    "smollm3": Family("smollm3", _LLAMA, permuted=("attn_q", "attn_k")),
    "phi2": Family(
        "phi",
        _PHI2,
        root=_ROOT | {"output_norm": "model.final_layernorm"},
        fused={"attn_qkv": ("attn_q", "attn_k", "attn_v")},
        norm_eps=(".attention.layer_norm_epsilon", "layer_norm_eps"),
        fixed={"hidden_act": "gelu_new"},
    ),
}

_POOLING: dict[int, Pooling] = {1: "mean", 3: "last"}  # llama.cpp's numbers; 0: no embedding model

# Keys that never change the network: how it was trained, how its tensors lie, how it sees.
_INERT = (".rope.scaling.finetuned", ".tensor_data_layout", ".mm.tokens_per_image")
# What a dense decoder without scaled activations or caps says, where it says anything.
_NEUTRAL = {
    ".expert_count": 0,
    ".expert_used_count": 0,
    ".use_parallel_residual": False,
    ".logit_scale": 1.0,
    ".residual_scale": 1.0,
    ".embedding_scale": 1.0,
    ".attention.clamp_kqv": 0.0,
    ".attention.max_alibi_bias": 0.0,
}


def family(metadata: Metadata) -> Family:
    """The family of `general.architecture`. Raises WispError that names the supported ones."""
    kind = metadata.text("general.type", default="model")
    if kind != "model":
        metadata.refuse("general.type", "'model'", "give the GGUF file of a whole model")
    name = metadata.text("general.architecture")
    if name not in FAMILIES:
        metadata.refuse("general.architecture", " or ".join(map(repr, FAMILIES)), "compile a model of one of these")
    return FAMILIES[name]


def huggingface_config(
    metadata: Metadata, tensors: Mapping[str, tuple[int, ...]], read: ReadVector, ignored: Collection[str] = ()
) -> dict[str, Any]:
    """The `config.json` of the network; `tensors` maps the GGUF names to shapes. Refuses unknown keys but `ignored`."""
    kind = family(metadata)
    arch = metadata.with_prefix(metadata.text("general.architecture"))
    if "token_embd.weight" not in tensors:
        raise WispError(f"{metadata.file} holds no token_embd.weight", remedy="give the GGUF file of a whole model")
    heads = arch.integer(".attention.head_count", least=1)
    hidden = arch.integer(".embedding_length", least=1)
    config: dict[str, Any] = {
        "model_type": kind.model_type,
        "hidden_size": hidden,
        "intermediate_size": arch.integer(".feed_forward_length"),
        "num_hidden_layers": arch.integer(".block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": arch.integer(".attention.head_count_kv", default=heads),
        "vocab_size": tensors["token_embd.weight"][0],
        "max_position_embeddings": arch.integer(".context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        kind.norm_eps[1]: arch.number(kind.norm_eps[0]),
        **kind.fixed,
    }
    head_dim = None
    if arch.get(".attention.key_length") is not None:
        head_dim = arch.integer(".attention.key_length", least=1)
        config["head_dim"] = head_dim
    elif hidden % heads:
        arch.refuse(".attention.head_count", f"a divisor of the embedding length ({hidden})")
    head_dim = head_dim or hidden // heads
    if arch.integer(".attention.value_length", default=head_dim) != head_dim:
        arch.refuse(".attention.value_length", f"{head_dim}, as for keys", "compile a model with equal head sizes")
    if arch.integer(".vocab_size", default=config["vocab_size"]) != config["vocab_size"]:
        arch.refuse(".vocab_size", f"{config['vocab_size']}, the rows of token_embd.weight")
    if not arch.boolean(".attention.causal", default=True):
        arch.refuse(".attention.causal", "true", "compile a decoder")
    config |= _pooling(arch)
    if kind.model_type in ("llama", "qwen3") and "blk.0.attn_q.bias" in tensors:
        config["attention_bias"] = True
    if kind.model_type == "llama" and "blk.0.ffn_up.bias" in tensors:
        config["mlp_bias"] = True
    window = arch.integer(".attention.sliding_window", default=0)
    if window:
        config["sliding_window"] = window
        if kind.model_type == "llama":
            config["model_type"] = "mistral"  # llama.cpp has no architecture of this name
    _add_rope(config, arch, head_dim, read)
    config |= kind.more(arch, config)
    unknown = arch.unread(_INERT, _NEUTRAL, ignored)
    if unknown:
        raise WispError(
            f"{metadata.file} describes a network that is not supported",
            got=", ".join(f"{key} = {str(arch.get(key))[:40]}" for key in unknown),
            expected="no such metadata",
            remedy=f"compile a model without it; if it is inert, use --ignore-field {unknown[0]}",
        )
    return config


def _pooling(arch: Metadata) -> dict[str, Pooling]:
    """The field of an embedding model; none of others."""
    pooling = arch.integer(".pooling_type", default=0)
    if pooling and pooling not in _POOLING:
        arch.refuse(".pooling_type", "1 (mean) or 3 (last)")
    return {POOLING: _POOLING[pooling]} if pooling else {}


def _add_rope(config: dict[str, Any], arch: Metadata, head_dim: int, read: ReadVector) -> None:
    """The rotary embedding: theta, how much of a head it turns, and how its frequencies are scaled."""
    theta = arch.number(".rope.freq_base", default=10000.0)
    if theta < 1:
        arch.refuse(".rope.freq_base", "at least 1")
    config["rope_theta"] = theta
    rotary_dim = arch.integer(".rope.dimension_count", default=head_dim)
    if rotary_dim != head_dim or config["model_type"] == "phi":  # where Hugging Face's default is a half
        fraction = rotary_dim / head_dim
        # int(head_dim * fraction) has to give it back, also where the quotient was rounded down.
        config["partial_rotary_factor"] = (
            fraction if int(head_dim * fraction) == rotary_dim else math.nextafter(fraction, 1)
        )
    scaling = arch.text(".rope.scaling.type", default="none")
    original = arch.integer(".rope.scaling.original_context_length", default=0)
    if original == 1:  # its logarithm is divided by
        arch.refuse(".rope.scaling.original_context_length", "at least 2, or 0 for none")
    freqs, long, short = (read(name) for name in ROPE_TENSORS)
    stretch = arch.number(".rope.scaling.attn_factor", default=1.0)
    match scaling:
        case "none" | "longrope":
            arch.get(".rope.scaling.factor")
        case "linear":
            factor = arch.number(".rope.scaling.factor", default=1.0)
            config["rope_scaling"] = {"rope_type": "linear", "factor": factor} if factor != 1 else None
        case "yarn":
            config["rope_scaling"] = {
                "rope_type": "yarn",
                "factor": arch.number(".rope.scaling.factor", default=1.0),
                "original_max_position_embeddings": original or config["max_position_embeddings"],
                "beta_fast": arch.number(".rope.scaling.yarn_beta_fast", default=32.0),
                "beta_slow": arch.number(".rope.scaling.yarn_beta_slow", default=1.0),
                "attn_factor": stretch,
            }
        case _:
            known = "'none', 'linear', 'yarn' or 'longrope'"
            arch.refuse(".rope.scaling.type", known, "compile a model that uses one of these")
    if original and config["model_type"] == "phi3":
        config["original_max_position_embeddings"] = original
    if freqs is not None:
        if config.get("rope_scaling") is not None:
            arch.refuse(".rope.scaling.type", f"no type beside the tensor {ROPE_FREQS}")
        config["rope_scaling"] = _llama3_scaling(arch.file, freqs, rotary_dim, theta, original)
    if (long is None) != (short is None) or (scaling == "longrope" and long is None):
        raise WispError(f"{arch.file} lacks a rope tensor", expected=f"{ROPE_LONG} and {ROPE_SHORT}")
    if long is not None and short is not None:
        config["rope_scaling"] = {
            "rope_type": "longrope",
            "long_factor": [float(str(v)) for v in long],
            "short_factor": [float(str(v)) for v in short],
        }
        ratio = config["max_position_embeddings"] / original if original else 1.0
        usual = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
        if abs(stretch - usual) > 1e-5:
            config["rope_scaling"]["attention_factor"] = stretch
    elif stretch != 1 and scaling != "yarn":
        arch.refuse(".rope.scaling.attn_factor", f"1 without {ROPE_LONG}")


def _llama3_scaling(
    file: str, freqs: NDArray[np.float32], rotary_dim: int, theta: float, original: int
) -> dict[str, Any] | None:
    """The `llama3` parameters that give these divisors of the frequencies, which are all that GGUF keeps of them.

    Only the ratios of the original context to the two factors matter, so low 1 and high 4, as published, and a search.
    """
    inverse = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    factor = float(str(freqs.max(initial=1.0)))
    if freqs.shape != inverse.shape or not (freqs >= 1).all() or not np.isfinite(freqs).all():
        raise WispError(
            f"{file}: tensor {ROPE_FREQS} is not usable",
            got=f"{freqs.size} numbers from {freqs.min(initial=0):g} to {factor:g}",
            expected=f"{inverse.size} divisors of at least 1",
        )
    if factor == 1:
        return None
    low, high = 1.0, 4.0
    for context in (original or 8192, 8192, *(2**n for n in range(4, 21))):
        turns = context * inverse / (2 * math.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        if np.allclose(1 / freqs, (1 - smooth) / factor + smooth, rtol=1e-4, atol=1e-6):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise WispError(
        f"{file}: tensor {ROPE_FREQS} is not supported",
        got=f"divisors up to {factor:g}",
        expected="the scaling of Llama 3.1 (low_freq_factor 1, high_freq_factor 4)",
        remedy="compile the Hugging Face checkpoint",
    )
