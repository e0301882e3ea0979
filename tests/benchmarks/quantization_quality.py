"""What 4 bits cost a published model: perplexity, KL and first choices of SmolLM2-135M by each scheme and rule.

    python -m tests.benchmarks.quantization_quality            # some minutes

The model's file holds 4-bit values in groups of 32, which an affine scheme of that group would meet exactly. So its
channels are put in another order first, everywhere alike: the network computes the same, and the columns of a group
come from 32 others, as those of a float checkpoint are strangers to each other. The text that weighs errors is the one
that `auto` uses; what is measured is other prose.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.models.base import matrix
from compiler.network.calibration import CALIBRATION_TOKENS, FLOOR, spread
from compiler.network.calibration_text import TEXT
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.scales import Rule
from compiler.weights.schemes import SCHEMES
from tests.smollm2 import PROSE, TOKENS, Reference, model_file

# Scheme, rule, whether errors are weighed.
CHOICES: tuple[tuple[str, Rule, bool], ...] = (
    ("q4f16_1", "absmax", False),
    ("q4f16_1", "search", False),
    ("q4f16_1", "search", True),
    ("q4af16_g64", "absmax", False),
    ("q4af16_g64", "search", False),
    ("q4af16_g64", "search", True),
    ("q4af16_g128", "search", True),
    ("q4af16_g32", "absmax", False),
    ("q4af16_g32", "search", True),
)
Importance = Mapping[str, NDArray[np.float32]]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_grad_enabled(False)
    reference = Reference(model_file())
    shuffle_channels(reference.model, np.random.default_rng(1))

    def encode(text: str) -> list[int]:
        return list(reference.tokenizer(text)["input_ids"])

    importance = measured_importance(reference.model, spread(encode(TEXT), CALIBRATION_TOKENS))
    ids = encode(PROSE.read_text(encoding="utf-8"))[:TOKENS]
    exact = torch.log_softmax(reference.model(torch.tensor([ids])).logits[0].float(), -1)
    original = {name: weight.data.clone() for name, weight in reference.model.named_parameters()}
    print("| scheme | rule | bits | perplexity | KL | first choices alike | processor seconds |")
    print("|---|---|---:|---:|---:|---:|---:|")
    print(f"| float | | 32 | {perplexity(exact, ids):.2f} | | | |", flush=True)
    for scheme, rule, weighed in CHOICES:
        started = time.process_time()
        for name, weight in matrices(reference.model).items():
            key = f"{name}.weight"
            weight.data.copy_(stored(original[key], scheme, rule, importance[name] if weighed else None))
        seconds = time.process_time() - started
        found = torch.log_softmax(reference.model(torch.tensor([ids])).logits[0].float(), -1)
        divergence = float((exact.exp() * (exact - found)).sum(-1).mean())
        alike = float((exact.argmax(-1) == found.argmax(-1)).float().mean())
        table = SCHEMES[scheme]
        bits = table.bits + 16 * (1 + table.bias) / table.group_size
        how = f"{rule}{', weighed' if weighed else ''}"
        figures = f"{perplexity(found, ids):.2f} | {divergence:.3f} | {alike:.1%} | {seconds:.0f}"
        print(f"| `{scheme}` | {how} | {bits} | {figures} |", flush=True)


def perplexity(log_probabilities: torch.Tensor, ids: list[int]) -> float:
    following = torch.tensor(ids[1:])[:, None]
    return math.exp(-float(log_probabilities[:-1].gather(1, following).mean()))


def matrices(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The matrices of the layers, and the embedding, which is the projection as well."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) and name != "lm_head") or isinstance(module, torch.nn.Embedding)
    }


def stored(weight: torch.Tensor, scheme: str, rule: Rule, importance: NDArray[np.float32] | None) -> torch.Tensor:
    """A matrix as it is after quantization."""
    values = np.ascontiguousarray(weight.numpy())
    spec = matrix("w", values.shape[1], {"w": values.shape[0]}, "down", 0)
    tensors = quantize(spec, values, SCHEMES[scheme], None, rule, importance)
    return torch.from_numpy(dequantize(spec, dict(tensors), SCHEMES[scheme]))


def measured_importance(model: torch.nn.Module, ids: list[int]) -> Importance:
    """As `column_importance` has it, by what transformers multiplies each matrix with."""
    found: dict[str, NDArray[np.float32]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            squares = inputs[0].reshape(-1, inputs[0].shape[-1]).float().square().mean(0).numpy()
            found[name] = squares + FLOOR * squares.mean() + np.float32(1e-20)

        return hook

    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    hooks = [module.register_forward_hook(record(name)) for name, module in linear]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    found["model.embed_tokens"] = found["lm_head"]
    return found


def shuffle_channels(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Another order of channels in the residual stream, in each layer's MLP and in each head's values."""
    config = model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads

    def put(parameter: torch.nn.Parameter, rows: NDArray | slice = slice(None), columns: NDArray | None = None) -> None:
        moved = parameter.data[rows]
        parameter.data = (moved if columns is None else moved[:, columns]).contiguous()

    stream = rng.permutation(config.hidden_size)
    put(model.model.embed_tokens.weight, columns=stream)
    put(model.model.norm.weight, stream)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        inner = rng.permutation(config.intermediate_size)
        values = np.stack([rng.permutation(size) for _ in range(groups)])
        rows = (values + np.arange(groups)[:, None] * size).reshape(-1)
        columns = (values[np.arange(heads) // (heads // groups)] + np.arange(heads)[:, None] * size).reshape(-1)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            put(norm.weight, stream)
        for linear in (attention.q_proj, attention.k_proj):
            put(linear.weight, columns=stream)
        put(attention.v_proj.weight, rows, stream)
        put(attention.o_proj.weight, stream, columns)
        put(mlp.gate_proj.weight, inner, stream)
        put(mlp.up_proj.weight, inner, stream)
        put(mlp.down_proj.weight, stream, inner)


if __name__ == "__main__":
    main()
