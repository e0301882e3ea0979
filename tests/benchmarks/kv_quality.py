"""What keys and values in 8 bits cost: a model's own weights under the CPU's plans, with a cache of 16 and of 8 bits.

    python tests/benchmarks/kv_quality.py MODEL.gguf [--tokens 2048] [--text FILE] [--scheme auto]

Every token is a step of decode, natively in wasmtime, so that each attends to what the cache kept of all before it.
Prints the perplexity of the text under both, the mean and the largest KL divergence of the 8 bits' next-token
distribution from that of 16 bits, how often both have the same likeliest token, and the same of the last quarter.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from compiler.check.parity import log_softmax
from compiler.lowering.lower import lower_variant, rope_constants
from compiler.models import config_from_huggingface, weight_specs
from compiler.network.calibration_text import TEXT
from compiler.runtime.wasmtime import WasmRuntime
from compiler.sources.open import open_checkpoint
from compiler.sources.protocol import Checkpoint
from compiler.sources.weights import stored_tensors
from compiler.target.variants import ALL_VARIANTS
from compiler.weights.choice import AUTO, choose_scheme

PROSE = Path(__file__).resolve().parents[1] / "golden" / "prose.txt"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--text", type=Path, help="default: prose of the tests and of the compiler")
    parser.add_argument("--scheme", default=AUTO)
    return parser.parse_args()


def sessions(checkpoint: Checkpoint, scheme_name: str, context: int) -> dict[str, WasmRuntime]:
    """The model under the CPU's plan, by the type of its cache."""
    model = config_from_huggingface(checkpoint.config, context)
    specs = weight_specs(model)
    held = {(spec.role, spec.layer): checkpoint.held(spec) for spec in specs if spec.kind == "matrix"}
    scheme = choose_scheme(scheme_name, {}, held)
    tensors = {name: tensor for spec in specs for name, tensor in stored_tensors(checkpoint, spec, scheme)}

    def rows(name: str, start: int, stop: int) -> bytes:
        return np.ascontiguousarray(tensors[name][start:stop]).tobytes()

    found = {}
    for name in ("wasm-simd", "wasm-simd-q8"):
        lowered = lower_variant(model, scheme, ALL_VARIANTS[name], context, (16,))
        constants = rope_constants(model, context)
        found[lowered.kv_dtype] = WasmRuntime(lowered.plan, lowered.modules["kernels"], rows, constants)
    return found


def main() -> None:
    asked = arguments()
    checkpoint = open_checkpoint(asked.model)  # its files are there as long as it is
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_files[0]))
    text = (
        f"{PROSE.read_text(encoding='utf-8')}\n{TEXT}" if asked.text is None else asked.text.read_text(encoding="utf-8")
    )
    ids: list[int] = tokenizer.encode(text).ids[: asked.tokens]
    wide, narrow = sessions(checkpoint, asked.scheme, len(ids)).values()
    losses = np.zeros((len(ids) - 1, 2))
    divergence, agrees = np.zeros(len(ids) - 1), np.zeros(len(ids) - 1, bool)
    for session in (wide, narrow):
        session.reset()
    for i, token in enumerate(ids[:-1]):
        logs: list[NDArray[np.float64]] = [log_softmax(s.next_logits(token)) for s in (wide, narrow)]
        losses[i] = [-log[ids[i + 1]] for log in logs]
        divergence[i] = (np.exp(logs[0]) * (logs[0] - logs[1])).sum()
        agrees[i] = logs[0].argmax() == logs[1].argmax()
    for name, part in (("all", slice(None)), ("the last quarter", slice(len(ids) * 3 // 4, None))):
        wide_perplexity, narrow_perplexity = np.exp(losses[part].mean(axis=0))
        print(
            f"{name} of {len(ids)} tokens: perplexity {wide_perplexity:.4f} in 16 bits, {narrow_perplexity:.4f} in 8;"
            f" KL mean {divergence[part].mean():.2e}, largest {divergence[part].max():.2e} nats;"
            f" same likeliest token {agrees[part].mean():.2%}"
        )


if __name__ == "__main__":
    main()
