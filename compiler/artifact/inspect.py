"""What is in an artifact, as a table or as JSON. Reads the manifest; runs nothing."""

from pathlib import Path
from typing import Any

from compiler.artifact.writer import Artifact, load_artifact
from compiler.progress import human_bytes


def summarize(artifact: Artifact) -> dict[str, Any]:
    """The numbers that people and tools ask an artifact for. `kv_bytes_per_token` is that of the best variant."""
    model = artifact.model
    return {
        "id": model["id"],
        "source": model["source"],
        "architecture": model["architecture"],
        "parameters": model["parameters"],
        "quantization": model["quantization"],
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


def inspect(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """`summarize` of the artifact at `path`; with `verify` every file's SHA-256 is checked too."""
    return summarize(load_artifact(path, verify=verify))


def print_summary(summary: dict[str, Any]) -> None:
    """The summary for people, on stdout."""
    weights = human_bytes(summary["weight_bytes"]) + ("" if summary["has_weights"] else " (not in this artifact)")
    source, adapter = summary["source"], summary["source"].get("adapter")
    merged = f" with the adapter {adapter['id']}" if adapter else ""
    print(f"{summary['id']}: {summary['architecture']['model_type']}, from {source['id']}{merged}")
    print(f"  parameters   {summary['parameters']:,}")
    print(f"  weights      {weights}, {summary['quantization']}")
    print(f"  context      {summary['context']:,} tokens, {human_bytes(summary['kv_bytes_per_token'])} a token")
    print(f"  download     {human_bytes(summary['bytes'])} in {summary['files']} files")
    for name, variant in summary["variants"].items():
        chunks = ", ".join(f"{count} a chunk of {chunk}" for chunk, count in variant["prefill_dispatches"].items())
        needs = [*variant["required_features"], *(f"{k} {v}" for k, v in variant["required_limits"].items())]
        print(f"  {name}: needs {', '.join(needs) or 'nothing beyond core WebGPU'}")
        print(f"    dispatches   {variant['dispatches_per_token']} a token, {chunks}")
        print(f"    activations  {human_bytes(variant['activation_bytes'])}")
