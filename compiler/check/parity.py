"""`wisp check`: does an artifact compute what its checkpoint says?

Three questions, answered apart: are the stored weights those of the checkpoint (bit for bit, after quantizing it
again); do the kernels compute what the stored weights say (this is what the bounds are for); what did quantization
cost (reported, never a failure). The reference is `network/reference.py`, the kernels run natively through wgpu. Knows
nothing of how either works inside.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from compiler.artifact.writer import Artifact, load_artifact
from compiler.check.weights import compare_weights, match
from compiler.errors import WispError
from compiler.models.base import ModelConfig, ReadRows
from compiler.network.reference import ReferenceModel
from compiler.progress import Report, Silent
from compiler.runtime.session import Session
from compiler.runtime.wasmtime import open_wasm_variant
from compiler.runtime.wgpu import missing_features, open_variant, request_adapter
from compiler.sources.sandbox import encode
from compiler.weights.stored import stored_rows

# The largest error of a logit, relative to the largest logit of its step, by the type of the KV cache.
BOUNDS = {"float32": 1e-3, "float16": 2e-3}
FORMER_BOUND = 2e-2  # of activations of 16 bits, as artifacts of earlier versions have them
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


def check(
    artifact_path: Path,
    reference: str,
    *,
    variants: Sequence[str] | None = None,
    tokens: int | None = None,
    text: Path | None = None,
    lora: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Compares an artifact with the checkpoint `reference`; the report's `passed` says whether every bound held.

    `reference` is whatever `wisp compile` takes, `lora` the adapter that was merged into it. A variant that
    this machine's GPU lacks features for is skipped, with the reason. Raises WispError for what cannot be compared.
    """
    progress = progress or Silent()
    artifact = load_artifact(artifact_path)
    chosen = choose_variants(artifact, variants)
    config, scheme, source = match(artifact, reference, lora)
    sample = choose_ids(artifact, tokens, text)
    adapter = find_adapter(chosen)
    # With a calibration text the last bit of a sum decides between scales; there is nothing exact to compare.
    calibrated = "calibration" in artifact.model
    differing = [] if calibrated else compare_weights(artifact, source, config, scheme, progress)
    with progress.stage("reference, stored weights", 1) as advance:
        stored = reference_logits(config, stored_rows(artifact, scheme), sample)
        advance(1)
    with progress.stage("reference, source weights", 1) as advance:
        original = reference_logits(config, source.rows(), sample)
        advance(1)
    results = [check_variant(artifact, v, adapter, sample, stored, original, progress) for v in chosen]
    if all(result["status"] == "skipped" for result in results):
        raise WispError(
            "this machine can run none of the variants",
            got="; ".join(f"{result['name']}: {result['reason']}" for result in results),
            remedy="compile the variant wasm-simd, which needs nothing",
        )
    failures = [f"{r['name']}: {failure}" for r in results for failure in r.get("failures", [])]
    if differing:
        shown = ", ".join(differing[:4]) + (", ..." if len(differing) > 4 else "")
        failures.insert(0, f"{len(differing)} stored tensors are not those of the checkpoint: {shown}")
    return {
        "artifact": artifact.model["id"],
        "reference": source.checkpoint.source.id,
        "quantization": scheme.name,
        "adapter": "CPU" if adapter is None else adapter_name(adapter),
        "text": sample.origin,
        "tokens": sample.tokens,
        "evaluated_tokens": sample.evaluated,
        "bounds": BOUNDS,
        "weights": {"tensors": len(artifact.tensors), "compared": not calibrated, "differing": differing},
        "perplexity": {"source": perplexity(sample, original), "stored": perplexity(sample, stored)},
        "quantization_error": asdict(compare(stored.steps, original.steps, 0.0)),
        "variants": results,
        "failures": failures,
        "passed": not failures,
    }


# --------------------------------------------------------------------------------------------------------------- input


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


# -------------------------------------------------------------------------------------------------------------- logits


@dataclass(frozen=True)
class Logits:
    """Logits of a sample: (steps, vocabulary) of its steps, and (vocabulary) after each of its prompts."""

    steps: NDArray[np.float32]
    prompts: Mapping[int, NDArray[np.float32]]


def reference_logits(config: ModelConfig, read_rows: ReadRows, sample: Sample) -> Logits:
    """What numpy says of a sample. One pass over the weights."""
    model = ReferenceModel(config, read_rows)
    hidden = model.hidden_states(sample.ids)
    wanted = [*range(sample.evaluated), *(length - 1 for length in sample.prompts)]
    logits = model.logits(hidden[wanted])
    after = dict(zip(sample.prompts, logits[sample.evaluated :], strict=True))
    return Logits(logits[: sample.evaluated], after)


def native_logits(runtime: Session, sample: Sample) -> Logits:
    """What the kernels say: `decode` alone, token by token, and then each prompt by `prefill`."""
    steps = [runtime.logits(sample.ids[:1])]
    steps += [runtime.next_logits(token) for token in sample.ids[1 : sample.tokens]]
    prompts = {length: runtime.logits(sample.ids[:length]) for length in sample.prompts}
    return Logits(np.stack(steps), prompts)


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


def check_variant(
    artifact: Artifact,
    variant: Mapping[str, Any],
    adapter: Any,
    sample: Sample,
    stored: Logits,
    original: Logits,
    progress: Report,
) -> dict[str, Any]:
    """Runs one variant and holds it against both references."""
    name, dtype = variant["name"], variant["activation_dtype"]
    reason = obstacle(variant, adapter)
    if reason is not None:
        return {"name": name, "status": "skipped", "reason": reason, "activation_dtype": dtype}
    with progress.stage(name, 1) as advance:
        on_cpu = variant["backend"] == "wasm"
        runtime = open_wasm_variant(artifact, name) if on_cpu else open_variant(artifact, name, adapter)
        got = native_logits(runtime, sample)
        advance(1)
    bound = FORMER_BOUND if dtype == "float16" else BOUNDS[variant.get("kv_dtype", "float32")]
    decode = compare(got.steps, stored.steps[: sample.tokens], bound)
    prefill = {n: compare(got.prompts[n][None], stored.prompts[n][None], bound) for n in sample.prompts}
    failures = [*broken("decode", decode, bound)]
    failures += [failure for n, result in prefill.items() for failure in broken(f"a prompt of {n}", result, bound)]
    return {
        "name": name,
        "status": "failed" if failures else "passed",
        "activation_dtype": dtype,
        "bound": bound,
        **asdict(decode),
        "prefill_max_error": {str(n): result.max_error for n, result in prefill.items()},
        "perplexity": perplexity(sample, got),
        "against_source": asdict(compare(got.steps, original.steps[: sample.tokens], bound)),
        "failures": failures,
    }


# ------------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Comparison:
    """Logits against reference logits. Errors are relative to the largest reference logit of their step.

    `top1_breaks` counts steps where another token leads although the reference's lead exceeds the bound.
    """

    max_error: float
    mean_error: float
    kl_mean: float
    kl_max: float
    top1_agreement: float
    top1_breaks: int


def compare(got: NDArray[np.float32], expected: NDArray[np.float32], bound: float) -> Comparison:
    """Compares (steps, vocabulary) with (steps, vocabulary); KL divergences (reference || got) are in nats."""
    scale = np.abs(expected).max(axis=1)
    error = np.abs(got - expected) / scale[:, None]
    logp, logq = log_softmax(expected), log_softmax(got)
    kl = (np.exp(logp) * (logp - logq)).sum(axis=1)
    agree = got.argmax(axis=1) == expected.argmax(axis=1)
    second, first = np.partition(expected, -2, axis=1)[:, -2:].T
    decided = first - second > bound * scale
    return Comparison(
        max_error=_number(error.max()),
        mean_error=_number(error.mean()),
        kl_mean=_number(kl.mean()),
        kl_max=_number(kl.max()),
        top1_agreement=float(agree.mean()),
        top1_breaks=int((decided & ~agree).sum()),
    )


def _number(value: np.floating[Any]) -> float:
    """JSON has no NaN; a kernel that gives one is infinitely wrong, and 1e30 says so."""
    return float(np.nan_to_num(value, nan=1e30, posinf=1e30))


def broken(where: str, result: Comparison, bound: float) -> list[str]:
    """The bounds that a comparison breaks, in words."""
    failures = []
    if result.max_error > bound:
        failures.append(f"{where}: logit error {result.max_error:.1e} exceeds {bound:g}")
    if result.top1_breaks:
        failures.append(f"{where}: another token leads at {result.top1_breaks} steps where the lead is clear")
    return failures


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def perplexity(sample: Sample, logits: Logits) -> float:
    """exp of the mean negative log-likelihood of each id after those before it."""
    targets = list(sample.ids[1 : len(logits.steps)])
    predicted = log_softmax(logits.steps[: len(targets)])
    return _number(np.exp(-predicted[np.arange(len(targets)), targets].mean()))


def adapter_name(adapter: Any) -> str:
    """The adapter in a line."""
    return f"{adapter.info['device']} ({adapter.info['backend_type']})"


# ----------------------------------------------------------------------------------------------------------- for people


def print_report(report: Mapping[str, Any]) -> None:
    """The report as a table on stdout."""
    console = wide_console()
    differing = report["weights"]["differing"]
    same = f"{len(differing)} of {report['weights']['tensors']} differ" if differing else "as in the checkpoint"
    if not report["weights"]["compared"]:
        same = "not compared: their scales follow a calibration text"
    cost, perplexities = report["quantization_error"], report["perplexity"]
    console.print(f"{report['artifact']} against {report['reference']}, on {report['adapter']}", markup=False)
    console.print(f"  stored weights   {same}", markup=False)
    console.print(
        f"  {report['quantization']:<15}  error {cost['max_error']:.1e}, KL {cost['kl_mean']:.1e}, "
        f"top-1 {cost['top1_agreement']:.1%}, perplexity {perplexities['source']:.4g} -> {perplexities['stored']:.4g} "
        f"({report['evaluated_tokens']} tokens)",
        markup=False,
    )
    console.print(f"  kernels against the stored weights, {report['tokens']} tokens:", markup=False)
    table = Table(box=SIMPLE_HEAD)
    for heading in ("variant", "bound", "max error", "mean", "prefill", "KL", "top-1", "perplexity", "result"):
        table.add_column(heading, justify="left" if heading in ("variant", "result") else "right", no_wrap=True)
    for row in report["variants"]:
        if row["status"] == "skipped":
            table.add_row(row["name"], *[""] * 7, f"skipped: {row['reason']}")
            continue
        table.add_row(
            row["name"],
            f"{row['bound']:g}",
            f"{row['max_error']:.1e}",
            f"{row['mean_error']:.1e}",
            f"{max(row['prefill_max_error'].values()):.1e}",
            f"{row['kl_mean']:.1e}",
            f"{row['top1_agreement']:.1%}",
            f"{row['perplexity']:.4g}",
            row["status"],
        )
    console.print(table)


def wide_console() -> Console:
    """Stdout, without breaking lines of a table where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def exit_status(report: Mapping[str, Any]) -> int:
    """0, or 1 when a bound was broken; then one line a failure goes to stderr."""
    for failure in report["failures"]:
        print(f"FAILED: bound: {failure}", file=sys.stderr)
    return 0 if report["passed"] else 1
