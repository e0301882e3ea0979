"""Lowering for tests: equal networks are lowered once, however many processes and runs the tests take.

What was lowered is kept as a file, by a digest of the arguments and of the compiler's own files. Tests of lowering
itself call `compiler.lowering.lower.lower_variant`.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

import compiler
from compiler import build
from compiler.lowering.lower import Lowered, lower_variant
from compiler.models.base import ModelConfig
from compiler.target.variants import Variant
from compiler.weights.schemes import Scheme


class Lowering:
    """`lower_variant` with a memory: a dictionary in front of the directory `folder`."""

    def __init__(self, folder: Path) -> None:
        sources = sorted(Path(compiler.__file__).parent.rglob("*.py"))
        digest = hashlib.sha256(version("apache-tvm").encode())
        for source in sources:
            digest.update(source.read_bytes())
        self._folder = folder / digest.hexdigest()[:16]
        for old in folder.glob("*"):
            if old != self._folder:  # of a compiler that is no more
                shutil.rmtree(old, ignore_errors=True)
        self._kept: dict[str, bytes] = {}

    def __call__(
        self,
        model: ModelConfig,
        scheme: Scheme,
        variant: Variant,
        context: int,
        prefill_chunks: tuple[int, ...],
        dump: Path | None = None,
        alternatives: bool = True,
    ) -> Lowered:
        """As `lower_variant`. The result is the caller's own; with `dump` nothing is remembered."""
        if dump is not None:
            return lower_variant(model, scheme, variant, context, prefill_chunks, dump, alternatives)
        what = (model, scheme, variant, context, prefill_chunks, None, alternatives)
        key = hashlib.sha256(repr(what).encode()).hexdigest()
        if key not in self._kept:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f"{key}.lock"):  # who comes second waits for what the first one makes
                self._kept[key] = self._read(key) or self._write(key, lower_variant(*what))
        made: Lowered = pickle.loads(self._kept[key])
        return made

    def _read(self, key: str) -> bytes | None:
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, key: str, made: Lowered) -> bytes:
        content, part = pickle.dumps(made), self._folder / f"{key}.{os.getpid()}"
        part.write_bytes(content)
        part.replace(self._folder / key)
        return content


lower_once = Lowering(Path(__file__).resolve().parent.parent / ".pytest_cache" / "d" / "wisp-lowered")


@contextlib.contextmanager
def builds_lower_once(alternatives: bool = False) -> Iterator[None]:
    """Within it `build` lowers through `lower_once`.

    Without alternatives, which take half of the time and which only a page that measures them looks at, or, of the
    CPU's kernels, an engine with relaxed SIMD.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "lower_variant", functools.partial(lower_once, alternatives=alternatives))
        yield
