"""What is in an artifact, as a table or as JSON. Reads the manifest; runs nothing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WispError
from ..progress import human_bytes
from .writer import Artifact, load_artifact

POSITIONS = ".embed_positions"  # are added: a table, no matrix that a scheme stores
LAYER = re.compile(r"\.\d+\.")


def summarize(artifact: Artifact) -> dict[str, Any]:
    """The numbers that people and tools ask an artifact for. `kv_bytes_per_token` is that of the best variant."""
    model = artifact.model
    return {
        "id": model["id"],
        "task": task_of(model),
        "source": model["source"],
        "architecture": model["architecture"],
        "parameters": model["parameters"],
        "quantization": model["quantization"],
        "bits_per_weight": round(8 * model["weight_bytes"] / max(1, model["parameters"]), 3),
        "schemes": schemes_by_kind(artifact),
        "source_values": model.get("source_values"),
        "weight_bytes": model["weight_bytes"],
        "kv_bytes_per_token": model["variants"][0]["kv_bytes_per_token"],
        "context": model["context"],
        "has_weights": model["weights"] is not None,
        "files": len(model["files"]) + 1,
        "bytes": sum(entry["bytes"] for entry in model["files"].values()),
        "variants": {
            variant["name"]: {
                "dispatches_per_token": variant["dispatches_per_token"],
                "prefill_dispatches": variant["prefill_dispatches"],
                "activation_bytes": variant["activation_bytes"],
                "kv_bytes_per_token": variant["kv_bytes_per_token"],
                "required_features": variant["required_features"],
                "required_limits": variant["required_limits"],
            }
            for variant in model["variants"]
        },
    }


def task_of(model: Mapping[str, Any]) -> str:
    """What `model.json` describes: a model for `embedding`, for `transcription`, or for `text-generation`."""
    return "embedding" if "embedding" in model else "transcription" if "speech" in model else "text-generation"


def require_generation(artifact: Artifact, what: str) -> None:
    """Raises WispError for a model that embeds or transcribes, which `what` has no use for."""
    if task_of(artifact.model) == "transcription":
        raise WispError(
            f"{what} is for models that generate text",
            got=f"{artifact.path}, a model that transcribes speech",
            remedy="use wisp transcribe with it",
        )
    if task_of(artifact.model) == "embedding":
        raise WispError(
            f"{what} is for models that generate text",
            got=f"{artifact.path}, a model that gives embeddings",
            remedy="use engine.embed() or engine.embeddings.create() with it",
        )


def schemes_by_kind(artifact: Artifact) -> dict[str, dict[str, int]]:
    """Kinds of matrix (names without the layer) -> the schemes that they are stored in, each with how many."""
    others = artifact.model.get("schemes", {})
    # Without weights the plan knows the tensors.
    buffers = [buffer for plan in artifact.plans.values() for buffer in plan["buffers"] if buffer["kind"] == "weight"]
    shapes = {name: tensor.shape for name, tensor in artifact.tensors.items()}
    shapes = shapes or {buffer["name"]: tuple(buffer["shape"]) for buffer in buffers}
    found: dict[str, dict[str, int]] = {}
    for tensor, shape in sorted(shapes.items()):
        name, _, suffix = tensor.rpartition(".")
        if len(shape) != 2 or suffix not in ("q_weight", "weight") or name.endswith(POSITIONS):
            continue
        scheme = others.get(name, artifact.model["quantization"])
        counts = found.setdefault(LAYER.sub(".", name), {})
        counts[scheme] = counts.get(scheme, 0) + 1
    return found


def describe_values(values: Mapping[str, Any]) -> str:
    """What became of the values of a quantized source, `source_values` of model.json, in a line."""
    counts = [f"{values['exact']} matrices exactly the source's"] if values["exact"] else []
    if values["rounded"]:
        counts.append(f"{values['rounded']} but for scales rounded to float16")
    if values["requantized"]:
        counts.append(
            f"{values['requantized']} requantized, squared error {values['squared_error']:.2%} of the weights"
        )
    return f"{', '.join(values['formats'])}: {', '.join(counts)}"


def inspect(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """`summarize` of the artifact at `path`; with `verify` every file's SHA-256 is checked too."""
    return summarize(load_artifact(path, verify=verify))


def print_summary(summary: dict[str, Any]) -> None:
    """The summary for people, on stdout."""
    weights = human_bytes(summary["weight_bytes"]) + ("" if summary["has_weights"] else " (not in this artifact)")
    source, adapter = summary["source"], summary["source"].get("adapter")
    merged = f" with the adapter {adapter['id']}" if adapter else ""
    print(f"{summary['id']}: {summary['architecture']['model_type']}, from {source['id']}{merged}")
    print(f"  task         {summary['task']}")
    print(f"  parameters   {summary['parameters']:,}")
    print(f"  weights      {weights}, {summary['bits_per_weight']:.2f} bits a weight")
    for kind, schemes in summary["schemes"].items():
        print(f"    {kind:<30} {', '.join(f'{count} x {scheme}' for scheme, count in schemes.items())}")
    if summary["source_values"] is not None:
        print(f"  values       {describe_values(summary['source_values'])}")
    print(f"  context      {summary['context']:,} tokens, {human_bytes(summary['kv_bytes_per_token'])} a token")
    print(f"  download     {human_bytes(summary['bytes'])} in {summary['files']} files")
    for name, variant in summary["variants"].items():
        chunks = ", ".join(f"{count} a chunk of {chunk}" for chunk, count in variant["prefill_dispatches"].items())
        needs = [*variant["required_features"], *(f"{k} {v}" for k, v in variant["required_limits"].items())]
        print(f"  {name}: needs {', '.join(needs) or 'nothing beyond core WebGPU'}")
        print(f"    dispatches   {variant['dispatches_per_token']} a token, {chunks}")
        print(f"    activations  {human_bytes(variant['activation_bytes'])}")
