"""`wisp bench`: how fast an artifact loads, reads a prompt and answers, natively or in a headless browser.

Chooses what to measure and holds it against what the device can do; `native.py` and `browser.py` measure,
`report.py` prints. All backends give the same figures
under the same names; what one cannot know is null.
"""

import json
import math
import os
import platform
from pathlib import Path
from typing import Any, Literal

from ..artifact.inspect import require_generation
from ..artifact.writer import Artifact, load_artifact
from ..check.inputs import adapter_name, choose_variants
from ..errors import WispError
from ..models import config_from_huggingface, weight_specs
from ..models.base import ModelConfig
from ..progress import Report, Silent
from ..runtime.wgpu import missing_features, open_variant, request_adapter
from .browser import bench_browser
from .native import bench_native, dispatch_bytes

DEFAULT_LIMIT = 60.0
Backend = Literal["native", "browser", "wasm"]
BACKENDS: tuple[Backend, ...] = ("native", "browser", "wasm")


def bench(
    artifact_path: Path,
    *,
    backend: Backend = "native",
    variant: str | None = None,
    threads: int | None = None,
    limit: float = DEFAULT_LIMIT,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Measures an artifact, such as one of `choose_artifact`. No figure takes much longer than `limit` seconds.

    Without `variant` the best one that the device can run. `threads` is for `wasm`; without it the engine chooses.
    Raises WispError for input that cannot be measured.
    """
    progress = progress or Silent()
    check_threads(threads, backend)
    artifact = load_artifact(artifact_path)
    require_generation(artifact, "wisp bench")
    candidates = backend_variants(artifact, backend, variant)
    with progress.stage(f"bench, {backend}", 1) as advance:
        match backend:
            case "native":
                measured = _native(artifact, candidates, limit)
            case "browser" | "wasm":
                named = candidates[0]["name"] if backend == "wasm" else variant
                measured = bench_browser(artifact, named, limit, threads, windows_of(artifact, candidates[0]["name"]))
        advance(1)
    hold_against_device(artifact, measured)
    model = artifact.model
    return {
        "artifact": model["id"],
        "backend": backend,
        "machine": machine(),
        "architecture": model["architecture"],
        "parameters": model["parameters"],
        "quantization": model["quantization"],
        "weight_bytes": model["weight_bytes"],
        "context": model["context"],
        **measured,
    }


def check_threads(threads: int | None, backend: str) -> None:
    """Raises WispError for threads of a backend that has none."""
    if threads is not None and backend != "wasm":
        raise WispError("--threads is for the CPU", got=f"--backend {backend}", expected="--backend wasm")


def backend_variants(artifact: Artifact, backend: Backend, variant: str | None) -> list[dict[str, Any]]:
    """Entries of model.json that the backend can run, best first: all of them, or the one called `variant`."""
    chosen = choose_variants(artifact, None if variant is None else [variant])
    kind = "wasm" if backend == "wasm" else "webgpu"
    fitting = [entry for entry in chosen if entry["backend"] == kind]
    if fitting:
        return fitting
    there = ", ".join(entry["name"] for entry in artifact.model["variants"])
    if variant is not None:
        other = "--backend native or browser" if backend == "wasm" else "--backend wasm"
        raise WispError(f"--backend {backend} does not run the variant {variant}", remedy=f"use {other} for it")
    if backend == "wasm":
        raise WispError(
            "the artifact has no variant for the CPU",
            got=there,
            expected="wasm-simd",
            remedy="compile it again with wasm-simd among its --variants",
        )
    raise WispError(
        "the artifact has no WebGPU variant", got=there, remedy="use --backend wasm, or compile it with webgpu-f32"
    )


def _native(artifact: Artifact, entries: list[dict[str, Any]], limit: float) -> dict[str, Any]:
    adapter = request_adapter()
    lacking = {v["name"]: missing_features(adapter, v["required_features"]) for v in entries}
    chosen = next((name for name, missing in lacking.items() if not missing), None)
    if chosen is None:
        raise WispError(
            "this machine's adapter cannot run the artifact",
            got="; ".join(f"{name}: no {', '.join(missing)}" for name, missing in lacking.items()),
            remedy="compile the variant webgpu-f32, which needs nothing",
        )
    runtime = open_variant(artifact, chosen, adapter)
    measured = bench_native(runtime, limit, windows_of(artifact, chosen))
    return {"variant": chosen, "adapter": adapter_name(adapter), "threads": None, **measured}


# ------------------------------------------------------------------------------------------- against what is possible


def hold_against_device(artifact: Artifact, measured: dict[str, Any]) -> None:
    """Adds to `measured` what prefill and decode use of the device: `multiply_add_share` and `bandwidth_share`.

    The least work counts: a prompt's multiply-adds in matrices and attention, a step's weights, KV rows and logits.
    The rate of the variant's own activation type is the measure. Null where the device's figures are not there.
    """
    plan = artifact.plans[measured["variant"]]
    rates, bandwidth = measured["multiply_adds"], measured["bandwidth"]
    rate = rates and rates["f16_per_second" if plan["activation_dtype"] == "float16" else "f32_per_second"]
    config = network_of(artifact, plan["context"])
    for row in measured["prefill"]:
        work = config and prefill_multiply_adds(config, row["tokens"])
        row["multiply_adds"] = work
        row["multiply_add_share"] = work / row["seconds"] / rate if work and rate else None
    for row in measured["decode"]:
        windows = windows_of(artifact, measured["variant"])
        row["bytes"] = sum(dispatch_bytes(plan, "decode", row["context"], 1, windows))
        rate_used = row["bytes"] / row["seconds_per_token"]
        row["bandwidth_share"] = rate_used / bandwidth["bytes_per_second"] if bandwidth else None


def network_of(artifact: Artifact, context: int) -> ModelConfig | None:
    """The numbers of the artifact's network; None where it came without a config.json."""
    if "config.json" not in artifact.model["files"]:
        return None
    return config_from_huggingface(json.loads((artifact.path / "config.json").read_bytes()), context)


def windows_of(artifact: Artifact, variant: str) -> tuple[int | None, ...]:
    """What each layer's queries see at most, of positions; nothing where that is not known."""
    config = network_of(artifact, artifact.plans[variant]["context"])
    return tuple(layer.attention.window for layer in config.layers) if config else ()


def prefill_multiply_adds(config: ModelConfig, tokens: int) -> int:
    """The least from a prompt to its first answer token: matrices and causal attention.

    The last layer owes the others their keys and values only; what is above them is for one token.
    """
    specs = [s for s in weight_specs(config) if s.kind == "matrix" and s.layer is not None]
    layers, heads = config.num_hidden_layers, config.num_attention_heads * config.head_dim
    layer = sum(math.prod(s.shape) for s in specs) // layers
    keys_and_values = 2 * config.num_key_value_heads * config.head_dim * config.hidden_size
    windows = [min(tokens, described.attention.window or tokens) for described in config.layers]
    # (query, key) that attention looks at
    pairs = sum(window * (window + 1) // 2 + (tokens - window) * window for window in windows[:-1])
    below = (layers - 1) * tokens * layer + 2 * heads * pairs
    last = tokens * keys_and_values + layer - keys_and_values + 2 * heads * windows[-1]
    return below + last + config.vocab_size * config.hidden_size


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy that was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": load,
    }
