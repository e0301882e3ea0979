"""What keys and values in 16 and in 8 bits cost: a model's own weights in numpy, its cache as the kernels keep it.

    python tests/benchmarks/kv_quality.py MODEL.gguf [--tokens 2048] [--text FILE] [--scheme auto]

Prints the perplexity of the text with keys and values in 32, 16 and 8 bits, the mean and the largest KL divergence of
the next token's distribution from that with 32, and how often the likeliest token is the same. The twins that say what
a cache keeps are those that the kernels are tested against.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from compiler.check.parity import log_softmax
from compiler.kernels.reference import from_8_bits, in_8_bits
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import WeightSpec
from compiler.network.calibration_text import TEXT
from compiler.network.reference import ReferenceModel
from compiler.sources.open import open_checkpoint
from compiler.sources.weights import stored_tensors
from compiler.weights.choice import AUTO, choose_scheme
from compiler.weights.quantize import dequantize

PROSE = Path(__file__).resolve().parents[1] / "golden" / "prose.txt"
ROWS = 128  # of logits at a time


class Halves(ReferenceModel):
    """A cache of 16 bits."""

    def _kept(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        return heads.clip(-65504, 65504).astype(np.float16).astype(np.float32)


class Bytes(ReferenceModel):
    """A cache of 8 bits."""

    def _kept(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        return from_8_bits(*in_8_bits(heads))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--text", type=Path, help="default: prose of the tests and of the compiler")
    parser.add_argument("--scheme", default=AUTO)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    checkpoint = open_checkpoint(asked.model)  # its files are there as long as it is
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_files[0]))
    written = [PROSE.read_text(encoding="utf-8"), TEXT] if asked.text is None else [asked.text.read_text("utf-8")]
    ids: list[int] = tokenizer.encode("\n".join(written)).ids[: asked.tokens]
    model = config_from_huggingface(checkpoint.config, len(ids))
    specs = weight_specs(model)
    held = {(spec.role, spec.layer): checkpoint.held(spec) for spec in specs if spec.kind == "matrix"}
    scheme = choose_scheme(asked.scheme, {}, held)
    values = {s.name: dequantize(s, dict(stored_tensors(checkpoint, s, scheme)), scheme) for s in specs}

    def rows(spec: WeightSpec, start: int, stop: int) -> NDArray[np.float32]:
        return values[spec.name][start:stop]

    models = {bits: kind(model, rows) for bits, kind in ((32, ReferenceModel), (16, Halves), (8, Bytes))}
    hidden = {bits: one.hidden_states(ids) for bits, one in models.items()}
    losses, divergences = ({bits: np.zeros(len(ids) - 1) for bits in models} for _ in range(2))
    agrees = {bits: np.zeros(len(ids) - 1, bool) for bits in models}
    for start in range(0, len(ids) - 1, ROWS):
        part = slice(start, min(start + ROWS, len(ids) - 1))
        logs = {bits: log_softmax(one.logits(hidden[bits][part])) for bits, one in models.items()}
        following = np.asarray(ids[part.start + 1 : part.stop + 1])
        for bits, log in logs.items():
            losses[bits][part] = -log[np.arange(len(following)), following]
            divergences[bits][part] = (np.exp(logs[32]) * (logs[32] - log)).sum(axis=1)
            agrees[bits][part] = log.argmax(axis=1) == logs[32].argmax(axis=1)
    for name, part in (("all", slice(None)), ("the last quarter", slice(len(ids) * 3 // 4, None))):
        for bits in models:
            divergence = divergences[bits][part]
            print(
                f"{name} of {len(ids)} tokens, {bits} bits: perplexity {np.exp(losses[bits][part].mean()):.4f};"
                f" KL mean {divergence.mean():.2e}, largest {divergence.max():.2e} nats;"
                f" same likeliest token {agrees[bits][part].mean():.2%}"
            )


if __name__ == "__main__":
    main()
