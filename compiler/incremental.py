"""Builds only what changed: an artifact that was made of the same files by the same compiler is left alone.

Knows digests of files. Importing it loads neither TVM nor anything else that a build needs.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .config import BuildConfig
from .errors import WispError
from .lowering.tvm_import import import_tvm
from .places import PACKAGE
from .progress import Report, Silent
from .sources.gguf.reader import part_names
from .sources.pooling import POOLING_FILE

CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.bin", "*.jinja", "*.pt", POOLING_FILE)
COMMIT_DIGITS = 40
# A large file is taken for unchanged while its size and its time are: reading it would take as long as compiling it.
LARGE_FILE = 64 << 20


def build_if_stale(config: BuildConfig, report: Report | None = None, *, force: bool = False) -> Path:
    """`build`, unless `config.output` was built from the same files by the same compiler with the same configuration.

    What it was built from is kept beside the artifact, not in it. A checkpoint on the Hub counts as unchanged when
    its revision is a commit; `force` and a dump always build.
    """
    report = report or Silent()
    output = config.output.absolute()
    stamp = output.with_name(f".{output.name}.inputs")
    inputs = _inputs_digest(config)
    if inputs is not None and not force and config.dump is None and _is_fresh(config.output, stamp, inputs):
        report.note(f"{config.output}: unchanged")
        return config.output
    if not config.output_named:
        check_replacement(config, stamp)
    import_tvm()
    from .build import build

    build(config, report)
    made = _digest([config.output / "model.json"], config.output)
    stamp.write_text(f"{inputs or ''}{made}\n{_location(config)}\n")
    return config.output


def check_replacement(config: BuildConfig, stamp: Path) -> None:
    """Raises WispError when an output that nobody named holds the artifact of another source.

    The artifact says its source by name alone; the line beside it says where that was, relative to the artifact, so
    that both may be moved together.
    """
    try:
        model = json.loads((config.output / "model.json").read_bytes())
        found = (model["source"]["kind"], model["source"]["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return  # no artifact: `check_output` decides
    stated = {"hub": config.source, "gguf": Path(config.source).name, "ggml": Path(config.source).name}
    ours = (config.source_kind, stated.get(config.source_kind, Path(config.source).resolve().name))
    was = _stamped(config.output, stamp)[1]
    if found != ours or was not in (None, _location(config)):
        raise WispError(
            f"{config.output} holds an artifact of another source, and nobody said to replace it",
            got=was if found == ours else f"{found[0]} {found[1]}",
            expected=config.source,
            remedy="name the output with -o or --name",
        )


def _location(config: BuildConfig) -> str:
    if config.source_kind == "hub":
        return config.source
    return os.path.relpath(Path(config.source).resolve(), config.output.absolute().parent)


def _stamped(output: Path, stamp: Path) -> tuple[str | None, str | None]:
    """What the artifact that is there was made from: the digest of its inputs, and where its source lay."""
    try:
        first, _, where = stamp.read_text().partition("\n")
        made = _digest([output / "model.json"], output)
    except (OSError, ValueError):
        return None, None
    return (first.removesuffix(made), where.strip() or None) if first.endswith(made) else (None, None)


def _is_fresh(output: Path, stamp: Path, inputs: str) -> bool:
    """Whether the stamp is of these inputs and of the artifact that is there, with every file of its size."""
    try:
        if _stamped(output, stamp)[0] != inputs:
            return False
        files = json.loads((output / "model.json").read_bytes())["files"]
        return all((output / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _inputs_digest(config: BuildConfig) -> str | None:
    """A digest of the configuration, of the compiler itself and of the source's files; None when those may change."""
    stated = hashlib.sha256(json.dumps(asdict(config), default=str, sort_keys=True).encode()).hexdigest()
    own, source = PACKAGE, Path(config.source)
    read = [_digest(own.rglob("*.py"), own)]
    if config.source_kind == "directory":
        read.append(_digest((path for pattern in CHECKPOINT_FILES for path in source.glob(pattern)), source))
    elif config.source_kind in ("gguf", "ggml"):
        read.append(_digest([source.with_name(name) for name in part_names(source.name)], source.parent))
    elif config.weights == "full" or config.architecture is None:
        revision = config.revision or ""
        if len(revision) != COMMIT_DIGITS or not set(revision) <= set("0123456789abcdef"):
            return None
    if config.lora is not None:
        read.append(_digest((path for path in config.lora.glob("*") if path.is_file()), config.lora))
    if config.calibration is not None and config.calibration.is_file():
        read.append(_digest([config.calibration], config.calibration.parent))
    return stated + "".join(read)


def _digest(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        content = _content(file)
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _content(file: Path) -> str:
    """What a file is recognized by; a link to nowhere, a pipe or a device by its being none."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return "no file"
        if status.st_size > LARGE_FILE:
            return f"{status.st_size} {status.st_mtime_ns}"
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return f"not readable: {error.errno}"
