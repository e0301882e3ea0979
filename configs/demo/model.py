"""The embedded model's network and its 4-bit rounding, as training needs them.

Knows: the Llama architecture over a dictionary of tensors that carry the Hugging Face names, and the rule by which
Wisp's q4 scheme rounds a weight. Does not know: data, tokenizer, optimizer. `evaluate.py` runs the same weights through
transformers' own Llama, so a difference between the two would show there; `train.py --check` compares the logits.
"""

import torch
import torch.nn.functional as F

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1300,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "torch_dtype": "float16",
    "use_cache": True,
}
GROUP_SIZE = 32
QUERY_BLOCK = 192


def initial_weights(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random f32 weights under their Hugging Face names; the output head is the embedding."""
    hidden, inter = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    key_value = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], hidden)}
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (hidden, hidden),
            f"{name}.self_attn.k_proj.weight": (key_value, hidden),
            f"{name}.self_attn.v_proj.weight": (key_value, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, hidden),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.mlp.gate_proj.weight": (inter, hidden),
            f"{name}.mlp.up_proj.weight": (inter, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, inter),
        }
    shapes["model.norm.weight"] = (hidden,)
    weights = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape)
            continue
        std = 0.02 if "embed" in name else 0.4 / shape[1] ** 0.5
        if "o_proj" in name or "down_proj" in name:
            std /= (2 * CONFIG["num_hidden_layers"]) ** 0.5
        weights[name] = torch.randn(shape, generator=generator) * std
    return weights


def round_to_q4(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [rows, columns] as Wisp's q4 stores it: groups of 32 along the columns, w = (q - 7) * scale, q in 0..14.

    The scale is max|w| / 7, rounded to f16; a group of zeros stays zero.
    """
    groups = weight.unflatten(-1, (-1, GROUP_SIZE))
    scale = (groups.abs().amax(-1, keepdim=True) / 7).to(torch.float16).to(weight.dtype)
    steps = torch.where(scale > 0, groups / scale, 0).round().clamp(-7, 7)
    return (steps * scale).flatten(-2)


def rounded_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every matrix rounded to q4, with the gradient passed straight through; norms as they are."""
    return {
        name: weight + (round_to_q4(weight.detach()) - weight.detach()) if weight.ndim == 2 else weight
        for name, weight in weights.items()
    }


def rope_table(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of each position and rotary frequency, [length, head_dim]."""
    dim = CONFIG["head_dim"]
    frequency = CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim)
    angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of q [B, H, T, D] over k, v [B, G, T, D]; the H / G query heads of a group share one product.

    Written out, because torch's fused backward takes two to five times as long on a CPU at these lengths.
    """
    batch, heads, length, dim = q.shape
    groups = k.shape[1]
    q = (q * dim**-0.5).view(batch, groups, heads // groups, length, dim)
    parts = []
    for start in range(0, length, QUERY_BLOCK):  # a block of queries needs no keys after its own end
        end = min(start + QUERY_BLOCK, length)
        later = torch.full((end - start, end), -torch.inf, dtype=q.dtype).triu(start + 1)
        block = q[:, :, :, start:end].flatten(2, 3)
        scores = (block @ k[:, :, :end].mT).unflatten(2, (-1, end - start)) + later
        parts.append((scores.softmax(-1).flatten(2, 3) @ v[:, :, :end]).unflatten(2, (-1, end - start)))
    return torch.cat(parts, 3).view(batch, heads, length, dim)


def forward(
    weights: dict[str, torch.Tensor], ids: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Final hidden states [B, T, hidden] for `ids` [B, T]; matrix products in `dtype`, the residual in f32."""
    heads, kv_heads, dim, eps = (
        CONFIG[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps")
    )
    batch, length = ids.shape
    cos, sin = cos[:length].to(dtype), sin[:length].to(dtype)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], weights[name], eps).to(dtype)

    def linear(x: torch.Tensor, *names: str) -> torch.Tensor:
        return F.linear(x, torch.cat([weights[name] for name in names]).to(dtype))

    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        attn, mlp = f"{name}.self_attn", f"{name}.mlp"
        h = norm(x, f"{name}.input_layernorm.weight")
        qkv = linear(h, f"{attn}.q_proj.weight", f"{attn}.k_proj.weight", f"{attn}.v_proj.weight")
        qkv = qkv.view(batch, length, heads + 2 * kv_heads, dim).transpose(1, 2)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        out = _attention(q, k, v).transpose(1, 2).reshape(batch, length, heads * dim)
        x = x + linear(out, f"{attn}.o_proj.weight")
        h = norm(x, f"{name}.post_attention_layernorm.weight")
        gate, up = linear(h, f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight").chunk(2, -1)
        x = x + linear(F.silu(gate) * up, f"{mlp}.down_proj.weight")
    return norm(x, "model.norm.weight")
