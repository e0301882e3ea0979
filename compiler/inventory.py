"""What is on this machine: artifacts, and checkpoints in the Hub's cache; what they take, and whether the CPU has room.

Knows directories and sizes; loads no model.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from rich import box
from rich.console import Console
from rich.table import Table

from .artifact.inspect import inspect
from .errors import WispError
from .progress import human_bytes
from .runtime.choose import SLACK, context_within
from .runtime.wasmtime import LIMIT
from .serving.catalogue import Catalogue


@dataclass(frozen=True)
class Stored:
    """An artifact; sizes in bytes. `cpu_context` is what the CPU has room for, 0 where the model does not fit."""

    id: str
    path: str
    quantization: str
    context: int
    bytes: int
    memory_bytes: int
    cpu_context: int

    def fits(self) -> str:
        """Whether the CPU has room for it, for people."""
        if self.cpu_context == 0:
            return "no"
        return "yes" if self.cpu_context >= self.context else f"to {self.cpu_context:,} tokens"


@dataclass(frozen=True)
class Cached:
    """A repository in the Hub's cache."""

    id: str
    bytes: int
    revisions: int


def machine_bytes() -> int | None:
    """This machine's memory; None where nothing tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def cpu_context(weight_bytes: int, kv_bytes_per_token: int, context: int) -> int:
    """The tokens that the CPU has room for beside the weights, 0 where it has none."""
    return context_within(context, kv_bytes_per_token, min(LIMIT, machine_bytes() or LIMIT) - weight_bytes - SLACK)


def artifacts(root: Path) -> list[Stored]:
    """What `wisp serve` would offer of a directory, by name. What cannot be read is left out."""
    found = []
    for directory in sorted({artifact.directory for artifact in Catalogue([root]).read().by_key.values()}):
        try:
            summary = inspect(directory)
        except WispError:
            continue
        per_token, context = summary["kv_bytes_per_token"], summary["context"]
        found.append(
            Stored(
                id=summary["id"],
                path=str(directory),
                quantization=summary["quantization"],
                context=context,
                bytes=summary["bytes"],
                memory_bytes=summary["weight_bytes"] + per_token * context,
                cpu_context=cpu_context(summary["weight_bytes"], per_token, context),
            )
        )
    return found


def hub_cache() -> list[Cached]:
    """Models in the Hub's cache, the largest first."""
    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    models = [
        Cached(repo.repo_id, repo.size_on_disk, len(repo.revisions))
        for repo in repositories
        if repo.repo_type == "model"
    ]
    return sorted(models, key=lambda model: (-model.bytes, model.id))


def print_inventory(stored: Iterable[Stored], cached: Iterable[Cached]) -> None:
    """Tables on stdout; nothing of what there is none of."""
    console = Console(soft_wrap=True, highlight=False)
    rows = [
        (
            Path(s.path).name,
            s.quantization,
            f"{s.context:,}",
            human_bytes(s.bytes),
            human_bytes(s.memory_bytes),
            s.fits(),
        )
        for s in stored
    ]
    if rows:
        _print(console, ("artifact", "quantization", "context", "on disk", "memory", "on the CPU"), rows)
    held = [(c.id, str(c.revisions), human_bytes(c.bytes)) for c in cached]
    if held:
        _print(console, ("in the Hub's cache", "revisions", "on disk"), held)


def _print(console: Console, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 or heading == "quantization" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def inventory_json(stored: Iterable[Stored], cached: Iterable[Cached]) -> dict[str, Any]:
    """The same for tools."""
    return {
        "memory_bytes": machine_bytes(),
        "artifacts": [asdict(each) for each in stored],
        "hub_cache": [asdict(each) for each in cached],
    }
