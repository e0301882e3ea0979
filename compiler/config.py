"""A recipe or a source argument -> a frozen BuildConfig: every default and every validation of what a user can ask.

Knows names and ranges; opens recipes and nothing else. What depends on the checkpoint (the default context) is a
function of its configuration here, so that `build.py` decides nothing.
"""

import contextlib
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

from .artifact.manifest import is_safe_id, is_web_address
from .artifact.state import SAMPLING_RANGES
from .errors import WispError
from .models.base import Role
from .models.fields import shortened
from .places import CONFIGS
from .sources.files import checked_file, is_ggml
from .sources.hub import gguf_in_hub, is_hub_id
from .target.variants import FORMER, VARIANTS
from .weights.choice import AUTO, DEFAULT_QUANTIZATION
from .weights.scales import RULES, Rule
from .weights.schemes import SCHEMES, with_exceptions

Kv = Literal["auto", "f16", "q8"]
KV: tuple[Kv, ...] = get_args(Kv)
DEFAULT_SCALES: Rule = "search"  # tests/benchmarks/README.md has the evidence
DEFAULT_CONTEXT = 4096
DEFAULT_PREFILL_CHUNKS = (256, 64, 16, 8)
SMALLEST_CONTEXT, LARGEST_CONTEXT = 16, 1 << 20
LARGEST_CHUNK = 4096
SourceKind = Literal["directory", "hub", "gguf", "ggml"]
ARTIFACTS = Path("artifacts")
BESIDE = "wisp.toml"  # a recipe that a checkpoint's directory may hold: what its author recommends
# What it may say. Where the artifact goes, what it is called and what is ignored is the user's to say.
BESIDE_KEYS = frozenset(
    (
        "name",
        "quantization",
        "quantization_overrides",
        "scales",
        "context",
        "prefill_chunks",
        "variants",
        "kv",
        "suggestions",
        "license",
        "homepage",
        "generation",
    )
)

# Greedy answers of small models loop; these are what a chat starts with when the checkpoint says nothing.
DEFAULT_GENERATION = {"temperature": 0.7, "top_k": 0, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.0}
RECIPE_TYPES: dict[str, type] = {
    "source": str,
    "revision": str,
    "id": str,
    "name": str,
    "quantization": str,
    "quantization_overrides": dict,
    "scales": str,
    "context": int,
    "prefill_chunks": list,
    "variants": list,
    "kv": str,
    "suggestions": list,
    "license": str,
    "homepage": str,
    "generation": dict,
    "architecture": dict,
    "ignore_fields": list,
}


@dataclass(frozen=True)
class BuildConfig:
    """What to compile and where to. `context` None: as `default_context` says for the checkpoint.

    Variants that nobody named (`variants_named`) are those there are, less the ones that the model does not fit.
    """

    source: str
    source_kind: Literal["directory", "hub", "gguf", "ggml"]
    revision: str | None
    architecture: Mapping[str, Any] | None  # config.json fields of a recipe: lets `--weights none` work without network
    id: str
    name: str
    quantization: str  # a scheme of the table, or `auto`
    context: int | None
    prefill_chunks: tuple[int, ...]
    variants: tuple[str, ...]
    variants_named: bool
    generation: Mapping[str, float]  # what overrides the checkpoint's own defaults
    suggestions: tuple[str, ...]
    weights: Literal["full", "none"]
    mlc_shards: bool
    output: Path
    dump: Path | None
    lora: Path | None = None  # a PEFT adapter to merge
    scales: Rule = DEFAULT_SCALES
    quantization_overrides: Mapping[Role, str] = field(default_factory=dict)  # schemes of some matrices, by role
    calibration: Path | None = None  # a text whose activations weigh the error of the weights
    ignore_fields: tuple[str, ...] = ()  # unknown fields of config.json that the user says are inert
    output_named: bool = True  # by the user; else after the source, and then only an artifact of that source gives way
    license: str | None = None  # of the weights, as a page shows it; None: what the checkpoint says
    homepage: str | None = None  # where the model was published
    kv: Kv = "auto"  # how the cache keeps keys and values; `auto`: in 16 bits, and where that is much in 8 as well


class Options(TypedDict, total=False):
    """What may be asked for besides a source, as `wisp compile` does; what is absent, or None, is not asked for."""

    revision: str | None
    output: Path | None
    identifier: str | None
    quantization: str | None
    context: int | None
    variants: Iterable[str] | None
    kv: str | None
    weights: Literal["full", "none"]
    mlc_shards: bool
    lora: Path | None
    dump: Path | None
    scales: str | None
    calibration: Path | None
    ignore_fields: Iterable[str]
    recipe_for_source: Path | None  # a recipe without a source of its own


def resolve_config(source: str, **options: Unpack[Options]) -> BuildConfig:
    """The complete configuration for a recipe, a directory, a GGUF file or `org/name[@revision]`; options win.

    Raises WispError for whatever is not understood.
    """
    source = _that_comes_along(source)
    recipe_path = Path(source) if source.endswith(".toml") else None
    recipe = _recipe_of(source, recipe_path, options.get("recipe_for_source"))
    output, identifier, calibration = options.get("output"), options.get("identifier"), options.get("calibration")
    context, variants, weights = options.get("context"), options.get("variants"), options.get("weights", "full")
    location, kind, pinned = _locate(recipe.get("source"), recipe_path.parent if recipe_path is not None else None)
    default_id = Path(location).resolve().name if kind == "directory" else location.rsplit("/", 1)[-1]
    if kind != "directory" and default_id.lower().endswith(".gguf"):  # of several parts perhaps
        default_id = re.sub(r"-00001-of-\d{5}$", "", default_id[: -len(".gguf")])
    if kind == "ggml":
        default_id = default_id.removesuffix(".bin")
    if recipe_path is not None:
        default_id = recipe_path.stem
    scheme = _quantization(options.get("quantization") or recipe.get("quantization"))
    name = _id(identifier if identifier is not None else recipe.get("id", _slug(default_id)))
    return BuildConfig(
        source=location,
        source_kind=kind,
        revision=options.get("revision") or pinned or recipe.get("revision"),
        architecture=recipe.get("architecture"),
        id=name,
        name=recipe.get("name", name),
        quantization=scheme,
        context=_context(context if context is not None else recipe.get("context")),
        prefill_chunks=_chunks(recipe.get("prefill_chunks", DEFAULT_PREFILL_CHUNKS)),
        variants=_variants(recipe.get("variants", list(VARIANTS)) if variants is None else list(variants)),
        variants_named=variants is not None or "variants" in recipe,
        generation=_generation(recipe.get("generation", {}), "recipe [generation]"),
        suggestions=tuple(recipe.get("suggestions", ())),
        weights=weights,
        mlc_shards=options.get("mlc_shards", False),
        output=output if output is not None else ARTIFACTS / name,
        dump=options.get("dump"),
        lora=_lora(options.get("lora"), weights),
        scales=_scales(options.get("scales") or recipe.get("scales"), calibration),
        quantization_overrides=_overrides(scheme, recipe.get("quantization_overrides", {})),
        calibration=calibration,
        output_named=output is not None or identifier is not None or recipe_path is not None,
        ignore_fields=tuple(dict.fromkeys((*recipe.get("ignore_fields", ()), *options.get("ignore_fields", ())))),
        license=recipe.get("license"),
        homepage=_homepage(recipe.get("homepage")),
        kv=_kv(options.get("kv") or recipe.get("kv")),
    )


def _recipe_of(source: str, path: Path | None, for_source: Path | None) -> dict[str, Any]:
    """The recipe that is the source, that goes with it, or that lies beside it; else the source alone."""
    if for_source is not None:
        return {**_read_recipe(for_source), "source": source}
    if path is not None:
        return _read_recipe(path)
    beside = Path(source) / BESIDE
    if _what_is(beside) == "file":
        return {**_read_recipe(checked_file(beside), BESIDE_KEYS), "source": source}
    return {"source": source}


def default_context(raw: Mapping[str, Any]) -> int:
    """The context when none is asked for: what the checkpoint handles without tricks, at most 4096."""
    names = ("max_position_embeddings", "original_max_position_embeddings", "max_target_positions")
    limits = [raw.get(name) for name in names]
    usable = [limit for limit in limits if isinstance(limit, int) and limit >= SMALLEST_CONTEXT]
    return min([DEFAULT_CONTEXT, *usable])


def clip_prefill_chunks(chunks: tuple[int, ...], context: int) -> tuple[int, ...]:
    """The chunk sizes that fit the context, largest first; the context itself when none does."""
    return tuple(chunk for chunk in chunks if chunk <= context) or (context,)


def generation_defaults(checkpoint: Mapping[str, Any], overrides: Mapping[str, float]) -> dict[str, float]:
    """The sampling parameters of model.json: Wisp's, then generation_config.json's, then the recipe's."""
    stated = {key: checkpoint[key] for key in DEFAULT_GENERATION if checkpoint.get(key) is not None}
    if checkpoint.get("do_sample") is False:
        stated["temperature"] = 0
    return {**DEFAULT_GENERATION, **_generation(stated, "generation_config.json"), **overrides}


# ----------------------------------------------------------------------------------------------------------- one by one


def _read_recipe(path: Path, allowed: Collection[str] = RECIPE_TYPES) -> dict[str, Any]:
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WispError(
            "there is no such recipe", got=path, remedy="`wisp models` lists the ones that come along"
        ) from None
    except (OSError, ValueError) as error:
        raise WispError(f"the recipe {path} cannot be read", got=str(error), expected="a TOML file") from error
    unknown = sorted(set(recipe) - set(RECIPE_TYPES))
    if unknown:
        raise WispError(f"the recipe {path} has unknown keys", got=", ".join(unknown), expected=", ".join(allowed))
    presumed = sorted(set(recipe) - set(allowed))
    if presumed:
        raise WispError(
            f"{path} says what only the user may say, not a checkpoint",
            got=", ".join(presumed),
            expected=", ".join(sorted(allowed)),
            remedy="take it out; --name and -o name the output",
        )
    for key, value in recipe.items():
        if not isinstance(value, RECIPE_TYPES[key]):
            expected = f"a TOML value of type {RECIPE_TYPES[key].__name__}"
            raise WispError(f"recipe key '{key}' is not usable", got=shortened(value), expected=expected)
    for key in ("suggestions", "ignore_fields", "variants"):
        if not all(isinstance(text, str) for text in recipe.get(key, [])):
            raise WispError(
                f"recipe key '{key}' is not usable", got=shortened(recipe[key]), expected="a list of strings"
            )
    return recipe


def _that_comes_along(source: str) -> str:
    """Where the recipe or checkpoint of this name lies, `phi-2` or `configs/demo`, where no such file is here."""
    name = source.removeprefix("configs/")
    if re.fullmatch(r"\w[\w.-]*", name) and _what_is(Path(source)) is None:
        for path in (CONFIGS / name, CONFIGS / f"{name}.toml"):
            if _what_is(path) is not None:
                return str(path)
    return source


def _locate(source: Any, recipe_directory: Path | None) -> tuple[str, SourceKind, str | None]:
    """(path or Hub id, kind, revision after the @). In a recipe a path begins with '.' or '/' and is relative to it."""
    if not isinstance(source, str) or not source:
        raise WispError("the recipe has no source", expected="source = 'org/name' or a path that begins with ./ or /")
    path = Path(source)
    with contextlib.suppress(RuntimeError):  # the ~ of a user who is not there
        path = path.expanduser()
    if recipe_directory is not None and source.startswith("."):
        path = recipe_directory / source
    found = _what_is(path)
    if found == "directory" and (recipe_directory is None or source.startswith((".", "/", "~"))):
        return str(path), "directory", None
    if found == "file" and path.suffix.lower() == ".gguf":
        return str(path), "gguf", None
    if found == "file" and is_ggml(path):
        return str(path), "ggml", None
    if found == "file":
        raise WispError(
            "the source is a file of a kind that cannot be compiled",
            got=source,
            expected="a recipe (.toml), a GGUF file (.gguf), a Hugging Face directory or a Hub id",
            remedy="convert it to a Hugging Face checkpoint with safetensors first",
        )
    repo, _, revision = source.partition("@")
    if (is_hub_id(repo) or gguf_in_hub(repo)) and not source.startswith("."):
        return repo, "hub", revision or None
    raise WispError(
        "there is no such source",
        got=source[:200],
        expected="a recipe (.toml), a directory or GGUF file that exists, or a Hub id, org/name[/FILE.gguf][@revision]",
        remedy="check the spelling; `wisp models` lists the recipes that come along",
    )


def _what_is(path: Path) -> Literal["directory", "file"] | None:
    try:
        return "directory" if path.is_dir() else "file" if path.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-.") or "model"


def _id(name: str) -> str:
    if not is_safe_id(name) or len(name) > 100:
        raise WispError("the id is not usable", got=repr(name), expected="up to 100 letters, digits, '.', '_' and '-'")
    return name


def _homepage(value: str | None) -> str | None:
    if value is not None and not is_web_address(value):
        raise WispError(
            "recipe key 'homepage' is not usable", got=repr(value), expected="an address that is https://..."
        )
    return value


def _choice(what: str, value: str, allowed: Mapping[str, object]) -> str:
    if value not in allowed:
        raise WispError(f"the {what} is not known", got=repr(value), expected=" or ".join(allowed))
    return value


def _quantization(name: str | None) -> str:
    """The scheme that was asked for; `auto` otherwise: quantized weights are kept, floats become the default."""
    return _choice("quantization", name or AUTO, {AUTO: None, **SCHEMES})


def _overrides(scheme: str, overrides: Mapping[str, Any]) -> dict[Role, str]:
    """Schemes by role, without those that are the main one; with `auto` nobody knows yet what that is."""
    main = replace(SCHEMES[DEFAULT_QUANTIZATION], name=AUTO) if scheme == AUTO else SCHEMES[scheme]
    exceptions = with_exceptions(main, overrides, "recipe [quantization_overrides]").exceptions
    return {role: exception.name for (role, _), exception in exceptions}


def _scales(rule: Any, calibration: Path | None) -> Rule:
    """The rule that was asked for; the default otherwise."""
    chosen = next((known for known in RULES if known == (rule or DEFAULT_SCALES)), None)
    if chosen is None:
        raise WispError("the rule for scales is not known", got=repr(rule), expected=" or ".join(RULES))
    if calibration is not None and chosen != "search":
        raise WispError(
            "calibration weighs the errors that a search compares",
            got=f"--calibration with scales {chosen}",
            remedy="use --scales search, or leave --calibration out",
        )
    return chosen


def _kv(asked: str | None) -> Kv:
    found = next((known for known in KV if known == (asked or "auto")), None)
    if found is None:
        raise WispError("the KV cache is not known", got=repr(asked), expected=" or ".join(KV))
    return found


def _lora(adapter: Path | None, weights: str) -> Path | None:
    if adapter is not None and weights == "none":
        raise WispError(
            "there are no weights to merge an adapter into", got="--lora with --weights none", remedy="leave one out"
        )
    return adapter


def _integer(what: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise WispError(f"the {what} is not usable", got=repr(value), expected=f"a whole number from {least} to {most}")
    return value


def _context(value: Any) -> int | None:
    return None if value is None else _integer("context", value, SMALLEST_CONTEXT, LARGEST_CONTEXT)


def _chunks(values: Iterable[Any]) -> tuple[int, ...]:
    chunks = {_integer("prefill chunk", value, 1, LARGEST_CHUNK) for value in values}
    if not chunks:
        raise WispError("there are no prefill chunks", expected="at least one size")
    return tuple(sorted(chunks, reverse=True))


def _variants(names: list[Any]) -> tuple[str, ...]:
    for name in names:
        if name in FORMER:
            raise WispError(
                f"the variant {name} is no longer one",
                got=repr(name),
                expected=" or ".join(VARIANTS),
                remedy=f"name {FORMER[name]}, which keeps its KV cache in 16 bits and needs no shader-f16",
            )
        _choice("variant", name, VARIANTS)
    if not names:
        raise WispError("there are no variants to compile", expected=", ".join(VARIANTS))
    return tuple(name for name in VARIANTS if name in names)


def _generation(values: Mapping[str, Any], where: str) -> dict[str, float]:
    for key, value in values.items():
        if key not in DEFAULT_GENERATION:
            raise WispError(f"{where} has an unknown key", got=key, expected=", ".join(DEFAULT_GENERATION))
        least, most, whole = SAMPLING_RANGES[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else int | float)
            or not least <= value <= most
        ):
            kind = "a whole number" if whole else "a number"
            raise WispError(f"{where} {key} is not usable", got=repr(value), expected=f"{kind} from {least} to {most}")
    return {key: 0 if key == "top_k" and value == -1 else value for key, value in values.items()}
