"""What each rule for scales costs: the squared error of weights, and the loss of the embedded model.

    python -m tests.benchmarks.compile_quality                          # about a minute
    python -m tests.benchmarks.compile_quality --per-skill 25           # and exact match, which takes much longer

Errors are relative to the sum of the squared weights, for matrices of 2048 x 2048 drawn from each distribution. The
loss is that of the answers in conversations of a seed that training does not use, in nats a token.
"""

import argparse
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
from compiler.weights.quantize import dequantize, quantize
from compiler.weights.scales import RULES, Rule
from compiler.weights.schemes import SCHEMES, Scheme

DEMO = Path(__file__).resolve().parent.parent.parent / "configs" / "demo"
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
    lines = ["| weights | scheme | " + " | ".join(RULES) + " | ratio |", "|---|---|" + "---:|" * (len(RULES) + 1)]
    for name, draw in DRAWS.items():
        weight = draw(np.random.default_rng(0), (2048, 2048)).astype(np.float32)
        for scheme in ("q4f16_1", "q8f16_1"):
            total = np.square(weight, dtype=np.float64).sum()
            errors = [
                np.square(restored(weight, SCHEMES[scheme], r) - weight, dtype=np.float64).sum() / total for r in RULES
            ]
            figures = " | ".join(f"{error:.3e}" for error in errors)
            lines.append(f"| {name} | {scheme} | {figures} | {errors[1] / errors[0]:.3f} |")
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
    lines = ["| embedded model | loss | weight error | exact match |", "|---|---:|---:|---:|"]
    for rule in (None, *RULES):
        weights = dict(original)
        if rule is not None:
            for key, weight in original.items():
                if weight.ndim == 2:
                    weights[key] = torch.from_numpy(restored(weight.numpy(), SCHEMES["q4f16_1"], rule))
        nats, count = 0.0, 0
        for ids, learnt in rows:
            tokens, mask = torch.tensor([ids]), torch.tensor(learnt[1:], dtype=torch.bool)
            hidden = forward(weights, tokens, cos, sin, torch.float32)[0]
            logits = hidden[:-1][mask] @ weights["model.embed_tokens.weight"].T
            nats += torch.nn.functional.cross_entropy(logits, tokens[0, 1:][mask], reduction="sum").item()
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
        lines.append(f"| {rule or 'float32'} | {nats / count:.4f} | {error:.3e} | {match} |")
    return lines


if __name__ == "__main__":
    main()
