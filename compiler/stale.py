"""Builds only what changed: the demo starts at once when its artifact is that of the present files and compiler.

Knows digests of files. Importing it loads neither TVM nor anything else that a build needs.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import compiler
from compiler.config import BuildConfig
from compiler.progress import Report

CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.bin", "*.jinja")


def build_if_stale(config: BuildConfig, report: Report | None = None) -> Path:
    """`build`, unless `config.output` was built from the same files by the same compiler with the same configuration.

    Only for a checkpoint in a directory. What it was built from is kept beside the artifact, not in it.
    """
    stamp = config.output.with_name(f".{config.output.name}.inputs")
    inputs = _inputs_digest(config)
    try:
        fresh = stamp.read_text() == inputs + _digest([config.output / "model.json"], config.output)
    except OSError:
        fresh = False
    if not fresh:
        from compiler.build import build

        build(config, report)
        stamp.write_text(inputs + _digest([config.output / "model.json"], config.output))
    return config.output


def _inputs_digest(config: BuildConfig) -> str:
    """A digest of the configuration, of the compiler itself and of the checkpoint's files."""
    stated = hashlib.sha256(json.dumps(asdict(config), default=str, sort_keys=True).encode()).hexdigest()
    own, checkpoint = Path(compiler.__file__).parent, Path(config.source)
    files = (path for pattern in CHECKPOINT_FILES for path in checkpoint.glob(pattern))
    return stated + _digest(own.rglob("*.py"), own) + _digest(files, checkpoint)


def _digest(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()
