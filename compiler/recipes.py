"""The recipes that come along: where they are, what a model costs its visitor, and the lines that say so in each.

Knows recipes and the pipeline's first stages; reads no weights and needs no network. `python -m compiler.recipes`
compiles every recipe's best variant and brings the figures in its comment up to date.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .build import Network, open_source, plan_network
from .config import BuildConfig, resolve_config
from .errors import WispError
from .lowering.lower import geometry_of, lower_variant
from .places import CONFIGS
from .progress import human_bytes
from .target.variants import VARIANTS

MEBIBYTE = 1 << 20
# What `figures` writes, to be found again.
FIGURES = re.compile(r"^# [\d,]+ parameters: .*\n# GPU memory at .*\n", re.MULTILINE)


@dataclass(frozen=True)
class RecipeSummary:
    """A recipe's model as it is compiled; sizes in bytes, of its best variant."""

    id: str
    name: str
    recipe: str
    source: str
    revision: str | None
    model_type: str
    parameters: int
    quantization: str
    context: int
    weight_bytes: int
    kv_bytes_per_token: int

    @property
    def kv_bytes(self) -> int:
        """The KV cache at the compiled context."""
        return self.kv_bytes_per_token * self.context


def recipe_paths() -> tuple[Path, ...]:
    """The recipes that come along, by name."""
    paths = tuple(sorted(CONFIGS.glob("*.toml")))
    if not paths:
        raise WispError("there are no recipes", got=CONFIGS, remedy="install Wisp again: they come with it")
    return paths


def plan_recipe(path: Path) -> tuple[BuildConfig, Network]:
    """A recipe's configuration and network, from its own [architecture].

    Raises WispError for a recipe that is not usable or has no [architecture].
    """
    config = resolve_config(str(path), weights="none")
    if config.architecture is None:
        raise WispError(f"the recipe {path} has no [architecture]", expected="the fields of the model's config.json")
    return config, plan_network(config, open_source(config))


def summarize_recipe(path: Path) -> RecipeSummary:
    """What a recipe makes, without compiling it."""
    config, network = plan_recipe(path)
    model = network.model
    best = VARIANTS[config.variants[0]]
    cache = geometry_of(model, network.scheme, best, network.context, network.prefill_chunks).cache
    return RecipeSummary(
        id=config.id,
        name=config.name,
        recipe=f"{path.parent.name}/{path.name}",
        source=config.source,
        revision=config.revision,
        model_type=model.model_type,
        parameters=network.parameters,
        quantization=network.scheme.name,
        context=network.context,
        weight_bytes=network.weight_bytes,
        kv_bytes_per_token=4 * cache.row_words * model.num_hidden_layers,
    )


def figures(summary: RecipeSummary, plan: Mapping[str, Any]) -> str:
    """The two comment lines of a recipe that say what the model costs; `plan` is its best variant's."""
    total = sum(buffer["bytes"] for buffer in plan["buffers"])
    rest = total - summary.weight_bytes - summary.kv_bytes
    weights, cache = human_bytes(summary.weight_bytes), human_bytes(summary.kv_bytes)
    return (
        f"# {summary.parameters:,} parameters: {weights} to download.\n"
        f"# GPU memory at {summary.context:,} tokens: {weights} of weights, {cache} of KV cache,"
        f" {-(-rest // MEBIBYTE)} MiB of activations and tables.\n"
    )


def print_recipes(summaries: Iterable[RecipeSummary]) -> None:
    """A table for people, on stdout."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("model", "parameters", "quantization", "context", "download", "memory"):
        table.add_column(heading, justify="left" if heading in ("model", "quantization") else "right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            summary.id,
            f"{summary.parameters / 1e9:.2f} B",
            summary.quantization,
            f"{summary.context:,}",
            human_bytes(summary.weight_bytes),
            human_bytes(summary.weight_bytes + summary.kv_bytes),
        )
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print("\nMemory: weights and KV cache at this context.")
    console.print("Compile one: wisp compile MODEL")


def recipes_json(summaries: Iterable[RecipeSummary]) -> list[dict[str, Any]]:
    """The same for tools; `memory_bytes` is the weights and the KV cache at the compiled context."""
    return [{**asdict(s), "kv_bytes": s.kv_bytes, "memory_bytes": s.weight_bytes + s.kv_bytes} for s in summaries]


def update_figures(path: Path) -> None:
    """Compile a recipe's best variant and write its figures below the first line."""
    config, network = plan_recipe(path)
    variant = VARIANTS[config.variants[0]]
    lowered = lower_variant(network.model, network.scheme, variant, network.context, network.prefill_chunks)
    title, rest = FIGURES.sub("", path.read_text(encoding="utf-8"), count=1).split("\n", 1)
    path.write_text(f"{title}\n{figures(summarize_recipe(path), lowered.plan)}{rest}", encoding="utf-8")


if __name__ == "__main__":
    for recipe in recipe_paths():
        update_figures(recipe)
        print(recipe)
