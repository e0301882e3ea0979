"""Tiny random checkpoints as `transformers` writes them, and the logits they should give.

Knows transformers and torch (test extras); nothing under `compiler/` does.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)
from transformers.utils import logging as transformers_logging

from compiler.models import config_from_huggingface, weight_specs
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.schemes import SCHEMES

transformers_logging.disable_progress_bar()

CORPUS = """The wind moved over the water, and the reeds bent with it. A small light went from stone to stone.
"Who is there?" asked the heron. "Only me," said the light. Numbers: 0 1 2 3 4 5 6 7 8 9, 10, 42, 1999.
Der Fluß fließt schnell; où vas-tu, petite lumière? Там, за рекой, тихо. 光は石から石へ。 naïve café 🙂🌊"""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 331,
    "hidden_size": 192,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 6],
    "pad_token_id": 2,
}
PHI3_DEFAULTS: dict[str, Any] = {
    "vocab_size": 333,
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "original_max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 6],
    "pad_token_id": 2,
}


def make_llama(path: Path, *, dtype: str = "float32", seed: int = 0, **overrides: Any) -> Path:
    """A random Llama in `path`: by default two layers, MQA of 3 heads of 64, a vocabulary of 331, a tied head."""
    return _write(path, LlamaForCausalLM, LlamaConfig(**{**LLAMA_DEFAULTS, **overrides}), dtype, seed)


def make_phi3(path: Path, *, dtype: str = "float32", seed: int = 0, **overrides: Any) -> Path:
    """A random Phi-3 in `path`: by default two layers, 2 heads of 96, a vocabulary of 333, a head of its own."""
    return _write(path, Phi3ForCausalLM, Phi3Config(**{**PHI3_DEFAULTS, **overrides}), dtype, seed)


# What the families have besides Llama's shape, at its most awkward: every kind of bias, norm and window.
FAMILY_DEFAULTS: dict[str, Any] = {
    "vocab_size": 331,
    "hidden_size": 104,
    "intermediate_size": 136,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": [2, 6],
    "pad_token_id": 0,
}
GRANITE = {
    "hidden_size": 96,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.1,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.0,
}
GEMMA2 = {
    "hidden_size": 96,
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 24,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 12.0,
}
GEMMA3 = {
    "hidden_size": 96,
    "head_dim": 40,
    "num_key_value_heads": 1,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
    },
}
STABLELM = {
    "hidden_size": 128,
    "use_qkv_bias": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
MINISTRAL_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "llama_4_scaling_beta": 0.1,
}
REFERENCE_CONFIG = "transformers.json"  # config.json for transformers, where it knows the network by another name
PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
FAMILIES: dict[str, tuple[type[PreTrainedModel], type[Any], dict[str, Any]]] = {
    "llama-biased": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True, "head_dim": 40}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 24, "head_dim": 32}),
    "phi": (PhiForCausalLM, PhiConfig, {"hidden_size": 128, "rope_parameters": PARTIAL_ROPE}),
    "phi3-window": (Phi3ForCausalLM, Phi3Config, {"hidden_size": 96, "sliding_window": 40}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"hidden_size": 96, "tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 48}),
    "granite": (GraniteForCausalLM, GraniteConfig, GRANITE),
    "minicpm": (GraniteForCausalLM, GraniteConfig, GRANITE | {"attention_multiplier": 24**-0.5}),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config, {"hidden_size": 96, "no_rope_layers": [1, 0]}),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {"hidden_size": 96}),
    "gemma": (GemmaForCausalLM, GemmaConfig, {"head_dim": 40, "num_key_value_heads": 1}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, GEMMA2),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, GEMMA3),
    "stablelm": (StableLmForCausalLM, StableLmConfig, STABLELM),
    "stablelm-parallel": (StableLmForCausalLM, StableLmConfig, STABLELM | {"use_parallel_residual": True}),
    "exaone": (LlamaForCausalLM, LlamaConfig, {"head_dim": 40}),
    "internlm2": (LlamaForCausalLM, LlamaConfig, {"head_dim": 40}),
    "ministral3": (Ministral3ForCausalLM, Ministral3Config, {"head_dim": 32, "rope_parameters": MINISTRAL_ROPE}),
}
# What transformers does not know, as the network of another name that it is; see `reference_config`.
RENAMED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "minicpm": lambda c: {
        "model_type": "minicpm",
        "scale_emb": c.pop("embedding_multiplier"),
        "scale_depth": c.pop("residual_multiplier") * c["num_hidden_layers"] ** 0.5,
        "dim_model_base": round(c["hidden_size"] / c.pop("logits_scaling")),
        **{name: value for name, value in c.items() if name not in ("model_type", "attention_multiplier")},
    },
    "exaone": lambda c: {
        "model_type": "exaone",
        "num_layers": c.pop("num_hidden_layers"),
        "layer_norm_epsilon": c.pop("rms_norm_eps"),
        "activation_function": c.pop("hidden_act"),
        **{name: value for name, value in c.items() if name != "model_type"},
    },
    "internlm2": lambda c: {**c, "model_type": "internlm2", "bias": False},
}
# And what it calls their tensors.
RENAMED_TENSORS: dict[str, dict[str, str]] = {
    "exaone": {
        "model.layers": "transformer.h",
        "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.ln_f",
        "self_attn.o_proj": "attn.attention.out_proj",
        "self_attn": "attn.attention",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "gate_proj": "c_fc_0",
        "up_proj": "c_fc_1",
        "down_proj": "c_proj",
    },
    "internlm2": {
        "lm_head": "output",
        "embed_tokens": "tok_embeddings",
        "self_attn.o_proj": "attention.wo",
        "self_attn": "attention",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    },
}


def make_family(name: str, path: Path, **overrides: Any) -> Path:
    """A random checkpoint of one of `FAMILIES` in `path`."""
    model_class, config_class, special = FAMILIES[name]
    config = config_class(**{**FAMILY_DEFAULTS, **special, **overrides})
    _write(path, model_class, config, "float32", seed=0)
    if name in RENAMED:
        original = json.loads((path / "config.json").read_text())
        (path / REFERENCE_CONFIG).write_text(json.dumps(original))
        (path / "config.json").write_text(json.dumps(RENAMED[name](dict(original))))
        tensors = load_file(path / "model.safetensors")
        renamed = {renamed_tensor(name, theirs): tensor for theirs, tensor in tensors.items()}
        if name == "internlm2":
            renamed = _with_grouped_heads(renamed, config)
        save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    return path


EMBEDDING_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def make_embedding(path: Path, pooling: str = "lasttoken", **overrides: Any) -> Path:
    """A random checkpoint as Qwen3-Embedding is published: a body alone, sentence-transformers' files, an end token."""
    special = {"head_dim": 48, "tie_word_embeddings": True, "rope_parameters": EMBEDDING_ROPE}
    config = Qwen3Config(**{**FAMILY_DEFAULTS, **special, **overrides})
    _write(path, Qwen3Model, config, "float32", seed=0)
    stated = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**stated, "architectures": ["Qwen3ForCausalLM"]}))
    package = "sentence_transformers.models"
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    listed = [{"idx": i, "name": str(i), "path": p, "type": f"{package}.{c}"} for i, (p, c) in enumerate(modules)]
    (path / "modules.json").write_text(json.dumps(listed))
    kinds = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    modes = {f"pooling_mode_{kind}": kind == pooling for kind in kinds}
    (path / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": config.hidden_size, **modes, "include_prompt": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    prompts = {"query": "Instruct: Given a web search query, retrieve relevant passages\nQuery:", "document": ""}
    described = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (path / "config_sentence_transformers.json").write_text(json.dumps(described))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def text_ids(path: Path, text: str) -> list[int]:
    """What a checkpoint's tokenizer makes of a text, with the tokens that it adds."""
    return Tokenizer.from_file(str(path / "tokenizer.json")).encode(text).ids


def reference_embedding(model: PreTrainedModel, ids: Sequence[int], pooling: str = "lasttoken") -> NDArray[np.float64]:
    """The embedding of a text (hidden) as sentence-transformers computes it of a decoder of transformers."""
    with torch.inference_mode():
        hidden = model.model(torch.tensor([list(ids)])).last_hidden_state[0].numpy().astype(np.float64)
    pooled = hidden[-1] if pooling == "lasttoken" else hidden.mean(axis=0)
    return pooled / np.linalg.norm(pooled)


def _with_grouped_heads(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Queries, keys and values of each key head together, as InternLM 2 has them."""
    grouped = dict(tensors)
    for name in [name for name in tensors if name.endswith("attention.q_proj.weight")]:
        parts = [grouped.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        heads = [part.reshape(config.num_key_value_heads, -1, part.shape[1]) for part in parts]
        grouped[name.replace("q_proj", "wqkv")] = torch.cat(heads, dim=1).flatten(0, 1).contiguous()
    return grouped


def _rows(state: dict[str, torch.Tensor], source: str, begin: int, rows: int, config: Any) -> torch.Tensor:
    """Rows of a tensor of the checkpoint, as a view of what transformers has in its place."""
    if source in state:
        return state[source][begin : begin + rows]
    dim, groups = config.head_dim, config.num_key_value_heads
    shared = config.num_attention_heads // groups
    group, head = divmod(begin // dim, shared + 2)
    which, first = ("q", group * shared + head) if head < shared else ("kv"[head - shared], group)
    return state[source.replace("wqkv", f"{which}_proj")][first * dim : first * dim + rows]


def renamed_tensor(name: str, theirs: str) -> str:
    """What a family calls a tensor that transformers knows by another name."""
    for begin, ours in RENAMED_TENSORS.get(name, {}).items():
        theirs = theirs.replace(begin, ours)
    return theirs


def _write(path: Path, model_class: type[PreTrainedModel], config: Any, dtype: str, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Activations of order one throughout, so that logits differ and an error anywhere shows.
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                scale = 0.25 if "embed_tokens" in name else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, scale, generator=generator)
    model.to(getattr(torch, dtype))
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


# Changes to a checkpoint's weights after which activations pass what f16 holds, by name. Each is a list of
# (end of a tensor's name, its rows or all of them, factor).
LARGE: dict[str, list[tuple[str, slice, float]]] = {
    "mlp": [(end, slice(None), 20000.0) for end in ("0.mlp.down_proj.weight", "0.mlp.fc2.weight")],
    # A few channels of the residual stream that are far larger than the others, as trained models have them.
    "outliers": [(end, slice(3, 100, 37), 1e5) for end in ("0.mlp.down_proj.weight", "0.mlp.fc2.weight")],
    # What stands between gate and up, or up, and down.
    "product": [
        (".gate_proj.weight", slice(None), 400.0),
        (".up_proj.weight", slice(None), 400.0),
        (".gate_up_proj.weight", slice(None), 400.0),
        (".fc1.weight", slice(None), 1e5),
    ],
    # Values up to half of what a KV cache of 16 bits holds.
    "values": [(".v_proj.weight", slice(None), 5000.0), (".qkv_proj.weight", slice(-48, None), 5000.0)],
}


def enlarge(path: Path, change: str) -> Path:
    """Apply one of `LARGE` to a checkpoint, in place."""
    ((file),) = path.glob("*.safetensors")
    tensors = load_file(file)
    changed = [
        tensors[name][rows].mul_(factor)
        for name in tensors
        for end, rows, factor in LARGE[change]
        if name.endswith(end)
    ]
    assert changed, f"no weight of {path.name} is enlarged by {change}"
    save_file(tensors, file, metadata={"format": "pt"})
    return path


def write_tokenizer(path: Path) -> Path:
    """A byte-level BPE tokenizer (at most 320 tokens, every byte among them) with a chat template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path)
    return path


def reference_model(path: Path, scheme: str) -> PreTrainedModel:
    """The checkpoint in transformers, in float32, with the weights that `scheme` stands for."""
    known = (path / REFERENCE_CONFIG).exists()
    raw = json.loads((path / "config.json").read_text())
    family = raw["model_type"] if known else ""
    config = AutoConfig.from_pretrained(path / REFERENCE_CONFIG if known else path)
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    if known:
        model = AutoModelForCausalLM.from_config(config, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, config=config, **options)
    model.eval()
    state = {renamed_tensor(family, theirs): tensor for theirs, tensor in model.state_dict().items()}
    loaded = load_file(path / "model.safetensors") if known else {}
    for spec in weight_specs(config_from_huggingface(raw, context=1)):
        own = [_rows(state, *piece, config) for piece in spec.pieces]
        if known:
            for tensor, (source, begin, rows) in zip(own, spec.pieces, strict=True):
                tensor.copy_(loaded[source][begin : begin + rows])
        original = np.concatenate([tensor.numpy() for tensor in own]) + np.float32(spec.offset)
        stored = dict(quantize(spec, original, SCHEMES[scheme]))
        restored = dequantize(spec, stored, SCHEMES[scheme]) - np.float32(spec.offset)
        parts = np.split(restored, np.cumsum(spec.source_rows)[:-1])
        with torch.no_grad():
            for tensor, part in zip(own, parts, strict=True):
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(part)))
    return model


def model_logits(model: PreTrainedModel, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits (len(ids), vocabulary) by transformers."""
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0].numpy()


def reference_logits(path: Path, scheme: str, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits (len(ids), vocabulary) by transformers in float32, on the weights that `scheme` stands for."""
    return model_logits(reference_model(path, scheme), ids)
