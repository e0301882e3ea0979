"""`mlc-chat-config.json`: the model as MLC's tools describe it, so that they read the weights of an artifact.

Field names follow `mlc_llm/protocol/mlc_chat_config.py` and each architecture's `*_model.py`. What reads
it back is `sources/mlc`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.base import ModelConfig

MLC_CONFIG = "mlc-chat-config.json"

# MLC's template "LM": the prompt as it is. MLC knows no Jinja; the chat template is in model.json.
PLAIN_TEXT: dict[str, Any] = {
    "name": "LM",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": {"user": "", "assistant": ""},
    "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"},
    "messages": [],
    "seps": [""],
    "role_content_sep": "",
    "role_empty_sep": "",
}


@dataclass(frozen=True)
class Compiled:
    """How a model was compiled, and what its text needs, as far as MLC's tools ask."""

    quantization: str
    context: int
    prefill_chunk: int
    bos_token_id: int | None
    stop_token_ids: Sequence[int]
    generation: Mapping[str, float]
    tokenizer_files: Sequence[str]


def mlc_chat_config(model: ModelConfig, raw: Mapping[str, Any], compiled: Compiled) -> dict[str, Any]:
    """The content of the file; `raw` is the checkpoint's config.json."""
    stops, generation = list(compiled.stop_token_ids), compiled.generation
    return {
        "version": "0.1.0",
        "model_type": model.model_type,
        "quantization": compiled.quantization,
        "model_config": _model_config(model, raw, compiled),
        "vocab_size": model.vocab_size,
        "context_window_size": compiled.context,
        "sliding_window_size": -1,
        "prefill_chunk_size": compiled.prefill_chunk,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "temperature": generation["temperature"],
        "top_p": generation["top_p"],
        "repetition_penalty": generation["repetition_penalty"],
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "tokenizer_files": list(compiled.tokenizer_files),
        "conv_template": {**PLAIN_TEXT, "stop_token_ids": stops},
        "pad_token_id": raw.get("pad_token_id") if isinstance(raw.get("pad_token_id"), int) else 0,
        "bos_token_id": compiled.bos_token_id,
        "eos_token_id": stops,
    }


def _model_config(model: ModelConfig, raw: Mapping[str, Any], compiled: Compiled) -> dict[str, Any]:
    """The network, in the fields of each architecture's `*_model.py`."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    model_config: dict[str, Any] = {
        "model_type": model.model_type,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_hidden_layers,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "rms_norm_eps": model.final_norm.epsilon,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "position_embedding_base": theta,
        "rope_scaling": None if kind == "default" else rope,
        "max_position_embeddings": model.max_position_embeddings,
        "context_window_size": compiled.context,
        "prefill_chunk_size": compiled.prefill_chunk,
        "tensor_parallel_shards": 1,
        "max_batch_size": 1,
    }
    if raw.get("original_max_position_embeddings"):
        model_config["original_max_position_embeddings"] = raw["original_max_position_embeddings"]
    rotary_dim = max(rope.dim for rope in model.ropes)
    if rotary_dim != model.head_dim:
        model_config["partial_rotary_factor"] = rotary_dim / model.head_dim
    return model_config
