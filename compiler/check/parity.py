"""`wisp check`: does an artifact compute what its checkpoint says?

Three questions, answered apart: are the stored weights those of the checkpoint (bit for bit, after quantizing it
again); do the kernels compute what the stored weights say (this is what the bounds are for); what did quantization
cost (reported, never a failure). The reference is `network/reference.py`, the kernels run natively through wgpu. Knows
nothing of how either works inside.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..artifact.writer import Artifact, load_artifact
from ..errors import WispError
from ..models.base import ModelConfig, ReadRows
from ..network.reference import ReferenceModel
from ..progress import Report, Silent
from ..runtime.session import Session
from ..weights.schemes import Scheme
from ..weights.stored import stored_rows
from .embedding import check_embeddings, embedding_cost, print_embeddings, reference_embeddings
from .inputs import Sample, adapter_name, choose_ids, choose_variants, find_adapter, obstacle, open_on
from .speech import HeardMethod, check_heard, print_heard, reference_heard
from .weights import compare_weights, match

# The largest error of a logit, relative to the largest logit of its step, by the type of the KV cache.
BOUNDS = {"float32": 1e-3, "float16": 2e-3, "q8": 5e-2}
FORMER_BOUND = 2e-2  # of activations of 16 bits, as artifacts of earlier versions have them


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
    method = method_of(config, scheme)
    with progress.stage("reference, weights as stored and as of the source", 2) as advance:
        stored = method.reference(config, stored_rows(artifact, scheme), sample)
        advance(1)
        original = method.reference(config, source.rows(), sample)
        advance(1)
    measure: Any = functools.partial(method.check, sample=sample, stored=stored, original=original)
    results = [check_variant(artifact, variant, adapter, measure, progress) for variant in chosen]
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
        **method.cost(sample, stored, original),
        "variants": results,
        "failures": failures,
        "passed": not failures,
    }


@dataclass(frozen=True)
class Method:
    """How a kind of model is compared: what the reference says, what a variant does, what quantization cost."""

    reference: Callable[..., Any]  # (config, rows, sample)
    check: Callable[..., dict[str, Any]]  # (runtime, variant, sample, stored, original)
    cost: Callable[..., dict[str, Any]]  # (sample, stored, original)


def method_of(config: ModelConfig, scheme: Scheme) -> Method:
    """By what the model gives: embeddings, logits of a text, or logits of what it heard."""
    if config.pooling is not None:
        return Method(reference_embeddings, check_embeddings, embedding_cost)
    if config.encoder is None:
        return Method(reference_logits, check_logits, logits_cost)
    return Method(
        functools.partial(reference_heard, model_logits),
        functools.partial(check_heard, HeardMethod(check_logits, config, scheme)),
        lambda sample, stored, original: {
            "task": "transcription",
            **logits_cost(sample, stored.logits, original.logits),
        },
    )


# -------------------------------------------------------------------------------------------------------------- logits


@dataclass(frozen=True)
class Logits:
    """Logits of a sample: (steps, vocabulary) of its steps, and (vocabulary) after each of its prompts."""

    steps: NDArray[np.float32]
    prompts: Mapping[int, NDArray[np.float32]]


def reference_logits(config: ModelConfig, read_rows: ReadRows, sample: Sample) -> Logits:
    """What numpy says of a sample. One pass over the weights."""
    return model_logits(ReferenceModel(config, read_rows), sample)


def model_logits(model: ReferenceModel, sample: Sample) -> Logits:
    """What a model in numpy says of a sample that begins here."""
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


def check_variant(
    artifact: Artifact,
    variant: Mapping[str, Any],
    adapter: Any,
    measure: Callable[[Session, Mapping[str, Any]], dict[str, Any]],
    progress: Report,
) -> dict[str, Any]:
    """What a report says of a variant: what `measure` says of it, or why this machine cannot run it."""
    about = {"name": variant["name"], "activation_dtype": variant["activation_dtype"]}
    reason = obstacle(variant, adapter)
    if reason is not None:
        return {**about, "status": "skipped", "reason": reason}
    with progress.stage(variant["name"], 1) as advance:
        measured = measure(open_on(artifact, variant, adapter), variant)
        advance(1)
    return {**about, **measured}


def check_logits(
    runtime: Session, variant: Mapping[str, Any], sample: Sample, stored: Logits, original: Logits
) -> dict[str, Any]:
    """Holds the logits of one variant against both references."""
    got = native_logits(runtime, sample)
    former = variant["activation_dtype"] == "float16"
    bound = FORMER_BOUND if former else BOUNDS[variant.get("kv_dtype", "float32")]
    decode = compare(got.steps, stored.steps[: sample.tokens], bound)
    prefill = {n: compare(got.prompts[n][None], stored.prompts[n][None], bound) for n in sample.prompts}
    failures = [*broken("decode", decode, bound)]
    failures += [failure for n, result in prefill.items() for failure in broken(f"a prompt of {n}", result, bound)]
    return {
        "status": "failed" if failures else "passed",
        "bound": bound,
        **asdict(decode),
        "prefill_max_error": {str(n): result.max_error for n, result in prefill.items()},
        "perplexity": perplexity(sample, got),
        "against_source": asdict(compare(got.steps, original.steps[: sample.tokens], bound)),
        "failures": failures,
    }


def logits_cost(sample: Sample, stored: Logits, original: Logits) -> dict[str, Any]:
    """What quantization costs, for a report."""
    return {
        "perplexity": {"source": perplexity(sample, original), "stored": perplexity(sample, stored)},
        "quantization_error": asdict(compare(stored.steps, original.steps, 0.0)),
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


# ----------------------------------------------------------------------------------------------------------- for people


def print_report(report: Mapping[str, Any]) -> None:
    """The report as a table on stdout."""
    console = wide_console()
    differing = report["weights"]["differing"]
    same = f"{len(differing)} of {report['weights']['tensors']} differ" if differing else "as in the checkpoint"
    if not report["weights"]["compared"]:
        same = "not compared: their scales follow a calibration text"
    console.print(f"{report['artifact']} against {report['reference']}, on {report['adapter']}", markup=False)
    console.print(f"  stored weights   {same}", markup=False)
    if report.get("task") == "embedding":
        print_embeddings(report, console)
        return
    if report.get("task") == "transcription":
        print_heard(report, console)
    cost, perplexities = report["quantization_error"], report["perplexity"]
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
