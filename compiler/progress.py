"""What the person who waits sees: a bar a stage, then its time. Knows a terminal; knows nothing of compiling."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


class Report(Protocol):
    """Where a build says how far it is."""

    def stage(self, name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A stage of `total` steps; the function it yields takes the steps just done."""
        ...

    def note(self, line: str) -> None:
        """A fact worth a line."""
        ...


class Silent:
    """Says nothing: for tests and for callers that print JSON."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda steps: None

    def note(self, line: str) -> None:
        pass


class Terminal:
    """Bars on a terminal, one line a finished stage elsewhere; on stderr, so that stdout stays for results."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        started = time.monotonic()
        if not self._console.is_terminal:
            yield lambda steps: None
        else:
            columns = (
                TextColumn(f"{name:<28}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bar:
                task = bar.add_task(name, total=max(1, total))
                yield lambda steps: bar.advance(task, steps)
        self._console.print(f"{name:<28} {time.monotonic() - started:6.1f} s", markup=False)

    def note(self, line: str) -> None:
        self._console.print(line, markup=False)


def human_bytes(nbytes: int) -> str:
    """A size for people, in units of 1024."""
    value = float(nbytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
