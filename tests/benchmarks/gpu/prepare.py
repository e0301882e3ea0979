"""Fills a folder with all that a bare machine with a GPU needs to time Wisp's kernels, network apart.

    python -m tests.benchmarks.gpu.prepare [-o FOLDER] [--shapes NAME ...]

Node and Dawn (compressed), the Vulkan loader and what NVIDIA's driver links against, the plans of some recipes without
weights, and the scripts. `python3 FOLDER/run.py` then runs there: x86-64 Linux, Python 3.12, NVIDIA's driver.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compiler.errors import WispError
from compiler.places import CONFIGS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DAWN = ROOT / "tests" / "device" / "isa" / "node_modules" / "webgpu"
DAWN_BINARY = Path("dist", "linux-x64", "dawn.node")
SHAPES = ("phi-3-mini-4k-instruct", "llama-3.2-1b-instruct", "qwen2.5-0.5b-instruct", "smollm2-135m-instruct")
VARIANTS = "webgpu-f32-sg,webgpu-f32"
SCRIPTS = ("run.py", "device.mjs", "ceilings.mjs", "plan.mjs")
# libvulkan, then what libGLX_nvidia and libEGL_nvidia ask for, which a machine without a screen may lack.
LIBRARIES = (
    *("libvulkan.so.1", "libX11.so.6", "libXext.so.6", "libxcb.so.1", "libXau.so.6", "libXdmcp.so.6", "libbsd.so.0"),
    *("libmd.so.0", "libGLdispatch.so.0"),
)
MOST_BYTES = 60 << 20


def prepare(folder: Path, recipes: list[Path], compress: bool = True) -> int:
    """Fill `folder`, which is emptied first; returns its bytes. Without `compress` it stays on this machine.

    Raises WispError where Node, Dawn or a library is missing, and when all of it passes MOST_BYTES.
    """
    node = shutil.which("node")
    if node is None or not (DAWN / DAWN_BINARY).is_file():
        raise WispError("Node or Dawn for Node is missing", expected=str(DAWN), remedy="run make setup")
    if folder.exists():
        if any(folder.iterdir()) and not (folder / SCRIPTS[0]).is_file():
            raise WispError(f"{folder} holds other things", expected="an empty folder, or one that was made here")
        shutil.rmtree(folder)
    (folder / "lib").mkdir(parents=True)
    for library in _libraries():
        shutil.copyfile(library, folder / "lib" / library.name)
    pack = _compress if compress else _link
    pack(Path(node).resolve(), folder / "node")
    package = folder / "node_modules" / "webgpu"
    (package / DAWN_BINARY.parent).mkdir(parents=True)
    pack(DAWN / DAWN_BINARY, package / DAWN_BINARY)
    for name in ("index.js", "package.json", "LICENSE.md"):
        shutil.copyfile(DAWN / name, package / name)
    for script in SCRIPTS:
        shutil.copyfile(HERE / script, folder / script)
    for recipe in recipes:
        _compile(recipe, folder / "plans" / recipe.stem)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    if size > MOST_BYTES:
        raise WispError("the folder is too large", got=f"{size} bytes", expected=f"at most {MOST_BYTES}")
    return size


def _libraries() -> list[Path]:
    """Where the loader finds LIBRARIES."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    found = {line.split()[0]: Path(line.split(" => ")[1]) for line in listed.splitlines() if "x86-64" in line}
    if missing := [name for name in LIBRARIES if name not in found]:
        raise WispError(
            "libraries of the graphics stack are missing",
            got=", ".join(missing),
            remedy="on Debian: apt-get install libvulkan1 libx11-6 libxext6 libglvnd0",
        )
    return [found[name] for name in LIBRARIES]


def _link(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def _compress(source: Path, target: Path) -> None:
    with lzma.open(f"{target}.xz", "wb", preset=6) as out, source.open("rb") as content:
        shutil.copyfileobj(content, out)


def _compile(recipe: Path, target: Path) -> None:
    """The recipe's plans, of its architecture alone."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        options = ["--weights", "none", "--variants", VARIANTS, "-o", str(made)]
        command = [sys.executable, "-m", "compiler.cli", "compile", str(recipe), *options]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        shutil.copytree(made, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE / "bundle")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="recipes of configs/, or files")
    arguments = parser.parse_args()
    recipes = [Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml" for name in arguments.shapes]
    size = prepare(arguments.output, recipes)
    print(f"{arguments.output}: {size / 2**20:.1f} MiB", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except WispError as error:
        sys.exit(str(error))
