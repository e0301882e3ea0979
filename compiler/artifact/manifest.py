"""The validator: whether `model.json`, `tensor-cache.json` and the plans hold together, before one weight byte is read.

The twin of `web/src/artifact/manifest.ts`; `artifact/FORMAT.md` is what both implement and
`tests/golden/bad_manifests/` is what both are tested on. Knows JSON values and arithmetic; opens no file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import WispError
from ..target.limits import DEFAULT_LIMITS
from .state import SAMPLING_RANGES
from .template import validate_tree

FORMAT_VERSION = 1
MAX_SHARD_BYTES = 32 * 1024 * 1024  # a reader's limit; the writer keeps below it
SPLIT_ROWS = 64
TOTAL_BYTES = 16 * 1024**3
STATE_BYTES = 64  # words 0..15, which the CPU writes
DTYPE_BYTES = {"uint32": 4, "float16": 2, "float32": 4}
MAX_INTEGER = 2**53 - 1  # what a JSON number holds exactly everywhere
COUNT_LIMITS = {
    "files": 4096,
    "records": 65536,
    "variants": 16,
    "buffers": 16384,
    "kernels": 4096,
    "dispatches": 65536,
    "alternatives": 8,
}

# What stands in the place of WebGPU's limits in plans of the CPU, where `grid` counts items along one axis.
WASM_LIMITS = {
    "maxBufferSize": TOTAL_BYTES,
    "maxStorageBufferBindingSize": TOTAL_BYTES,
    "maxStorageBuffersPerShaderStage": 16,
    "maxComputeWorkgroupStorageSize": 0,
    "maxComputeInvocationsPerWorkgroup": 1,
    "maxComputeWorkgroupSizeX": 1,
    "maxComputeWorkgroupSizeY": 1,
    "maxComputeWorkgroupSizeZ": 1,
    "maxComputeWorkgroupsPerDimension": 2**31 - 1,
}

MAX_TOLERANCE = 0.1  # of logits, as a part of the largest
SMOKE_IDS = 16
SMOKE_LOGITS = 64  # at the top, and others
FLOAT_MAX = 3.4e38  # of float32

BUFFER_KINDS = ("weight", "constant", "kv", "heard", "state", "io", "scratch")
SPEECH_TOKENS = ("start", "end", "translate", "transcribe", "previous", "no_speech", "no_timestamps")


@dataclass(frozen=True)
class Part:
    """Rows `[row, row + rows)` of a tensor: `bytes` bytes of a shard from `offset` on."""

    file: str
    offset: int
    bytes: int
    row: int
    rows: int


@dataclass(frozen=True)
class Tensor:
    """A stored tensor and where its rows lie, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]


def validate(model: Any, tensor_cache: Any, plans: Mapping[str, Any]) -> dict[str, Tensor]:
    """Checks a whole manifest; `plans` maps variant names to the content of their `plan.json`.

    `tensor_cache` is None when the artifact was compiled without weights. Returns the tensors by name.
    Raises WispError at the first thing that does not hold.
    """
    validate_model(model)
    tensors = {}
    if model["weights"] is not None:
        tensors = validate_tensor_cache(tensor_cache, model)
    for variant in model["variants"]:
        validate_plan(plans.get(variant["name"]), variant, model, tensors)
    return tensors


# ------------------------------------------------------------------------------------------------------- small pieces


def fail(where: str, got: object, expected: str) -> NoReturn:
    shown = repr(got)
    raise WispError(
        f"the artifact is not valid: {where}",
        got=shown if len(shown) <= 120 else shown[:117] + "...",
        expected=expected,
        remedy="compile it again",
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        fail(where, value, "an object")
    return value


def _list(value: Any, where: str, limit: str | None = None) -> list[Any]:
    if not isinstance(value, list):
        fail(where, value, "a list")
    if limit is not None and len(value) > COUNT_LIMITS[limit]:
        fail(where, f"{len(value)} entries", f"at most {COUNT_LIMITS[limit]}")
    return value


def _integer(value: Any, where: str, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        fail(where, value, f"a whole number from {minimum} to {maximum}")
    return value


def _number(value: Any, where: str, minimum: float, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        fail(where, value, f"a number from {minimum:g} to {maximum:g}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        fail(where, value, "a string")
    return value


def _one_of(value: Any, where: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        fail(where, value, " or ".join(allowed))
    return value


def _format(document: dict[str, Any], where: str, name: str) -> None:
    if document.get("format") != name:
        fail(f"{where} format", document.get("format"), name)
    version = document.get("format_version")
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise WispError(
            f"the artifact has another format version ({where} format_version)",
            got=version,
            expected=FORMAT_VERSION,
            remedy="compile it again with this version of Wisp, or use the version that wrote it",
        )


def is_safe_path(path: object) -> bool:
    """Whether a path stays inside the artifact: plain names between slashes, none hidden, at most 200 characters."""
    return (
        isinstance(path, str)
        and len(path) <= 200
        and re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_\-.]*(/[A-Za-z0-9_\-][A-Za-z0-9_\-.]*)*", path) is not None
    )


def is_safe_id(name: object) -> bool:
    """Whether a name can be a model's id: one plain name."""
    return isinstance(name, str) and is_safe_path(name) and "/" not in name


def is_web_address(text: object) -> bool:
    """Whether a page may link to a text: http or https, without spaces, at most 500 characters."""
    return isinstance(text, str) and len(text) <= 500 and re.fullmatch(r"https?://[!-~]+", text) is not None


# --------------------------------------------------------------------------------------------------------- model.json


def validate_model(model: Any) -> None:
    """`model.json` by itself."""
    _format(_object(model, "model.json"), "model.json", "wisp")
    if not is_safe_id(model.get("id")):
        fail("model.json id", model.get("id"), "letters, digits, '.', '_' and '-'")
    source = _object(model.get("source"), "model.json source")
    for key in ("kind", "id"):
        _text(source.get(key), f"model.json source.{key}")
    if source.get("revision") is not None:
        _text(source["revision"], "model.json source.revision")
    for name in _list(source.get("ignored_fields", []), "model.json source.ignored_fields", "records"):
        _text(name, "model.json source.ignored_fields")
    if model.get("license") is not None:
        _text(model["license"], "model.json license")
    if model.get("homepage") is not None and not is_web_address(model["homepage"]):
        fail("model.json homepage", model["homepage"], "an address that begins with https:// or http://")
    architecture = _object(model.get("architecture"), "model.json architecture")
    _text(architecture.get("model_type"), "model.json architecture.model_type")
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        _integer(architecture.get(key), f"model.json architecture.{key}", minimum=1)
    vocab_size = _integer(architecture.get("vocab_size"), "model.json architecture.vocab_size", 1, 2**31 - 1)
    if "embedding" in model:
        pooling = _object(model["embedding"], "model.json embedding").get("pooling")
        _one_of(pooling, "model.json embedding.pooling", ("last", "mean"))
    if "speech" in model:
        _validate_speech(model["speech"], vocab_size)
    for key in ("parameters", "weight_bytes"):
        _integer(model.get(key), f"model.json {key}")
    _integer(model.get("context"), "model.json context", 1, 2**31 - 1)
    _text(model.get("quantization"), "model.json quantization")
    _validate_schemes(model)
    if model.get("bos_token_id") is not None:
        _integer(model["bos_token_id"], "model.json bos_token_id", maximum=vocab_size - 1)
    for token in _list(model.get("stop_token_ids"), "model.json stop_token_ids", "records"):
        _integer(token, "model.json stop_token_ids", maximum=vocab_size - 1)
    _validate_generation(model.get("generation"))
    if model.get("chat_template") is not None:
        _text(model["chat_template"], "model.json chat_template")
    if "chat_template_tree" in model:
        if model.get("chat_template") is None:
            fail("model.json chat_template_tree", "a tree", "nothing, where there is no chat_template")
        validate_tree(model["chat_template_tree"], "model.json chat_template_tree")
    files = _validate_files(model.get("files"))
    for name in _list(model.get("tokenizer"), "model.json tokenizer", "files"):
        _listed(name, files, "model.json tokenizer")
    if model.get("weights", "") is not None:
        _listed(model.get("weights"), files, "model.json weights")
    if "smoke" in model:
        _validate_smoke(model["smoke"], vocab_size, output_size(model), model["context"])
    _validate_variants(model.get("variants"), files)


def _validate_speech(speech: Any, vocab_size: int) -> None:
    """What a model that transcribes says of its windows and its tokens."""
    where = "model.json speech"
    for key, most in (("mel_bands", 128), ("positions", 1 << 16), ("encoder_layers", 1 << 10)):
        _integer(_object(speech, where).get(key), f"{where}.{key}", 1, most)
    if speech.get("tokens") is None:
        return
    tokens = _object(speech["tokens"], f"{where}.tokens")
    for key in SPEECH_TOKENS:
        _integer(tokens.get(key), f"{where}.tokens.{key}", maximum=vocab_size - 1)
    for name, token in _object(tokens.get("languages"), f"{where}.tokens.languages").items():
        _integer(token, f"{where}.tokens.languages[{name}]", maximum=vocab_size - 1)
    for key in ("suppress", "begin_suppress"):
        for token in _list(tokens.get(key), f"{where}.tokens.{key}", "records"):
            _integer(token, f"{where}.tokens.{key}", maximum=vocab_size - 1)


def _validate_schemes(model: dict[str, Any]) -> None:
    """Which matrices are stored in other schemes, and what became of values that the source had quantized."""
    schemes = _object(model.get("schemes", {}), "model.json schemes")
    if len(schemes) > COUNT_LIMITS["records"]:
        fail("model.json schemes", f"{len(schemes)} entries", f"at most {COUNT_LIMITS['records']}")
    for name, scheme in schemes.items():
        _text(scheme, f"model.json schemes[{name}]")
    if "source_values" not in model:
        return
    where = "model.json source_values"
    values = _object(model["source_values"], where)
    for name, count in _object(values.get("formats"), f"{where}.formats").items():
        _integer(count, f"{where}.formats[{name}]", minimum=1)
    for key in ("exact", "rounded", "requantized"):
        _integer(values.get(key), f"{where}.{key}")
    _number(values.get("squared_error"), f"{where}.squared_error", 0, FLOAT_MAX)


def _validate_generation(generation: Any) -> None:
    where = "model.json generation"
    _object(generation, where)
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        least, most, whole = SAMPLING_RANGES[name]
        value = _number(generation.get(name), f"{where}.{name}", least, most)
        if whole:
            _integer(value, f"{where}.{name}", int(least), int(most))


def output_size(model: Mapping[str, Any]) -> int:
    """How many numbers a step computes: logits, or what an embedding has."""
    size: int = model["architecture"]["hidden_size" if "embedding" in model else "vocab_size"]
    return size


def _validate_smoke(smoke: Any, vocab_size: int, outputs: int, context: int) -> None:
    where = "model.json smoke"
    ids = _list(_object(smoke, where).get("ids"), f"{where}.ids")
    if not 1 <= len(ids) <= min(SMOKE_IDS, context):
        fail(f"{where}.ids", f"{len(ids)} ids", f"1 to {SMOKE_IDS}, no more than the context")
    for token in ids:
        _integer(token, f"{where}.ids", maximum=vocab_size - 1)
    scale = _number(smoke.get("scale"), f"{where}.scale", 0, FLOAT_MAX)
    if scale == 0:
        fail(f"{where}.scale", scale, "more than 0")
    if _number(smoke.get("tolerance"), f"{where}.tolerance", 0, MAX_TOLERANCE) == 0:
        fail(f"{where}.tolerance", 0, "more than 0")
    seen: set[int] = set()
    last = scale
    for key in ("top", "others"):
        pairs = _list(smoke.get(key), f"{where}.{key}")
        if len(pairs) > SMOKE_LOGITS or (key == "top" and not pairs):
            fail(f"{where}.{key}", f"{len(pairs)} logits", f"at most {SMOKE_LOGITS}, and one at the top")
        for i, pair in enumerate(pairs):
            if len(_list(pair, f"{where}.{key}[{i}]")) != 2:
                fail(f"{where}.{key}[{i}]", pair, "an id and its logit")
            token = _integer(pair[0], f"{where}.{key}[{i}]", maximum=outputs - 1)
            if token in seen:
                fail(f"{where}.{key}[{i}]", token, "an id that comes once")
            seen.add(token)
            logit = _number(pair[1], f"{where}.{key}[{i}]", -scale, last)
            if key == "top":
                last = logit


def _validate_files(files: Any) -> dict[str, Any]:
    _object(files, "model.json files")
    if len(files) > COUNT_LIMITS["files"]:
        fail("model.json files", f"{len(files)} files", f"at most {COUNT_LIMITS['files']}")
    total = 0
    for name, entry in files.items():
        if not is_safe_path(name) or name == "model.json":
            fail("a path in model.json files", name, "a relative path of plain names, at most 200 characters")
        total += _integer(_object(entry, f"model.json files[{name}]").get("bytes"), f"model.json files[{name}].bytes")
        sha256 = entry.get("sha256")
        if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            fail(f"model.json files[{name}].sha256", sha256, "64 hex digits")
    if total > TOTAL_BYTES:
        fail("the total of model.json files", f"{total} bytes", f"at most {TOTAL_BYTES}")
    return files


def _listed(name: Any, files: dict[str, Any], where: str) -> None:
    if not isinstance(name, str) or name not in files:
        fail(where, name, "a name that model.json files lists")


def _validate_variants(variants: Any, files: dict[str, Any]) -> None:
    names = set()
    for i, variant in enumerate(_list(variants, "model.json variants", "variants")):
        where = f"model.json variants[{i}]"
        name = _object(variant, where).get("name")
        if not isinstance(name, str) or not is_safe_id(name) or name in names:
            fail(f"{where}.name", name, "a plain name that no other variant has")
        names.add(name)
        backend = _one_of(variant.get("backend"), f"{where}.backend", ("webgpu", "wasm"))
        _one_of(variant.get("activation_dtype"), f"{where}.activation_dtype", ("float16", "float32"))
        _one_of(variant.get("kv_dtype", "float32"), f"{where}.kv_dtype", ("float16", "float32", "q8"))
        for feature in _list(variant.get("required_features"), f"{where}.required_features"):
            _text(feature, f"{where}.required_features")
        for limit, value in _object(variant.get("required_limits"), f"{where}.required_limits").items():
            _integer(value, f"{where}.required_limits.{limit}", minimum=1)
        for key in ("plan", "kernels"):
            _listed(variant.get(key), files, f"{where}.{key}")
        if backend == "wasm":
            _validate_wasm_variant(variant, files, where)
        for key in ("kv_bytes_per_token", "activation_bytes", "dispatches_per_token"):
            _integer(variant.get(key), f"{where}.{key}")
        for chunk, count in _object(variant.get("prefill_dispatches"), f"{where}.prefill_dispatches").items():
            if not re.fullmatch(r"[1-9][0-9]{0,8}", chunk):
                fail(f"{where}.prefill_dispatches", chunk, "chunk sizes")
            _integer(count, f"{where}.prefill_dispatches[{chunk}]")
    if not names:
        fail("model.json variants", variants, "at least one")


def _validate_wasm_variant(variant: dict[str, Any], files: dict[str, Any], where: str) -> None:
    """What FORMAT.md's "Plans of the CPU" says of a variant."""
    _one_of(variant["activation_dtype"], f"{where}.activation_dtype of a CPU variant", ("float32",))
    for feature in variant["required_features"]:
        _one_of(feature, f"{where}.required_features of a CPU variant", ("simd",))
    if variant["required_limits"]:
        fail(f"{where}.required_limits of a CPU variant", variant["required_limits"], "none")
    for key in ("kernels", "kernels_relaxed"):
        if key in variant:
            _listed(variant[key], files, f"{where}.{key}")
            if not variant[key].endswith(".wasm"):
                fail(f"{where}.{key} of a CPU variant", variant[key], "a .wasm file")


# --------------------------------------------------------------------------------------------------- tensor-cache.json


def validate_tensor_cache(cache: Any, model: dict[str, Any]) -> dict[str, Tensor]:
    """`tensor-cache.json` against the files and the byte count of a valid `model.json`."""
    where = "tensor-cache.json"
    shards = _list(_object(cache, where).get("records"), f"{where} records", "files")
    parts: dict[str, list[tuple[dict[str, Any], Part]]] = {}
    seen: set[str] = set()
    total = records = 0
    for shard in shards:
        file = _object(shard, f"{where} records").get("dataPath")
        if not isinstance(file, str) or not is_safe_path(file):
            fail(f"the path of a shard in {where}", file, "a relative path of plain names")
        if file in seen:
            fail(f"{where} lists {file}", "twice", "once")
        seen.add(file)
        if shard.get("format") != "raw-shard":
            fail(f"{where} {file} format", shard.get("format"), "raw-shard")
        entries = _list(shard.get("records"), f"{where} {file} records", "records")
        records += len(entries)
        if records > COUNT_LIMITS["records"]:
            fail(f"{where} records", records, f"at most {COUNT_LIMITS['records']}")
        end = 0
        for entry in entries:
            part = _validate_record(entry, file, end)
            parts.setdefault(entry["name"], []).append((entry, part))
            end = part.offset + part.bytes
        nbytes = _integer(shard.get("nbytes"), f"{where} {file} nbytes", minimum=1)
        if nbytes != end:
            fail(f"{where} {file} nbytes", nbytes, f"{end}, the end of its last record")
        if nbytes > MAX_SHARD_BYTES and (len(entries) != 1 or "rowOffset" in entries[0]):
            fail(f"{where} {file} nbytes", nbytes, f"at most {MAX_SHARD_BYTES}, but for a tensor alone in a shard")
        if file not in model["files"] or model["files"][file]["bytes"] != nbytes:
            fail(f"{where} {file}", model["files"].get(file), f"a file of {nbytes} bytes in model.json")
        total += nbytes
    if total != model["weight_bytes"]:
        fail("model.json weight_bytes", model["weight_bytes"], f"{total}, what the shards hold")
    for name in model.get("schemes", {}):
        if not any(f"{name}.{suffix}" in parts for suffix in ("q_weight", "weight")):
            fail("model.json schemes", name, "a matrix that tensor-cache.json lists")
    return {name: _join(name, entries) for name, entries in parts.items()}


def _validate_record(entry: Any, file: str, end: int) -> Part:
    """One record, which has to begin where the one before it ended."""
    where = f"tensor-cache.json {file}"
    name = _text(_object(entry, where).get("name"), f"{where} name")
    where += f" {name}"
    dtype = _one_of(entry.get("dtype"), f"{where} dtype", tuple(DTYPE_BYTES))
    _one_of(entry.get("format"), f"{where} format", ("raw", "f32-to-bf16"))
    shape = _list(entry.get("shape"), f"{where} shape")
    if not 1 <= len(shape) <= 4:
        fail(f"{where} shape", shape, "one to four sizes")
    for size in shape:
        _integer(size, f"{where} shape", 1, 2**32)
    nbytes = _integer(entry.get("nbytes"), f"{where} nbytes", minimum=1)
    if math.prod(shape) * DTYPE_BYTES[dtype] != nbytes:
        fail(f"{where} shape times dtype", math.prod(shape) * DTYPE_BYTES[dtype], f"{nbytes}, its nbytes")
    offset = _integer(entry.get("byteOffset"), f"{where} byteOffset")
    if offset != end:
        kind = "hole" if offset > end else "overlap"
        fail(f"{where} byteOffset leaves a{'n' if kind == 'overlap' else ''} {kind}", offset, f"{end}")
    row = _integer(entry.get("rowOffset", 0), f"{where} rowOffset")
    return Part(file, offset, nbytes, row, shape[0])


def _join(name: str, entries: list[tuple[dict[str, Any], Part]]) -> Tensor:
    """The tensor whose parts these are: they have to follow each other from row 0 to the last."""
    where = f"tensor-cache.json {name}"
    first, _ = entries[0]
    if not all("rowOffset" in entry and "rows" in entry for entry, _ in entries):
        if len(entries) > 1 or "rowOffset" in first or "rows" in first:
            fail(f"{where} is a duplicate", f"{len(entries)} records", "one, or parts with rowOffset and rows")
        return Tensor(name, first["dtype"], tuple(first["shape"]), tuple(part for _, part in entries))
    rows = _integer(first["rows"], f"{where} rows", minimum=1)
    end = 0
    for entry, part in sorted(entries, key=lambda e: e[1].row):
        if entry["dtype"] != first["dtype"]:
            fail(f"{where} dtype differs between parts", entry["dtype"], first["dtype"])
        if entry["shape"][1:] != first["shape"][1:] or entry["rows"] != rows:
            fail(f"{where} shape or rows differ between parts", (entry["shape"], entry["rows"]), f"as in {first}")
        if part.row != end:
            fail(f"{where} rows of its parts", f"a part from row {part.row}", f"one from row {end}")
        end += part.rows
        if end < rows and part.rows % SPLIT_ROWS:
            fail(f"{where} rows of a part", part.rows, f"a multiple of {SPLIT_ROWS} in every part but the last")
    if end != rows:
        fail(f"{where} rows of its parts", end, f"{rows}")
    parts = tuple(sorted((part for _, part in entries), key=lambda part: part.row))
    return Tensor(name, first["dtype"], (rows, *first["shape"][1:]), parts)


# ----------------------------------------------------------------------------------------------------------- plan.json


def validate_plan(plan: Any, variant: dict[str, Any], model: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A variant's `plan.json` against a valid `model.json` and its tensors (none when compiled without weights)."""
    where = variant["plan"]
    limits = WASM_LIMITS if variant["backend"] == "wasm" else DEFAULT_LIMITS | variant["required_limits"]
    _format(_object(plan, where), where, "wisp-plan")
    facts = {"variant": variant["name"], "activation_dtype": variant["activation_dtype"], "context": model["context"]}
    facts["vocab_size"] = model["architecture"]["vocab_size"]
    for key, expected in facts.items():
        if plan.get(key) != expected or isinstance(plan[key], bool):
            fail(f"{where} {key}", plan.get(key), f"{expected!r}, as in model.json")
    _integer(plan.get("ring_size"), f"{where} ring_size", minimum=1)
    chunks = _list(plan.get("prefill_chunks"), f"{where} prefill_chunks")
    for chunk in chunks:
        _integer(chunk, f"{where} prefill_chunks", 1, model["context"])
    if len(set(chunks)) != len(chunks):
        fail(f"{where} prefill_chunks", chunks, "each size once")
    buffers = _validate_buffers(plan, where, model, tensors, limits)
    kernels = _list(plan.get("kernels"), f"{where} kernels", "kernels")
    for i, kernel in enumerate(kernels):
        _validate_kernel(kernel, f"{where} kernels[{i}]", limits)
    programs = _object(plan.get("programs"), f"{where} programs")
    expected_programs: dict[str, int | None] = {"decode": variant["dispatches_per_token"]}
    expected_programs |= {f"prefill_{chunk}": variant["prefill_dispatches"].get(str(chunk)) for chunk in chunks}
    if "speech" in model:
        expected_programs["encode"] = _integer(variant.get("encode_dispatches"), f"{where} encode_dispatches", 1)
    elif "mask" in programs and "embedding" not in model:  # optional: artifacts of earlier compilers have none
        expected_programs["mask"] = 1
    if (verify := _verify_program(programs, chunks)) is not None and "embedding" not in model:
        expected_programs[verify] = None
    if programs.keys() != expected_programs.keys() or len(variant["prefill_dispatches"]) != len(chunks):
        different = sorted(programs.keys() ^ expected_programs.keys())
        fail(f"{where} programs differ from prefill_chunks", different, "decode and one prefill_N for each chunk")
    for name, count in expected_programs.items():
        dispatches = _validate_program(programs[name], f"{where} programs.{name}", kernels, buffers, limits)
        for i, dispatch in enumerate(dispatches):
            if variant["backend"] == "wasm" and dispatch["grid"][1:] != [1, 1]:
                fail(f"{where} programs.{name}[{i}].grid", dispatch["grid"], "[items, 1, 1] in a plan of the CPU")
        if name == "mask" and len(dispatches) != 1:
            fail(f"{where} programs.mask", f"{len(dispatches)} dispatches", "one")
        if count is not None and len(dispatches) != count:
            key = "dispatches_per_token" if name == "decode" else f"prefill_dispatches of {name}"
            fail(f"model.json {key}", count, f"{len(dispatches)}, as in {where}")
    if "alternatives" in plan:
        _validate_alternatives(plan, variant, model, limits)


def _verify_program(programs: Mapping[str, Any], chunks: Sequence[int]) -> str | None:
    """The name of the program that verifies a draft, of rows that `input_ids` has room for; optional."""
    for name in programs:
        found = re.fullmatch(r"verify_([1-9]\d{0,3})", name)
        if found and 2 <= int(found[1]) <= max(chunks, default=0):
            return name
    return None


def _validate_alternatives(
    plan: dict[str, Any], variant: dict[str, Any], model: dict[str, Any], limits: dict[str, int]
) -> None:
    """The alternatives of a plan whose own programs, kernels and buffers are valid."""
    where = f"{variant['plan']} alternatives"
    alternatives = _list(plan["alternatives"], where, "alternatives")
    if variant["backend"] == "wasm" and alternatives:
        fail(where, f"{len(alternatives)} entries", "none in a plan of the CPU")
    names: set[str] = set()
    files = {variant["kernels"]}
    for i, alternative in enumerate(alternatives):
        here = f"{where}[{i}]"
        name = _object(alternative, here).get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) or name in names:
            fail(f"{here}.name", name, "small letters, digits and _, a name that no other alternative has")
        names.add(name)
        file = alternative.get("kernels_file")
        _listed(file, model["files"], f"{here}.kernels_file")
        if file in files:
            fail(f"{here}.kernels_file", file, "a module that nothing else uses")
        files.add(file)
        for feature in _list(alternative.get("language_features"), f"{here}.language_features", "alternatives"):
            if not isinstance(feature, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", feature):
                fail(f"{here}.language_features", feature, "names of WGSL language features")
        for vendor in _list(alternative.get("preferred_on", []), f"{here}.preferred_on", "alternatives"):
            if not isinstance(vendor, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", vendor):
                fail(f"{here}.preferred_on", vendor, "names of GPU vendors")
        if _number(alternative.get("tolerance"), f"{here}.tolerance", 0, MAX_TOLERANCE) == 0:
            fail(f"{here}.tolerance", 0, "more than 0")
        own = _list(alternative.get("kernels"), f"{here}.kernels", "kernels")
        for k, kernel in enumerate(own):
            _validate_kernel(kernel, f"{here}.kernels[{k}]", limits)
        programs = _object(alternative.get("programs"), f"{here}.programs")
        own_programs = {name for name in plan["programs"] if name == "decode" or name.startswith("prefill_")}
        if not programs or not programs.keys() <= own_programs:
            known = ", ".join(name for name in plan["programs"] if name in own_programs)
            fail(f"{here}.programs", sorted(programs), f"at least one, each a name of the plan's programs ({known})")
        for program, dispatches in programs.items():
            place = f"{here}.programs.{program}"
            _validate_program(dispatches, place, plan["kernels"] + own, plan["buffers"], limits)


def _validate_program(
    program: Any, where: str, kernels: list[Any], buffers: list[dict[str, Any]], limits: dict[str, int]
) -> list[Any]:
    dispatches = _list(program, where, "dispatches")
    for i, dispatch in enumerate(dispatches):
        _validate_dispatch(dispatch, f"{where}[{i}]", kernels, buffers, limits)
    return dispatches


def _validate_buffers(
    plan: dict[str, Any], where: str, model: dict[str, Any], tensors: dict[str, Tensor], limits: dict[str, int]
) -> list[dict[str, Any]]:
    buffers = _list(plan.get("buffers"), f"{where} buffers", "buffers")
    largest = min(limits["maxStorageBufferBindingSize"], limits["maxBufferSize"])
    owners: dict[str, dict[str, Any]] = {}
    for i, buffer in enumerate(buffers):
        here = f"{where} buffers[{i}]"
        kind = _one_of(_object(buffer, here).get("kind"), f"{here}.kind", BUFFER_KINDS)
        name = _text(buffer.get("name"), f"{here}.name")
        nbytes = _integer(buffer.get("bytes"), f"{here}.bytes", minimum=1)
        if nbytes > largest:
            fail(f"{here}.bytes ({name})", nbytes, f"at most {largest}")
        match kind:
            case "weight":
                _validate_weight(buffer, f"{here} {name}", tensors if model["weights"] is not None else None)
                continue  # a tensor may be several buffers
            case "constant":
                available = model["files"].get("constants.bin", {"bytes": 0})["bytes"]
                offset = _integer(buffer.get("offset"), f"{here}.offset")
                if offset + nbytes > available:
                    fail(f"{here} ({name})", f"bytes up to {offset + nbytes}", f"at most {available}, as constants.bin")
            case "kv":
                per_position = _integer(buffer.get("bytes_per_position"), f"{here}.bytes_per_position", minimum=1)
                if per_position * model["context"] != nbytes:
                    fail(f"{here}.bytes_per_position times context", per_position * model["context"], f"{nbytes}")
            case _:
                pass
        if name in owners:
            fail(f"{here}.name", name, "a name that no other buffer has")
        owners[name] = buffer
    vocab_size = model["architecture"]["vocab_size"]
    required = {
        "state": ("state", STATE_BYTES),
        "input_ids": ("io", 4 * max(plan["prefill_chunks"], default=0)),
    }
    if "embedding" in model:
        required["embedding"] = ("io", 4 * output_size(model))
    elif "speech" in model:
        required |= _required_to_hear(model)
    else:
        required |= {
            "token_ring": ("io", 4 * plan["ring_size"]),
            "token_counts": ("io", 4 * vocab_size),
            "logits": ("io", 4 * vocab_size),
        }
    if "mask" in _object(plan.get("programs"), f"{where} programs"):
        required |= {"logit_mask": ("io", 4 * -(-vocab_size // 32)), "logit_bias": ("io", 4 * vocab_size)}
    for name, (kind, least) in required.items():
        found = owners.get(name, {})
        if found.get("kind") != kind or found["bytes"] < least:
            fail(f"{where} buffer {name}", found or None, f"of kind {kind} with at least {least} bytes")
    return buffers


def _required_to_hear(model: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """The buffers of a model that transcribes: (kind, least bytes)."""
    architecture, speech = model["architecture"], model["speech"]
    states = speech["positions"] * architecture["hidden_size"]
    heard = {f"heard.{i}": ("heard", 8 * states) for i in range(architecture["num_hidden_layers"])}
    return heard | {
        "logits": ("io", 4 * architecture["vocab_size"]),
        "mel": ("io", 8 * speech["mel_bands"] * speech["positions"]),
        "encoder_states": ("io", 4 * states),
    }


def _validate_weight(buffer: dict[str, Any], where: str, tensors: dict[str, Tensor] | None) -> None:
    dtype = _one_of(buffer.get("dtype"), f"{where} dtype", tuple(DTYPE_BYTES))
    shape = _list(buffer.get("shape"), f"{where} shape")
    for size in shape:
        _integer(size, f"{where} shape", 1, 2**32)
    rows = _list(buffer.get("rows"), f"{where} rows")
    if len(rows) != 2 or not shape:
        fail(f"{where} rows", rows, "[start, stop]")
    start = _integer(rows[0], f"{where} rows", maximum=shape[0] - 1)
    stop = _integer(rows[1], f"{where} rows", start + 1, shape[0])
    expected = (stop - start) * math.prod(shape[1:]) * DTYPE_BYTES[dtype]
    if tensors is not None:
        if buffer["name"] not in tensors:
            fail(f"{where} is a weight", "no such tensor", "one that tensor-cache.json lists")
        tensor = tensors[buffer["name"]]
        if dtype != tensor.dtype:
            fail(f"{where} dtype", dtype, tensor.dtype)
        if tuple(shape) != tensor.shape:
            fail(f"{where} shape", shape, str(list(tensor.shape)))
    if buffer["bytes"] != expected:
        fail(f"{where} bytes", buffer["bytes"], f"{expected}, what its rows take")


def _validate_kernel(kernel: Any, where: str, limits: dict[str, int]) -> None:
    entry = _text(_object(kernel, where).get("entry"), f"{where}.entry")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,255}", entry):
        fail(f"{where}.entry", entry, "an identifier")
    size = _list(kernel.get("workgroup_size"), f"{where}.workgroup_size")
    if len(size) != 3:
        fail(f"{where}.workgroup_size", size, "three numbers")
    for axis, value in zip("XYZ", size, strict=True):
        _integer(value, f"{where}.workgroup_size", 1, limits[f"maxComputeWorkgroupSize{axis}"])
    if math.prod(size) > limits["maxComputeInvocationsPerWorkgroup"]:
        most = limits["maxComputeInvocationsPerWorkgroup"]
        fail(f"{where}.workgroup_size", f"{math.prod(size)} invocations", f"at most {most}")
    storage = limits["maxComputeWorkgroupStorageSize"]
    _integer(kernel.get("workgroup_bytes"), f"{where}.workgroup_bytes", maximum=storage)
    bindings = _list(kernel.get("bindings"), f"{where}.bindings")
    if len(bindings) > limits["maxStorageBuffersPerShaderStage"]:
        most = limits["maxStorageBuffersPerShaderStage"]
        fail(f"{where}.bindings", f"{len(bindings)} buffers", f"at most {most}")
    for access in bindings:
        _one_of(access, f"{where}.bindings", ("read", "read_write"))


def _validate_dispatch(
    dispatch: Any, where: str, kernels: list[Any], buffers: list[dict[str, Any]], limits: dict[str, int]
) -> None:
    index = _integer(_object(dispatch, where).get("kernel"), f"{where}.kernel", maximum=len(kernels) - 1)
    accesses = kernels[index]["bindings"]
    bind = _list(dispatch.get("bind"), f"{where}.bind")
    if len(bind) != len(accesses):
        fail(f"{where}.bind", bind, f"{len(accesses)} buffers, one for each binding of {kernels[index]['entry']}")
    for buffer in bind:
        _integer(buffer, f"{where}.bind", maximum=len(buffers) - 1)
    for buffer, access in zip(bind, accesses, strict=True):
        if access == "read_write" and bind.count(buffer) > 1:
            fail(f"{where}.bind names a written buffer twice", bind, "each written buffer once")
        if access == "read_write" and buffers[buffer]["kind"] in ("weight", "constant"):
            fail(f"{where}.bind", buffers[buffer]["name"], "weights and constants to be read only")
    grid = _list(dispatch.get("grid"), f"{where}.grid")
    if len(grid) != 3:
        fail(f"{where}.grid", grid, "three numbers")
    for value in grid:
        _integer(value, f"{where}.grid", 1, limits["maxComputeWorkgroupsPerDimension"])
