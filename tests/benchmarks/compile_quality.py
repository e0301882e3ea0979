"""What each scheme and rule for scales costs: the squared error of weights, and loss and KL of the embedded model.

    python -m tests.benchmarks.compile_quality                          # about a minute
    python -m tests.benchmarks.compile_quality --per-skill 25           # and exact match, which takes much longer

Errors are relative to the sum of the squared weights, for matrices of 2048 x 2048 drawn from each distribution. The
loss is that of the answers in conversations of a seed that training does not use, in nats a token.
"""

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from compiler.models.base import matrix
from compiler.weights.kept import bits_per_weight
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.scales import RULES, Rule
from compiler.weights.schemes import SCHEMES, Scheme

DEMO = Path(__file__).resolve().parent.parent.parent / "configs" / "demo"
MATRIX = 2048
SCHEMES_COMPARED = ("q4f16_1", "q4af16_g128", "q4af16_g64", "q4af16_g32", "q8f16_1")
CHOICES: tuple[tuple[str, Rule], ...] = tuple((scheme, rule) for scheme in SCHEMES_COMPARED[:4] for rule in RULES)
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray]] = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Student-t, 5 degrees": lambda rng, shape: rng.standard_t(5, shape),
    "Student-t, 2 degrees": lambda rng, shape: rng.standard_t(2, shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=DEMO, help="of the embedded model's architecture")
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--per-skill", type=int, default=0, help="examples a skill for exact match (none)")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(weight_errors()), flush=True)
    print("\n".join(demo_losses(wanted.checkpoint, wanted.conversations, wanted.per_skill)))


def restored(weight: NDArray[np.float32], scheme: Scheme, rule: Rule) -> NDArray[np.float32]:
    """A matrix as it is after quantization."""
    spec = matrix("w", weight.shape[1], {"w": weight.shape[0]}, "down", 0)
    return dequantize(spec, dict(quantize(spec, weight, scheme, None, rule)), scheme)


def weight_errors() -> list[str]:
    """By each rule, whose sums are over all weights of a scheme of 4.25 to 8.5 bits."""
    lines = [
        "| weights | scheme | bits | " + " | ".join(RULES) + " | ratio |",
        "|---|---|" + "---:|" * (len(RULES) + 2),
    ]
    for name, draw in DRAWS.items():
        weight = draw(np.random.default_rng(0), (MATRIX, MATRIX)).astype(np.float32)
        for scheme in SCHEMES_COMPARED:
            total = np.square(weight, dtype=np.float64).sum()
            errors = [
                np.square(restored(weight, SCHEMES[scheme], r) - weight, dtype=np.float64).sum() / total for r in RULES
            ]
            figures = " | ".join(f"{error:.3e}" for error in errors)
            bits = bits_per_weight(SCHEMES[scheme])
            lines.append(f"| {name} | `{scheme}` | {bits} | {figures} | {errors[1] / errors[0]:.3f} |")
    return lines


@torch.inference_mode()
def demo_losses(checkpoint: Path, conversations: int, per_skill: int) -> list[str]:
    """The embedded model's own training code computes the loss; `evaluate.py` judges the answers."""
    sys.path.insert(0, str(DEMO))
    import evaluate
    from dialogues import conversation
    from model import CONFIG, forward, rope_table
    from train import Encoder

    encoder = Encoder(checkpoint / "tokenizer.json")
    rng = Random("quality of quantization")
    rows = [encoder.conversation(conversation(rng)) for _ in range(conversations)]
    cos, sin = rope_table(CONFIG["max_position_embeddings"])
    original = {name: weight.float() for name, weight in load_file(checkpoint / "model.safetensors").items()}
    lines = ["| embedded model | loss | perplexity | KL | weight error | exact match |", "|---|" + "---:|" * 5]
    exact: list[torch.Tensor] = []  # of each conversation, the float model's log probabilities
    for scheme, rule in (("float32", None), *CHOICES):
        weights = dict(original)
        if rule is not None:
            for key, weight in original.items():
                if weight.ndim == 2:
                    weights[key] = torch.from_numpy(restored(weight.numpy(), SCHEMES[scheme], rule))
        nats, divergence, count = 0.0, 0.0, 0
        for i, (ids, learnt) in enumerate(rows):
            tokens, mask = torch.tensor([ids]), torch.tensor(learnt[1:], dtype=torch.bool)
            hidden = forward(weights, tokens, cos, sin, torch.float32)[0]
            found = torch.log_softmax(hidden[:-1][mask] @ weights["model.embed_tokens.weight"].T, -1)
            if rule is None:
                exact.append(found)
            nats -= found.gather(1, tokens[0, 1:][mask][:, None]).sum().item()
            divergence += (exact[i].exp() * (exact[i] - found)).sum().item()
            count += int(mask.sum())
        error = sum(float((weights[k] - w).square().sum()) for k, w in original.items() if w.ndim == 2)
        error /= sum(float(w.square().sum()) for w in original.values() if w.ndim == 2)
        match = "not asked"
        if per_skill:
            with tempfile.TemporaryDirectory() as copy:
                for file in checkpoint.glob("*.json"):
                    shutil.copy(file, copy)
                save_file(weights, Path(copy) / "model.safetensors", metadata={"format": "pt"})
                generate = evaluate.torch_backend(Path(copy), rounded=False)
                right, asked = evaluate.scores(evaluate.evaluate(generate, evaluate.skills(per_skill)))["overall"]
            match = f"{right} of {asked}"
        loss, name = nats / count, f"`{scheme}`, {rule}" if rule else scheme
        lines.append(
            f"| {name} | {loss:.4f} | {math.exp(loss):.4f} | {divergence / count:.5f} | {error:.3e} | {match} |"
        )
    return lines


if __name__ == "__main__":
    main()
