"""What `wisp check` runs: which variants, on which device, over which tokens of which text.

Knows artifacts, adapters and tokenizers; nothing of what is compared with what.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact.writer import Artifact
from ..errors import WispError
from ..runtime.session import Session
from ..runtime.wasmtime import open_wasm_variant
from ..runtime.wgpu import missing_features, open_variant, request_adapter
from ..sources.sandbox import encode

DEFAULT_TOKENS = 64
# How far stored weights are held against those of a source that was quantized, where numpy has it in a minute.
KEPT_TOKENS, KEPT_PARAMETERS, KEPT_LOGITS = 512, 400_000_000, 1 << 25

TEXT = """The lighthouse keeper wrote down the weather every morning: the wind, the height of the waves, and the
colour of the sky above the harbour. On the third of March 1912 she noted that a small boat had come in before dawn,
with nobody at the oars. "It was dry inside," she wrote, "and there was a warm lamp under the seat." The boat stayed
for a week. Then, on a night without any wind at all, it was gone again, and the lamp stood burning on her doorstep.

Her brother, who mended clocks in the town, did not believe a word of it. He came on the Sunday with a loaf of bread
and a notebook of his own, measured the lamp, weighed it, and took it apart on the kitchen table. There was nothing
inside but a wick and a little oil. "Somebody rowed that boat," he said, "and somebody took it back." She asked him
who in the village owned oars that left no mark on the sand. He thought about it until the tea was cold, and then he
asked for a second cup.

In April the fishermen began to see a light far out, where the charts showed only deep water. It did not move like a
ship, and it did not turn like the beam above them. Some said that it was a star, because it was always there when
the sky was clear; others said that it was a fire, because once or twice they had smelled smoke. The harbour master
wrote to the capital and received, after eleven weeks, a printed form with four questions on it, none of which could
be answered with yes or no.

So the keeper did what keepers do. Each night she lit her own lamp at the same minute, trimmed it at midnight, and
entered both lights in the book, hers on the left and the other on the right. By the end of the summer there were
one hundred and fifty pairs of numbers. The clock mender looked at them for a long time. Then he turned the page
upside down, drew a line through the middle, and laughed: the two columns were the same, only that the light out at
sea was always one day ahead."""


def choose_variants(artifact: Artifact, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Entries of model.json, in its order. Raises WispError for names that are not there and without weights."""
    if artifact.model["weights"] is None:
        raise WispError(f"{artifact.path} holds no weights", remedy="compile it without --weights none")
    entries = {variant["name"]: variant for variant in artifact.model["variants"]}
    unknown = [name for name in names or () if name not in entries]
    if unknown:
        raise WispError("the artifact has no such variant", got=", ".join(unknown), expected=" or ".join(entries))
    return [entry for name, entry in entries.items() if names is None or name in names]


@dataclass(frozen=True)
class Sample:
    """What is run: `tokens` steps of forced decoding over the first ids, and prompts of these lengths in chunks."""

    ids: tuple[int, ...]
    tokens: int
    prompts: tuple[int, ...]
    origin: str
    evaluated: int  # steps at which stored weights are held against the source's, at least `tokens`


def choose_ids(artifact: Artifact, asked: int | None, text: Path | None) -> Sample:
    """Token ids of a text; of no text in particular when the artifact has no tokenizer.

    A prompt fills each prefill chunk once, another one ends in a chunk that is not full.
    """
    context, vocab_size = artifact.model["context"], artifact.model["architecture"]["vocab_size"]
    chunks = {chunk for plan in artifact.plans.values() for chunk in plan["prefill_chunks"]}
    if "tokenizer.json" in artifact.model["tokenizer"]:
        ids = _tokenize(artifact, TEXT if text is None else _read_text(text))
        origin = "built-in" if text is None else text.name
    elif text is None:
        ids, origin = np.random.default_rng(0).integers(0, vocab_size, size=context).tolist(), "random ids"
    else:
        raise WispError("the artifact has no tokenizer", remedy="leave out --text: ids are drawn then")
    most = min(context, context if text is None else len(ids))
    tokens = min(DEFAULT_TOKENS if asked is None else asked, most)
    if tokens < 2 or not ids:
        raise WispError("there is too little to compare", got=f"{tokens} tokens", expected="at least 2")
    prompts = sorted({length for length in (*(chunk + 1 for chunk in chunks), tokens) if length <= context})
    small = artifact.model["parameters"] <= KEPT_PARAMETERS and "source_values" in artifact.model
    far = min(KEPT_TOKENS, KEPT_LOGITS // vocab_size, most) if small and asked is None else tokens
    evaluated = max(tokens, far)
    needed = max(evaluated, *prompts)
    repeated = (ids * (needed // len(ids) + 1))[:needed]
    return Sample(tuple(repeated), tokens, tuple(prompts), origin, evaluated)


def _tokenize(artifact: Artifact, text: str) -> list[int]:
    ids = encode(artifact.path / "tokenizer.json", text)
    largest, vocab_size = max(ids, default=0), artifact.model["architecture"]["vocab_size"]
    if largest >= vocab_size:
        raise WispError("the tokenizer does not fit the model", got=f"id {largest}", expected=f"below {vocab_size}")
    return ids


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WispError(f"the text {path} cannot be read", got=str(error), expected="a UTF-8 file") from error


def find_adapter(variants: Sequence[Mapping[str, Any]]) -> Any:
    """The GPU's adapter, when a variant wants one; None when there is none but a variant for the CPU is among them."""
    backends = {variant["backend"] for variant in variants}
    try:
        return request_adapter() if "webgpu" in backends else None
    except WispError:
        if "wasm" in backends:
            return None
        raise


def obstacle(variant: Mapping[str, Any], adapter: Any) -> str | None:
    """Why this machine cannot run a variant."""
    if variant["backend"] == "wasm":
        return None
    if adapter is None:
        return "there is no GPU adapter for wgpu"
    missing = missing_features(adapter, variant["required_features"])
    return f"the adapter lacks {' and '.join(missing)}" if missing else None


def open_on(artifact: Artifact, variant: Mapping[str, Any], adapter: Any) -> Session:
    """A variant on the device that it is for."""
    if variant["backend"] == "wasm":
        return open_wasm_variant(artifact, variant["name"])
    return open_variant(artifact, variant["name"], adapter)


def adapter_name(adapter: Any) -> str:
    """The adapter in a line."""
    return f"{adapter.info['device']} ({adapter.info['backend_type']})"
