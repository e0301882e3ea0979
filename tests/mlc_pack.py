"""Directories in MLC's format, written from MLC's rules: `mlc_llm/quantization/group_quantization.py` for the values,
`tvm/contrib/tvmjs.py` for the files, `mlc_llm/interface/gen_config.py` for the description.

Knows nothing of the compiler that the tests hold against it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

Tensors = dict[str, NDArray]

PHI3_CONVERSATION: dict[str, Any] = {
    "name": "phi-3",
    "system_template": "<|system|>\n{system_message}<|end|>\n",
    "system_message": "You are a helpful digital assistant.",
    "system_prefix_token_ids": [1],
    "add_role_after_system_message": True,
    "roles": {"user": "<|user|>", "assistant": "<|assistant|>"},
    "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"},
    "messages": [],
    "seps": ["<|end|>\n"],
    "role_content_sep": "\n",
    "role_empty_sep": "\n",
    "stop_str": ["<|end|>"],
    "stop_token_ids": [2, 32000],
    "function_string": "",
    "use_function_calling": False,
}


def quantize_q4f16_1(weight: NDArray[np.floating[Any]]) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
    """(N, K) -> (N, 4 * groups) words and (N, groups) scales. All arithmetic is in float16, as MLC's is."""
    weight = weight.astype(np.float16)
    rows, columns = weight.shape
    groups = -(-columns // 32)
    scale = np.zeros((rows, groups), np.float16)
    words = np.zeros((rows, groups * 4), np.uint32)
    for group in range(groups):
        part = weight[:, 32 * group : 32 * group + 32]
        scale[:, group] = np.abs(part).max(axis=1) / np.float16(7)
        for j in range(part.shape[1]):
            q = np.rint(part[:, j] / scale[:, group] + np.float16(7))
            q = np.clip(q, 0, 14).astype(np.uint32)
            words[:, 4 * group + j // 8] |= q << np.uint32(j % 8 * 4)
    return words, scale


def llama_tensors(checkpoint: Path) -> Tensors:
    """A Llama's weights under MLC's names, float32: query, key and value fused, gate and up fused."""
    raw = _float32(checkpoint)
    fused: Tensors = {}
    for name, value in raw.items():
        if name.endswith("q_proj.weight"):
            parts = [raw[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            fused[name.replace("q_proj", "qkv_proj")] = np.concatenate(parts)
        elif name.endswith("gate_proj.weight"):
            fused[name.replace("gate_proj", "gate_up_proj")] = np.concatenate(
                [value, raw[name.replace("gate_proj", "up_proj")]]
            )
        elif not name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            fused[name] = value
    return fused


def phi3_tensors(checkpoint: Path) -> Tensors:
    """A Phi-3's weights under MLC's names, float32."""
    renamed: Tensors = {}
    for name, value in _float32(checkpoint).items():
        new = name.replace("model.embed_tokens", "transformer.embd").replace("model.norm", "transformer.norm")
        new = new.replace("model.layers", "transformer.h").replace("input_layernorm", "ln")
        new = new.replace("self_attn.qkv_proj", "mixer.qkv_proj").replace("self_attn.o_proj", "mixer.out_proj")
        renamed[new] = value
    return renamed


def _float32(checkpoint: Path) -> Tensors:
    return {name: tensor.float().numpy() for name, tensor in load_file(checkpoint / "model.safetensors").items()}


def pack(tensors: Tensors) -> Tensors:
    """q4f16_1: matrices in groups of 32, everything else in float16."""
    packed: Tensors = {}
    for name, value in tensors.items():
        if value.ndim == 2:
            words, scales = quantize_q4f16_1(value)
            stem = name.removesuffix(".weight")
            packed |= {f"{stem}.q_weight": words, f"{stem}.q_scale": scales}
        else:
            packed[name] = value.astype(np.float16)
    return packed


def write_cache(directory: Path, tensors: Mapping[str, NDArray], name: str, shard_bytes: int = 1 << 18) -> None:
    """Raw shards and their records. A tensor over half a shard has one of its own; float32 is cut to bfloat16."""
    shards: list[tuple[list[dict[str, Any]], bytes]] = []
    records: list[dict[str, Any]] = []
    pending = b""
    for tensor_name, tensor in tensors.items():
        data = tensor.tobytes()
        if tensor.dtype == np.float32:
            data = (tensor.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        record = {
            "name": tensor_name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype.name,
            "format": "f32-to-bf16",
            "nbytes": len(data),
        }
        if len(pending) + len(data) >= shard_bytes:
            if 2 * len(data) >= shard_bytes:
                shards.append(([{**record, "byteOffset": 0}], data))
                continue
            shards.append((records, pending))
            records, pending = [], b""
        records.append({**record, "byteOffset": len(pending)})
        pending += data
    if pending:
        shards.append((records, pending))
    entries = []
    for i, (content, data) in enumerate(shards):
        path = f"params_shard_{i}.bin"
        (directory / path).write_bytes(data)
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        shard = {"dataPath": path, "format": "raw-shard", "nbytes": len(data), "records": content, "md5sum": digest}
        entries.append(shard)
    total = sum(len(data) for _, data in shards)
    metadata = {"ParamSize": len(tensors), "ParamBytes": total, "BitsPerParam": 4.5}
    (directory / name).write_text(json.dumps({"metadata": metadata, "records": entries}))


def describe(checkpoint: Path, quantization: str = "q4f16_1", conversation: Any = PHI3_CONVERSATION) -> dict[str, Any]:
    """`mlc-chat-config.json` of a checkpoint that has no rope scaling, as `mlc_llm gen_config` writes it."""
    raw = json.loads((checkpoint / "config.json").read_text())
    fields = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "vocab_size",
        "tie_word_embeddings",
    ]
    model = {name: raw[name] for name in fields}
    model |= {
        "position_embedding_base": raw["rope_parameters"]["rope_theta"],
        "rope_scaling": None,
        "context_window_size": raw["max_position_embeddings"],
        "prefill_chunk_size": 128,
        "head_dim": raw.get("head_dim") or 0,
        "tensor_parallel_shards": 1,
        "max_batch_size": 80,
    }
    if raw["model_type"] == "phi3":
        extra = {"original_max_position_embeddings": 0, "partial_rotary_factor": 1.0, "model_type": "phi3"}
        model |= {**extra, "max_position_embeddings": raw["max_position_embeddings"]}
    else:
        model |= {"pipeline_parallel_stages": 1, "disaggregation": False}
    return {
        "version": "0.1.0",
        "model_type": raw["model_type"],
        "quantization": quantization,
        "model_config": model,
        "vocab_size": raw["vocab_size"],
        "context_window_size": raw["max_position_embeddings"],
        "sliding_window_size": -1,
        "prefill_chunk_size": 128,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "active_vocab_size": 320,
        "temperature": 0.5,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.25,
        "top_p": 0.75,
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json"],
        "tokenizer_info": {"token_postproc_method": "byte_level"},
        "conv_template": conversation,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": [2],
    }


def write_directory(directory: Path, checkpoint: Path, tensors: Tensors, cache: str = "tensor-cache.json") -> Path:
    """A whole directory: description, cache and the checkpoint's tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((checkpoint / name).read_bytes())
    (directory / "mlc-chat-config.json").write_text(json.dumps(describe(checkpoint)))
    write_cache(directory, tensors, cache)
    return directory
