"""Writes a shape of the comparison harness as a Wisp artifact, with the very weights that the other engines get.

    python -m tests.benchmarks.make_model --harness DIR --work DIR --shape llama-110m -o DIR/wisp-models/llama-110m

`--harness` is where its `model.py` lies (shapes and weights as 4-bit numbers with float16 scales, which q4f16_1 holds
without loss; norm weights are rounded to float16), `--work` what its `gen.py` wrote into (tokenizers).
"""

import argparse
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.bench.shapes import RandomModel, write_random_artifact
from compiler.models.base import WeightSpec
from compiler.progress import Terminal
from compiler.target.variants import VARIANTS
from compiler.weights.quantize import parameter_layout
from compiler.weights.schemes import Scheme

# The harness's names of the matrices that Wisp concatenates, and of the norms.
MATRICES = {
    "embedding": ("embed",),
    "qkv": ("q", "k", "v"),
    "attention_output": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
    "lm_head": ("lm_head",),
}
NORMS = {
    "input_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "final_norm": "final_norm",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harness", type=Path, required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shape", required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    wanted = parser.parse_args()
    harness = _import(wanted.harness / "model.py")
    numbers = harness.SHAPES[wanted.shape]
    weights = harness.Weights(numbers)

    def tensors(spec: WeightSpec, scheme: Scheme) -> Iterable[tuple[str, NDArray]]:
        layout = parameter_layout(spec, scheme)
        if spec.kind == "vector":
            yield layout[0][0], weights.norm(NORMS[spec.role], spec.layer).astype(np.float16)
            return
        parts = [weights.q4(name, spec.layer) for name in MATRICES[spec.role]]
        q, scales = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        yield layout[0][0], np.ascontiguousarray(q[:, 0::2] | q[:, 1::2] << 4).view("<u4")
        yield layout[1][0], scales

    tokenizer = (wanted.work / "models" / wanted.shape / "tokenizer.json").read_bytes()
    model = RandomModel(wanted.shape, _config(numbers), tensors, tokenizer)
    variants = tuple(wanted.variants.split(","))
    output = write_random_artifact(model, wanted.output, variants=variants, progress=Terminal())
    print(json.dumps({"artifact": str(output), "shape": wanted.shape}))


def _config(numbers: dict[str, Any]) -> dict[str, Any]:
    """The harness's numbers as a config.json."""
    if numbers["arch"] != "llama":
        raise SystemExit(f"Wisp compiles the harness's llama shapes, not {numbers['arch']}")
    return {
        "model_type": "llama",
        "hidden_size": numbers["hidden"],
        "num_hidden_layers": numbers["layers"],
        "num_attention_heads": numbers["heads"],
        "num_key_value_heads": numbers["kv_heads"],
        "head_dim": numbers["head_dim"],
        "intermediate_size": numbers["inter"],
        "vocab_size": numbers["vocab"],
        "rope_theta": numbers["rope_theta"],
        "rms_norm_eps": numbers["eps"],
        "tie_word_embeddings": numbers["tied"],
        "max_position_embeddings": numbers["ctx"],
    }


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("harness_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
