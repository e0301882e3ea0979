"""A LoRA adapter in PEFT's format, merged into the weights while they stream by: `W + scaling * B @ A`.

Knows `adapter_config.json` and `adapter_model.safetensors` (https://huggingface.co/docs/peft/developer_guides/lora) and
the weights that a network asks for; knows nothing of where the base weights come from or of how they are stored.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ..errors import WispError
from ..models.base import WeightSpec
from ..models.fields import MOST_NUMBER, FieldReader, shortened
from .files import checked_file, is_file
from .hub import is_hub_id
from .protocol import TensorInfo
from .safetensors import DTYPES, read_header
from .sandbox import first_matches, match_patterns

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MERGE_WITH_PEFT = "merge it with PEFT (merge_and_unload, then save_pretrained) and compile the result"

# Fields that say how the adapter was trained or which modules it is of, which its tensors say again.
INERT_FIELDS = frozenset(
    (
        "task_type",
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "lora_dropout",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "eva_config",
    )
)
# Fields that make something else of the adapter than two low-rank factors, and the value that does not.
REFUSED_FIELDS: dict[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "fan_in_fan_out": False,
    "use_qalora": False,
    "use_bdlora": False,
}
# What PEFT writes of methods that are not used.
NEUTRAL_FIELDS: dict[str, tuple[Any, ...]] = {"loftq_config": ({},), "ensure_weight_tying": (False,)}
REFUSED_UNLESS_EMPTY = ("modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters")
# The other initializations (PiSSA, OLoRA, LoftQ, ...) change the base weights too.
INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal")

TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(?:\.weight)?"
)
# Patterns of these characters alone have nothing to try again, and need no process of their own.
WITHOUT_REPETITION = re.compile(r"[A-Za-z0-9_.^-]*")
# PEFT saves an adapted embedding's base weight too; it is the one that the adapter goes on top of.
BASE_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))(?:\.base_layer)?\.weight"
)


@dataclass(frozen=True)
class Module:
    """What the adapter holds for one weight: names of its tensors. `scaling` is alpha / r, or alpha / sqrt(r)."""

    rank: int
    scaling: float
    embedding: bool = False  # of nn.Embedding: A (r, rows) and B (columns, r), each the other way round
    halves: Mapping[str, str] = field(default_factory=dict)  # "A" and "B"
    base: str | None = None


@dataclass(frozen=True)
class Adapter:
    """An open adapter. `modules` maps the checkpoint's name of a weight to what is added to it."""

    id: str
    base: str | None  # what the adapter says it was trained on
    rank: int
    alpha: float
    sha256: str
    file: Path
    tensors: Mapping[str, TensorInfo]
    modules: Mapping[str, Module]
    targets: tuple[str, ...]  # the modules that adapter_config.json lists, when it lists them all

    def described(self) -> dict[str, Any]:
        """The adapter as `source.adapter` of model.json says it."""
        base = self.base
        if base is not None and not is_hub_id(base):  # a path of the machine that trained it
            base = re.split(r"[/\\]", base.rstrip("/\\"))[-1]
        return {"id": self.id, "base": base, "rank": self.rank, "alpha": self.alpha, "sha256": self.sha256}

    def __str__(self) -> str:
        of = f", trained on {self.base}" if self.base else ""
        return f"adapter {self.id} (rank {self.rank}, {len(self.modules)} matrices{of})"

    # ----------------------------------------------------------------------------------------------------------- check

    def check(self, specs: Sequence[WeightSpec], tied: bool) -> None:
        """Raises one WispError that lists everything of the adapter that does not fit the network."""
        shapes = {
            source: (shape[0], shape[1])
            for spec in specs
            if spec.kind == "matrix"
            for source, shape in spec.source_shapes.items()
        }
        shared = [s for spec in specs if spec.role == "embedding" for s in spec.sources] + ["lm_head.weight"]
        if tied and (adapted := [source for source in shared if source in self.modules]):
            raise WispError(
                "the adapter changes one of two weights that the checkpoint ties together",
                got=", ".join(_stem(source) for source in adapted),
                expected="adapters of other layers, as tie_word_embeddings is true",
                remedy="untie them, merge the adapter with PEFT, and compile the result",
            )
        fitting = {source: module for source, module in self.modules.items() if source in shapes}
        missing = [
            f"{_stem(source)}.lora_{half}"
            for source, module in fitting.items()
            for half in ("A", "B")
            if half not in module.halves and (module.halves or module.base is None)
        ]
        missing += [_stem(source) for source in shapes if source not in self.modules and self._is_target(source)]
        odd = [text for source, module in fitting.items() for text in self._odd_shapes(module, shapes[source])]
        complaints = [
            ("of no matrix of the network", sorted(_stem(source) for source in self.modules if source not in shapes)),
            ("missing", missing),
            ("of another shape", odd),
        ]
        found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in complaints if names]
        if found:
            trained = f" ({self.base})" if self.base else ""
            raise WispError(
                "the adapter does not fit the checkpoint",
                got="; ".join(found),
                remedy=f"give the checkpoint that it was trained on{trained}",
            )

    def _is_target(self, source: str) -> bool:
        module = _stem(source)
        return any(module == target or module.endswith(f".{target}") for target in self.targets)

    def _odd_shapes(self, module: Module, shape: tuple[int, int]) -> Iterator[str]:
        out, inner = reversed(shape) if module.embedding else shape
        expected = {"A": (module.rank, inner), "B": (out, module.rank)}
        pairs = [(name, expected[half]) for half, name in module.halves.items()]
        if module.base is not None:
            pairs.append((module.base, shape))
        for name, wanted in pairs:
            if self.tensors[name].shape != wanted:
                yield f"{name} {list(self.tensors[name].shape)} instead of {list(wanted)}"

    # ----------------------------------------------------------------------------------------------------------- merge

    def changes(self, spec: WeightSpec) -> bool:
        """Whether something is added to a weight."""
        return any(source in self.modules for source in spec.sources)

    def merge(self, spec: WeightSpec, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The row blocks of a weight with the adapter added, block by block. In float32."""
        row = 0
        for block in blocks:
            if self.changes(spec):
                block = self._merge_block(spec, block, row)
            yield block
            row += len(block)

    def _merge_block(self, spec: WeightSpec, block: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        merged = block.copy()
        first = 0
        for source, begin, rows in spec.pieces:
            start, stop = max(row, first), min(row + len(block), first + rows)
            if start < stop and source in self.modules:
                self.add(source, begin + start - first, merged[start - row : stop - row])
            first += rows
        return merged

    def add(self, source: str, start: int, rows: NDArray[np.float32]) -> None:
        """Adds the adapter to rows of a weight of the checkpoint, from row `start` on, in place."""
        module, stop = self.modules[source], start + len(rows)
        with safe_open(self.file, "np") as file:

            def read(name: str) -> NDArray[np.float32]:
                tensor: NDArray[np.float32] = file.get_tensor(name).astype(np.float32)
                return tensor

            if module.base is not None:
                rows[:] = file.get_slice(module.base)[start:stop].astype(np.float32)
            if not module.halves:
                return
            a, b = read(module.halves["A"]), read(module.halves["B"])
            left, right = (a[:, start:stop].T, b.T) if module.embedding else (b[start:stop], a)
            rows += np.float32(module.scaling) * (left @ right)


# ------------------------------------------------------------------------------------------------------------- opening


def open_adapter(directory: Path) -> Adapter:
    """Reads an adapter's configuration and the header of its weights; refuses by name what is not plain LoRA."""
    reader = FieldReader(_read_config(directory), ADAPTER_CONFIG, INERT_FIELDS, NEUTRAL_FIELDS, prefix=None)
    reader.require("peft_type", "LORA", remedy=MERGE_WITH_PEFT)
    for name, plain in REFUSED_FIELDS.items():
        reader.require(name, plain, remedy=MERGE_WITH_PEFT)
    for name in REFUSED_UNLESS_EMPTY:
        if reader.get(name):
            reader.refuse(name, "no such field", MERGE_WITH_PEFT)
    if reader.get("init_lora_weights") not in (None, *INITIALIZATIONS):
        remedy = f"convert it to plain LoRA (PEFT's path_initial_model_for_weight_conversion), or {MERGE_WITH_PEFT}"
        reader.refuse("init_lora_weights", "an initialization that leaves the base weights alone", remedy)
    rank, alpha = reader.integer("r", maximum=65536), reader.number("lora_alpha")
    scale = _Scale(
        rank,
        alpha,
        reader.boolean("use_rslora", default=False),
        dict(reader.mapping("rank_pattern") or {}),
        dict(reader.mapping("alpha_pattern") or {}),
    )
    base, targets = reader.get("base_model_name_or_path"), reader.get("target_modules")
    narrowed = any(reader.get(name) for name in ("exclude_modules", "layers_to_transform"))
    listed = isinstance(targets, list) and all(isinstance(target, str) for target in targets) and not narrowed
    reader.finish()
    file = _weights_file(directory)
    tensors = read_header(file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Adapter(
        id=directory.resolve().name,
        base=base if isinstance(base, str) and base else None,
        rank=rank,
        alpha=alpha,
        sha256=digest,
        file=file,
        tensors=tensors,
        modules=_modules(tensors, scale),
        targets=tuple(targets) if listed else (),
    )


def _read_config(directory: Path) -> dict[str, Any]:
    path = checked_file(directory / ADAPTER_CONFIG)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WispError(
            f"{directory} is not an adapter",
            got=f"no {ADAPTER_CONFIG}",
            expected=f"a directory with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}",
            remedy="give the directory that PEFT's save_pretrained wrote",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WispError(f"{ADAPTER_CONFIG} cannot be read", got=str(error), remedy="repair the adapter") from error
    if not isinstance(value, dict):
        raise WispError(f"{ADAPTER_CONFIG} is not usable", got=type(value).__name__, expected="a JSON object")
    return value


def _weights_file(directory: Path) -> Path:
    file = directory / ADAPTER_WEIGHTS
    if not is_file(file):
        raise WispError(
            "the adapter has no weights",
            got=", ".join(sorted(path.name for path in directory.glob("adapter_model*"))) or "none",
            expected=ADAPTER_WEIGHTS,
            remedy="save it with PEFT: model.save_pretrained(DIR)",
        )
    return file


@dataclass(frozen=True)
class _Scale:
    """Rank and scaling of each module."""

    rank: int
    alpha: float
    rank_stabilized: bool
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]

    def modules(self, names: Sequence[str]) -> dict[str, Module]:
        """Each module of these names, still without tensors."""
        ranks = _by_pattern(names, self.rank_pattern, self.rank, "rank_pattern")
        alphas = _by_pattern(names, self.alpha_pattern, self.alpha, "alpha_pattern")
        if odd := [rank for rank in ranks if rank != int(rank)]:
            raise WispError(f"{ADAPTER_CONFIG} rank_pattern is not usable", got=odd[0], expected="whole numbers")
        scalings = [a / math.sqrt(r) if self.rank_stabilized else a / r for r, a in zip(ranks, alphas, strict=True)]
        return {n: Module(int(r), scaling) for n, r, scaling in zip(names, ranks, scalings, strict=True)}


def _by_pattern(names: Sequence[str], patterns: Mapping[str, Any], default: float, where: str) -> list[float]:
    """For each module the value of the first pattern that matches the end of its name (PEFT's `get_pattern_key`)."""
    what = f"{ADAPTER_CONFIG} {where}"
    for value in patterns.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_NUMBER:
            raise WispError(f"{what} is not usable", got=shortened(value), expected="positive numbers")
    whole = [rf"(.*\.)?({pattern})$" for pattern in patterns]
    match = match_patterns if all(WITHOUT_REPETITION.fullmatch(pattern) for pattern in patterns) else first_matches
    values = [float(value) for value in patterns.values()]
    return [default if i is None else values[i] for i in match(whole, names, what)]


def _modules(tensors: Mapping[str, TensorInfo], scale: _Scale) -> dict[str, Module]:
    """Sorts the tensors by the weight that they change. Raises WispError that lists those of unknown names or types."""
    matched: list[tuple[str, re.Match[str] | None, str]] = []  # name, match of a factor, module
    unknown = []
    for name, info in tensors.items():
        match, base = TENSOR.fullmatch(name), BASE_TENSOR.fullmatch(name)
        found = match or base
        if found is None or info.dtype not in DTYPES or len(info.shape) != 2:
            unknown.append(f"{name} {info.dtype} {list(info.shape)}")
        else:
            matched.append((name, match, found["module"]))
    named = scale.modules(list(dict.fromkeys(module for _, _, module in matched)))
    modules = {f"{name}.weight": module for name, module in named.items()}
    for name, match, stem in matched:
        module = modules[f"{stem}.weight"]
        if match is not None:
            halves, embedding = {**module.halves, match["half"]: name}, match["embedding"] is not None
            modules[f"{stem}.weight"] = replace(module, embedding=embedding, halves=halves)
        else:
            modules[f"{stem}.weight"] = replace(module, base=name)
    if unknown:
        raise WispError(
            "the adapter holds tensors that are not LoRA's",
            got=", ".join(unknown),
            expected=f"names that end in lora_A.weight and lora_B.weight, of {', '.join(DTYPES)}",
            remedy=MERGE_WITH_PEFT,
        )
    if not modules:
        raise WispError("the adapter holds no tensors", remedy="save it with PEFT: model.save_pretrained(DIR)")
    return modules


def _stem(source: str) -> str:
    return source.removesuffix(".weight")
