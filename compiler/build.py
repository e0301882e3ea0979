"""The pipeline: a checkpoint goes in, an artifact comes out. One function, one line a stage.

Every stage takes and gives frozen values; what a stage does is in the module it is named after.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact.inspect import describe_values
from .artifact.mlc_config import MLC_CONFIG, Compiled, mlc_chat_config
from .artifact.writer import (
    CONSTANTS,
    TENSOR_CACHE,
    ArtifactWriter,
    check_output,
    dump_json,
    is_json,
    tensor_metadata,
)
from .check.smoke import Smoke, smoke_test
from .check.tokenizer import check_tokenizer
from .config import BuildConfig, clip_prefill_chunks, default_context, generation_defaults
from .errors import WispError
from .kernels.cache import Q8_MULTIPLE
from .lowering.limits import obstacle
from .lowering.lower import Lowered, geometry_of, lower_variant, rope_constants
from .models import config_from_huggingface, weight_specs, without_ignored
from .models.base import ModelConfig, WeightSpec, differences
from .models.fields import shortened
from .network.calibration import column_importance, read_calibration_text
from .progress import Report, Silent, human_bytes
from .sources.files import checked_token_id
from .sources.lora import Adapter
from .sources.open import open_requested
from .sources.protocol import Checkpoint, CheckpointSource
from .sources.sandbox import Tree, parse_template
from .sources.speech import speech_tokens
from .sources.turns import end_of_turn_ids
from .sources.weights import float_blocks, float_rows, kept_tensors, quantized_tensors
from .target.variants import ACTIVATION_DTYPE, ALL_VARIANTS, Q8_SUFFIX, VARIANTS, Variant
from .weights.account import Fate, Merged, SourceValues, fate_of, summed, summed_merged
from .weights.choice import (
    AUTO,
    DEFAULT_OF_SPEECH,
    DEFAULT_QUANTIZATION,
    choose_scheme,
    role_names,
    scheme_names,
)
from .weights.kept import Held
from .weights.quantize import parameter_layout
from .weights.schemes import MatrixKey, Scheme

MOST_DIFFERENCES = 8  # that an error lists
LARGE_CACHE = 256 << 20  # bytes at the whole context: smaller ones are not what a device's memory ends on


@dataclass(frozen=True)
class Source:
    """The checkpoint as far as it is needed: without weights its configuration alone will do."""

    checkpoint: Checkpoint | None
    config: Mapping[str, Any]
    described: CheckpointSource
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Network:
    """What is compiled: the model at a context, and how its weights are stored."""

    model: ModelConfig
    specs: tuple[WeightSpec, ...]
    scheme: Scheme
    context: int
    prefill_chunks: tuple[int, ...]
    parameters: int  # before quantization, a tied head once
    weight_bytes: int


@dataclass(frozen=True)
class Text:
    """What the browser needs to turn text into ids and back, and to choose the next id."""

    files: tuple[Path, ...]
    chat_template: str | None
    template_tree: Tree | None  # what the page runs
    bos_token_id: int | None
    stop_token_ids: tuple[int, ...]
    generation: Mapping[str, float]
    speech: Mapping[str, Any] | None = None  # tokens that decoding speech needs


@dataclass(frozen=True)
class Calibration:
    """How much each column of a matrix counts, by (role, layer), and the text that says so, as model.json has it."""

    described: Mapping[str, Any]
    importance: Mapping[tuple[str, int | None], NDArray[np.float32]]


@dataclass(frozen=True)
class Stored:
    """What is known of weights once they are stored: what tensor-cache.json says of them all, and what they lost."""

    metadata: dict[str, Any] | None = None
    values: SourceValues | None = None
    merged: Merged | None = None


@dataclass(frozen=True)
class Findings:
    """What is found out about the weights while they are stored, as far as it applies."""

    calibration: Calibration | None = None
    values: SourceValues | None = None
    smoke: Smoke | None = None


def build(config: BuildConfig, report: Report | None = None) -> Path:
    """Compiles one model and returns the artifact's directory. On any failure the output is as it was before.

    Raises WispError for bad input.
    """
    report = report or Silent()
    check_output(config.output)
    source = open_source(config)
    network = plan_network(config, source)
    variants = fitting_variants(config, network, report)
    check_weights(config, source, network)
    text = read_text(config, source, network)
    with report.stage("checking the tokenizer", 1):
        unchecked = check_tokenizer(
            text.files, text.chat_template, text.template_tree, text.bos_token_id, text.stop_token_ids
        )
    lowered = lower(config, network, variants, report)
    with ArtifactWriter(config.output, mlc_shards=config.mlc_shards) as writer:
        calibration = calibrate(config, source, network, report)
        stored = write_weights(config, source, network, calibration, writer, report)
        write_variants(network, lowered, writer)
        write_text(source, network, text, writer)
        smoke = run_smoke_test(config, network, lowered, writer, report)
        findings = Findings(calibration, stored.values, smoke)
        output = writer.finish(describe(config, source, network, text, lowered, findings), stored.metadata)
    if source.adapter is not None:
        report.note(f"merged {source.adapter}{_merged_into(stored.merged)}")
    if stored.values is not None:
        report.note(describe_values(stored.values.described()))
    if unchecked is not None:
        report.note(unchecked)
    report.note(f"{output}: {human_bytes(network.weight_bytes)} of weights, context {network.context}")
    return output


def _merged_into(merged: Merged | None) -> str:
    """What quantized matrices that an adapter changes become, and what that costs; empty where there are none."""
    if merged is None:
        return ""
    cost = f"{human_bytes(merged.bytes_more)} more than before, squared error {merged.squared_error:.2g} of the weights"
    return f"; quantized matrices that it changes, {merged.count}, are stored in {', '.join(merged.schemes)}: {cost}"


def open_source(config: BuildConfig) -> Source:
    """The checkpoint, or the recipe's architecture alone when no weights are wanted."""
    if config.weights == "none" and config.architecture is not None:
        described = CheckpointSource(config.source_kind, config.source, config.revision)
        return Source(None, without_ignored(config.architecture, config.ignore_fields), described)
    checkpoint, adapter = open_requested(config)
    return Source(checkpoint, checkpoint.config, checkpoint.source, adapter)


def plan_network(config: BuildConfig, source: Source) -> Network:
    """The numbers of the network and of its stored weights; refuses what cannot be compiled or stored."""
    context = config.context or default_context(source.config)
    model = config_from_huggingface(source.config, context)
    if config.architecture is not None:
        stated = without_ignored(config.architecture, config.ignore_fields)
        _check_architecture(config_from_huggingface(stated, context), model)
    specs = weight_specs(model)
    scheme = _scheme(config, source, model, specs)
    layouts = [tensor for spec in specs for tensor in parameter_layout(spec, scheme)]
    return Network(
        model=model,
        specs=specs,
        scheme=scheme,
        context=context,
        prefill_chunks=clip_prefill_chunks(config.prefill_chunks, context),
        parameters=sum(math.prod(spec.shape) for spec in specs),
        weight_bytes=sum(math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in layouts),
    )


def fitting_variants(config: BuildConfig, network: Network, report: Report) -> tuple[str, ...]:
    """The variants whose buffers a device can hold. One that was named has to fit; without a name one has to."""
    shape = network.context, network.prefill_chunks
    found: dict[str, WispError | None] = {}
    for name in config.variants:
        group = [v.name for v in _with_kv(config, network, VARIANTS[name])]
        found |= {n: obstacle(geometry_of(network.model, network.scheme, ALL_VARIANTS[n], *shape)) for n in group}
        none = [error for error in (found[n] for n in group) if error is not None]
        if config.variants_named and len(none) == len(group):
            raise none[0]
    obstacles = [error for error in found.values() if error is not None]
    if len(obstacles) == len(found):
        raise obstacles[0]
    for name, error in found.items():
        if error is not None:
            report.note(f"left out {name}: {error}")
    return tuple(name for name, error in found.items() if error is None)


def _with_kv(config: BuildConfig, network: Network, variant: Variant) -> tuple[Variant, ...]:
    """The variant as its cache was asked for; `auto`: with its twin in 8 bits where there may be no room for 16."""
    if network.model.encoder is not None:
        if config.kv == "q8":
            what = "a model that transcribes keeps keys and values in 32 bits"
            raise WispError(what, got="--kv q8", remedy="leave it out: there are few of them")
        return (variant,)
    twin = ALL_VARIANTS[variant.name + Q8_SUFFIX]
    if config.kv == "q8":
        return (twin,)
    cache = geometry_of(network.model, network.scheme, variant, network.context, network.prefill_chunks).cache
    takes = 4 * cache.row_words * network.context * network.model.num_hidden_layers
    worth = config.kv == "auto" and takes >= LARGE_CACHE and cache.heads.size % Q8_MULTIPLE == 0
    return (variant, twin) if worth else (variant,)


def _scheme(config: BuildConfig, source: Source, model: ModelConfig, specs: Sequence[WeightSpec]) -> Scheme:
    """The scheme with its exceptions, by the request and by what the source holds."""
    if not model.has_head and "lm_head" in config.quantization_overrides:
        raise WispError(
            "the model has no lm_head of its own",
            got="[quantization_overrides] lm_head",
            expected="embedding, which is both",
            remedy="name the embedding in the recipe",
        )
    taken = source.checkpoint is not None and source.checkpoint.takes_as_it_is
    quantization = AUTO if taken else config.quantization
    held: dict[MatrixKey, Held | None] = {}
    if source.checkpoint is not None and quantization == AUTO:  # which may read weights
        held = {(spec.role, spec.layer): source.checkpoint.held(spec) for spec in specs if spec.kind == "matrix"}
    if config.calibration is not None and config.quantization == AUTO and held and None not in held.values():
        raise WispError(
            "calibration weighs the errors of quantization, and the source's values are kept as they are",
            got=f"--calibration with --quant {AUTO}",
            remedy="leave --calibration out, or name a scheme",
        )
    merged = [(s.role, s.layer) for s in specs if source.adapter is not None and source.adapter.changes(s)]
    default = DEFAULT_QUANTIZATION if model.encoder is None else DEFAULT_OF_SPEECH
    return choose_scheme(quantization, config.quantization_overrides, held, merged, default)


def _check_architecture(stated: ModelConfig, model: ModelConfig) -> None:
    different = list(differences(stated, model))[:MOST_DIFFERENCES]
    if different:
        raise WispError(
            "the recipe's [architecture] is not that of the checkpoint",
            got=", ".join(f"{path} {shortened(ours)}" for path, ours, _ in different),
            expected=", ".join(f"{path} {shortened(theirs)}" for path, _, theirs in different),
            remedy="correct the recipe",
        )


def check_weights(config: BuildConfig, source: Source, network: Network) -> None:
    """Every tensor is there, of its shape, and the disk has room for what they become. Reads no weights."""
    if source.checkpoint is None or config.weights == "none":
        return
    source.checkpoint.check_weights(network.specs, tied=not network.model.has_head)
    if source.adapter is not None:
        source.adapter.check(network.specs, tied=not network.model.has_head)
    ancestor = next(path for path in (config.output, *config.output.absolute().parents) if path.exists())
    free = shutil.disk_usage(ancestor).free
    if free < network.weight_bytes:
        raise WispError(
            f"the disk has no room for {config.output}",
            got=f"{human_bytes(free)} free",
            expected=f"at least {human_bytes(network.weight_bytes)}",
            remedy="free some space or choose another -o",
        )


def read_text(config: BuildConfig, source: Source, network: Network) -> Text:
    """The tokenizer's files and ids, checked against the vocabulary; no files when compiling without weights."""
    checkpoint, vocab_size = source.checkpoint, network.model.vocab_size
    if checkpoint is None or config.weights == "none":
        bos, end = source.config.get("bos_token_id"), source.config.get("eos_token_id")
        ends = [token for token in (end if isinstance(end, list) else [end]) if token is not None]
        stops = tuple(checked_token_id(token, "config.json eos_token_id") for token in ends)
        start = None if bos is None else checked_token_id(bos, "config.json bos_token_id")
        text = Text((), None, None, start, stops, generation_defaults({}, config.generation))
    else:
        model = network.model
        template = checkpoint.chat_template if model.pooling is None and model.encoder is None else None
        tokens = (checkpoint.token_ids, checkpoint.config, checkpoint.generation_config)
        text = Text(
            files=checkpoint.tokenizer_files,
            chat_template=template,
            template_tree=None if template is None else parse_template(template),
            bos_token_id=checkpoint.bos_token_id,
            stop_token_ids=tuple(
                dict.fromkeys((*checkpoint.stop_token_ids, *end_of_turn_ids(template, checkpoint.token_ids)))
            ),
            generation=generation_defaults(checkpoint.generation_config, config.generation),
            speech=None if model.encoder is None else speech_tokens(*tokens),
        )
        largest = max(checkpoint.token_ids.items(), key=lambda item: item[1], default=("", -1))
        if not 0 <= largest[1] < vocab_size:
            raise WispError(
                "the tokenizer does not fit the model",
                got=f"token {largest[0]!r} with id {largest[1]}",
                expected=f"ids from 0 to {vocab_size - 1}, the rows of the embedding",
                remedy="use the tokenizer that the model was trained with",
            )
    outside = [token for token in (*text.stop_token_ids, text.bos_token_id or 0) if token >= vocab_size]
    if outside:
        raise WispError(
            "a special token does not fit the model",
            got=f"id {outside[0]}",
            expected=f"at most {vocab_size - 1}",
            remedy="correct eos_token_id and bos_token_id in config.json and generation_config.json",
        )
    return text


def lower(config: BuildConfig, network: Network, variants: tuple[str, ...], report: Report) -> dict[str, Lowered]:
    """The plan and the kernels of every variant."""
    lowered, seconds = {}, {}
    with report.stage("lowering", len(variants)) as advance:
        for name in variants:
            started = time.monotonic()
            lowered[name] = lower_variant(
                network.model, network.scheme, ALL_VARIANTS[name], network.context, network.prefill_chunks, config.dump
            )
            seconds[name] = time.monotonic() - started
            advance(1)
    report.note(", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))
    return lowered


def calibrate(config: BuildConfig, source: Source, network: Network, report: Report) -> Calibration | None:
    """What a text says of the columns of every matrix; None when no text was given and `auto` needs none of its own."""
    if source.checkpoint is None or config.weights == "none":
        return None
    if network.model.encoder is not None:
        if config.calibration is None:
            return None
        raise WispError(
            "a model that transcribes cannot be calibrated on a text", got="--calibration", remedy="leave it out"
        )
    if config.calibration is None and not _calibrates_itself(config, source.checkpoint, network):
        return None
    tokenizer, vocab_size = source.checkpoint.tokenizer_files[0], network.model.vocab_size
    text = read_calibration_text(config.calibration, tokenizer, vocab_size, network.context)
    if text is None:
        report.note("not calibrated: the tokenizer makes next to no tokens of the built-in text")
        return None
    with report.stage("calibrating", 1) as advance:
        rows = float_rows(source.checkpoint, source.adapter)
        calibration = Calibration(text.described(), column_importance(network.model, rows, text.ids))
        advance(1)
    return calibration


def _calibrates_itself(config: BuildConfig, checkpoint: Checkpoint, network: Network) -> bool:
    """Whether `auto` has floats to store in integers: by errors that a text of our own weighs, if by errors at all."""
    if config.quantization != AUTO or config.scales != "search":
        return False
    matrices = (spec for spec in network.specs if spec.kind == "matrix" and network.scheme.of(spec).group_size)
    return any(checkpoint.held(spec) is None for spec in matrices)


def write_weights(
    config: BuildConfig,
    source: Source,
    network: Network,
    calibration: Calibration | None,
    writer: ArtifactWriter,
    report: Report,
) -> Stored:
    """Stores weight by weight into shards, the source's own integers or what is quantized here."""
    importance = calibration.importance if calibration is not None else {}
    checkpoint, scheme, adapter = source.checkpoint, network.scheme, source.adapter
    if config.weights == "none" or checkpoint is None:
        return Stored()
    tensors = 0
    fates: list[Fate] = []
    merged: list[tuple[WeightSpec, Held, Fate]] = []
    with report.stage("quantizing", network.parameters) as advance:
        for spec in network.specs:
            weights = importance.get((spec.role, spec.layer))
            kept = kept_tensors(checkpoint, spec, scheme, adapter)
            stored = kept or quantized_tensors(checkpoint, spec, scheme, adapter, config.scales, weights)
            for name, tensor in stored:
                writer.add_tensor(name, tensor)
            tensors += len(stored)
            held = checkpoint.held(spec)
            if held is not None and (adapter is None or not adapter.changes(spec)):
                fates.append(fate_of(spec, held, kept is not None, stored, scheme, checkpoint.blocks(spec)))
            elif held is not None and held.scheme.group_size:
                blocks = float_blocks(checkpoint, spec, adapter)
                merged.append((spec, held, fate_of(spec, held, False, stored, scheme, blocks)))
            advance(math.prod(spec.shape))
    metadata = tensor_metadata(tensors, network.parameters, network.weight_bytes)
    return Stored(metadata, summed(fates), summed_merged(merged, scheme))


def write_variants(network: Network, lowered: Mapping[str, Lowered], writer: ArtifactWriter) -> None:
    """The plans, the kernels and the tables that all plans share."""
    if network.model.ropes:
        writer.add_file(CONSTANTS, rope_constants(network.model, network.context))
    for name, result in lowered.items():
        writer.add_file(f"{name}/plan.json", dump_json(result.plan, indent=None))
        for key, content in result.modules.items():
            writer.add_file(_module_file(name, key), content)
        for path, content in result.alternatives.items():
            writer.add_file(path, content)


def _module_file(variant: str, key: str) -> str:
    """Where a module of a variant lies; `key` is that of model.json."""
    suffix = "wasm" if ALL_VARIANTS[variant].backend == "wasm" else "wgsl"
    return f"{variant}/{key.replace('_', '-')}.{suffix}"


def write_text(source: Source, network: Network, text: Text, writer: ArtifactWriter) -> None:
    """The tokenizer's files, as they are, and the model as MLC describes it."""
    for file in text.files:
        writer.add_file(file.name, file.read_bytes())
    if network.model.encoder is None:
        _write_mlc_config(source, network, text, writer)
    # What the architecture is read from, so that an artifact can be compiled again; less what may name this machine.
    private = ("name_or_path", "auto_map")
    fields = {k: v for k, v in source.config.items() if not k.startswith("_") and k not in private and is_json(v)}
    writer.add_file("config.json", dump_json(fields))


def _write_mlc_config(source: Source, network: Network, text: Text, writer: ArtifactWriter) -> None:
    compiled = Compiled(
        quantization=network.scheme.name,
        context=network.context,
        prefill_chunk=max(network.prefill_chunks),
        bos_token_id=text.bos_token_id,
        stop_token_ids=text.stop_token_ids,
        generation=text.generation,
        tokenizer_files=[file.name for file in text.files],
    )
    writer.add_file(MLC_CONFIG, dump_json(mlc_chat_config(network.model, source.config, compiled)))


def run_smoke_test(
    config: BuildConfig, network: Network, lowered: Mapping[str, Lowered], writer: ArtifactWriter, report: Report
) -> Smoke | None:
    """Runs a few tokens through what was written; refuses what computes nothing. None without weights."""
    if config.weights == "none":
        return None
    with report.stage("smoke test", 1) as advance:
        smoke = smoke_test(network.model, network.scheme, network.context, lowered, writer.stored())
        advance(1)
    return smoke


def describe(
    config: BuildConfig,
    source: Source,
    network: Network,
    text: Text,
    lowered: Mapping[str, Lowered],
    findings: Findings = Findings(),
) -> dict[str, Any]:
    """model.json without its list of files."""
    model = network.model
    return {
        "id": config.id,
        "name": config.name,
        "source": _source(config, source),
        "architecture": {
            "model_type": model.model_type,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "num_hidden_layers": model.num_hidden_layers,
            "num_attention_heads": model.num_attention_heads,
            "num_key_value_heads": model.num_key_value_heads,
            "head_dim": model.head_dim,
            "vocab_size": model.vocab_size,
            "tie_word_embeddings": model.tie_word_embeddings,
        },
        **({} if model.pooling is None else {"embedding": {"pooling": model.pooling}}),
        **_hears(model, text),
        "parameters": network.parameters,
        "quantization": network.scheme.name,
        **_quantized_how(config, source, network, findings),
        "weight_bytes": network.weight_bytes,
        "context": network.context,
        "bos_token_id": text.bos_token_id,
        "stop_token_ids": list(text.stop_token_ids),
        "generation": dict(text.generation),
        "chat_template": text.chat_template,
        **({} if text.template_tree is None else {"chat_template_tree": text.template_tree}),
        "suggestions": list(config.suggestions),
        **_provenance(config, source),
        "tokenizer": [file.name for file in text.files],
        "weights": TENSOR_CACHE if config.weights == "full" else None,
        **({"smoke": findings.smoke.described()} if findings.smoke is not None else {}),
        "variants": [describe_variant(name, result) for name, result in lowered.items()],
    }


def _hears(model: ModelConfig, text: Text) -> dict[str, Any]:
    """The entry of a model that transcribes: what its windows are, and its tokens where it has a tokenizer."""
    encoder = model.encoder
    if encoder is None:
        return {}
    window = {"mel_bands": encoder.mel_bands, "positions": encoder.positions, "encoder_layers": len(encoder.layers)}
    return {"speech": {**window, "tokens": None if text.speech is None else dict(text.speech)}}


def _source(config: BuildConfig, source: Source) -> dict[str, Any]:
    found = asdict(source.described)
    if source.adapter is not None:
        found["adapter"] = source.adapter.described()
    if config.ignore_fields:
        found["ignored_fields"] = list(config.ignore_fields)
    return found


def _provenance(config: BuildConfig, source: Source) -> dict[str, str]:
    """What a page says of the weights' origin: the recipe's word, else the checkpoint's own."""
    stated = source.checkpoint.license if source.checkpoint is not None else None
    found = {"license": config.license or stated, "homepage": config.homepage}
    return {key: value for key, value in found.items() if value is not None}


def _quantized_how(config: BuildConfig, source: Source, network: Network, findings: Findings) -> dict[str, Any]:
    """Which matrices are stored in other schemes, how scales were chosen, and what became of quantized values."""
    values, calibration = findings.values, findings.calibration
    roles, names = role_names(network.scheme), scheme_names(network.scheme, network.specs)
    found: dict[str, Any] = {"quantization_overrides": roles} if roles else {}
    if names:
        found["schemes"] = names
    if values is not None:
        found["source_values"] = values.described()
    if source.checkpoint is not None and config.weights == "full" and (values is None or values.requantized):
        found["scales"] = config.scales
    if calibration is not None:
        found["calibration"] = calibration.described
    return found


def describe_variant(name: str, lowered: Lowered) -> dict[str, Any]:
    """A variant's entry in model.json, counted from its plan."""
    variant, plan = ALL_VARIANTS[name], lowered.plan
    caches = [buffer for buffer in plan["buffers"] if buffer["kind"] == "kv"]
    scratch = [buffer for buffer in plan["buffers"] if buffer["kind"] == "scratch"]
    return {
        "name": name,
        "backend": variant.backend,
        "activation_dtype": ACTIVATION_DTYPE,
        "kv_dtype": lowered.kv_dtype,
        "required_features": list(variant.required_features),
        "required_limits": dict(lowered.required_limits),
        "plan": f"{name}/plan.json",
        **{key: _module_file(name, key) for key in lowered.modules},
        "kv_bytes_per_token": sum(buffer["bytes_per_position"] for buffer in caches),
        "activation_bytes": sum(buffer["bytes"] for buffer in scratch),
        "dispatches_per_token": len(plan["programs"]["decode"]),
        "prefill_dispatches": {
            str(chunk): len(plan["programs"][f"prefill_{chunk}"]) for chunk in plan["prefill_chunks"]
        },
        **({"encode_dispatches": len(plan["programs"]["encode"])} if "encode" in plan["programs"] else {}),
    }
