"""The variant that this machine runs best, loaded, and held against the artifact's smoke test before it answers.

Knows variants, adapters and what `model.json` says of both; nothing of texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import wgpu
from numpy.typing import NDArray

from ..artifact.writer import Artifact
from ..errors import WispError
from .session import Session
from .wasmtime import LIMIT, open_wasm_variant
from .wgpu import missing_features, open_variant, request_adapter

LEAST_POSITIONS = 512  # a shorter context is of no use
SLACK = 64 << 20  # bytes for padding, activations, tables and the process itself, generously


@dataclass(frozen=True)
class Running:
    """A variant at work: on which device, and why those before it are not."""

    session: Session
    variant: str
    device: str
    skipped: tuple[str, ...]


def open_best(artifact: Artifact, variant: str | None = None) -> Running:
    """The first variant that computes what the artifact says, or the one that was asked for.

    A GPU comes first, the CPU before a software adapter. Raises WispError when none runs, with every reason.
    """
    entries = {entry["name"]: entry for entry in artifact.model["variants"]}
    if artifact.model["weights"] is None:
        raise WispError(f"{artifact.path} holds no weights", remedy="compile it without --weights none")
    if variant is not None and variant not in entries:
        raise WispError("the artifact has no such variant", got=variant, expected=" or ".join(entries))
    wanted = [entries[variant]] if variant is not None else list(entries.values())
    skipped: list[str] = []
    adapter: Any = None
    if any(entry["backend"] == "webgpu" for entry in wanted):
        try:
            adapter = request_adapter()
        except WispError as error:
            skipped.append(str(error))
    if adapter is not None and adapter.info["adapter_type"] == "CPU":
        wanted.sort(key=lambda entry: entry["backend"] != "wasm")
    for entry in wanted:
        try:
            opened = _open(artifact, entry, adapter)
        except (WispError, RuntimeError, wgpu.GPUError) as error:  # also a shader that is refused, or no memory
            skipped.append(f"{entry['name']}: {error}")
            continue
        if opened is not None:
            device = "CPU" if entry["backend"] == "wasm" else str(adapter.info["device"])
            return Running(opened, entry["name"], device, tuple(skipped))
    raise WispError("this machine can run none of the variants", got="; ".join(skipped))


def _open(artifact: Artifact, entry: Mapping[str, Any], adapter: Any) -> Session | None:
    """None where there is no adapter for it. Raises WispError."""
    if entry["backend"] == "wasm":
        session: Session = open_wasm_variant(artifact, entry["name"], positions=_positions(artifact, entry["name"]))
    elif adapter is None:
        return None
    elif missing := missing_features(adapter, entry["required_features"]):
        raise WispError(f"the adapter lacks {' and '.join(missing)}")
    else:
        session = open_variant(artifact, entry["name"], adapter)
    smoke = artifact.model.get("smoke")
    if smoke is not None and session.capacity >= len(smoke["ids"]):
        different = difference(session.logits(smoke["ids"]), smoke)
        if different is not None:
            raise WispError(
                "the device computes other logits than the artifact says",
                got=different,
                expected=f"logits within {smoke['tolerance']} of the largest",
                remedy="update the graphics driver",
            )
    session.reset()
    return session


def context_within(context: int, per_position: int, room: int) -> int:
    """The context, halved until its KV cache, `per_position` bytes a token, fits into `room` bytes; 0: it never does.

    No context is lowered below `LEAST_POSITIONS`.
    """
    while context * per_position > room:
        if context <= LEAST_POSITIONS:
            return 0
        context = max(LEAST_POSITIONS, context // 2)
    return context


def _positions(artifact: Artifact, name: str) -> int:
    """The context that WebAssembly addresses; the least one where it addresses none, which is refused then."""
    buffers = artifact.plans[name]["buffers"]
    per_position = sum(buffer["bytes_per_position"] for buffer in buffers if buffer["kind"] == "kv")
    rest = sum(buffer["bytes"] for buffer in buffers if buffer["kind"] != "kv") + SLACK
    context: int = artifact.model["context"]
    return context_within(context, per_position, LIMIT - rest) or min(context, LEAST_POSITIONS)


def difference(logits: NDArray[np.float32], smoke: Mapping[str, Any]) -> str | None:
    """How logits differ from those that the compiler wrote; None when they are the same to its tolerance."""
    finite = np.isfinite(logits)
    if not finite.all():
        wrong = int(np.argmin(finite))
        return f"{logits[wrong]} for token {wrong} after a short prompt"
    most = smoke["tolerance"] * smoke["scale"]
    given = [*smoke["top"], *smoke["others"]]
    token, right = max(given, key=lambda pair: abs(float(logits[pair[0]]) - pair[1]))
    if abs(float(logits[token]) - right) > most:
        return f"{logits[token]:.3g} for token {token} after a short prompt, where {right:.3g} is right"
    ceiling = smoke["top"][-1][1] + most
    above = logits.copy()
    above[[token for token, _ in given]] = -np.inf
    if above.max() > ceiling:
        return (
            f"{above.max():.3g} for token {above.argmax()} after a short prompt, where at most {ceiling:.3g} is right"
        )
    return None
