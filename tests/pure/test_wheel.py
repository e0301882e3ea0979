"""The wheel in an environment and a directory that have nothing else of the project."""

import os
import re
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compiler.places import CONFIGS, PACKAGE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(PACKAGE.parent)], check=True, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wisp(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment that has what the wheel depends on, and nothing of this clone."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # Directories that a .pth file names are searched, but the .pth files in them (this clone's) are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return environment / "bin" / "wisp"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("anywhere")


def run(command: list[str | Path], place: Path) -> str:
    done = subprocess.run(command, cwd=place, env=plain_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@contextmanager
def serving(command: list[str | Path], place: Path) -> Iterator[str]:
    """The address that it says, once it says so."""
    with subprocess.Popen(command, cwd=place, env=plain_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if address := re.search(r"Wisp is at (http://\S+)", line):
                    yield address[1]
                    return
            raise AssertionError("".join(said))
        finally:
            process.terminate()


def test_nothing_is_installed_under_another_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"wisp", wheel.name.split("-py3")[0] + ".dist-info"}
    inside = {name.removeprefix("wisp/") for name in names}
    assert {"cli.py", "web/templates/index.html", "web/dist/page.js", "web/dist/wisp-node.mjs"} <= inside
    assert {f"configs/{path.relative_to(CONFIGS)}" for path in CONFIGS.rglob("*.toml")} - inside == {
        f"configs/demo/{name}.toml" for name in ("facts", "phrasings", "words")
    }, "all but what the demo model was trained with"
    assert "configs/demo/model.safetensors" in inside
    assert not [
        name for name in inside if name.endswith(".map") or (name.startswith("configs") and name.endswith(".py"))
    ]


def test_everything_works_from_any_directory(wisp: Path, place: Path) -> None:
    with serving([wisp, "demo", "--small", "--port", "0"], place) as address:
        page = urllib.request.urlopen(address).read().decode()
        script = re.search(r'src="/(static/page\.js\?v=\w+)"', page)
        assert script is not None
        assert len(urllib.request.urlopen(address + script[1]).read()) > 10_000
        assert '"id":"demo"' in urllib.request.urlopen(address + "models").read().decode()
    prompt = ["--prompt", "What is the capital of France?", "--temperature", "0", "--sample-len", "12"]
    assert "Paris" in run([wisp, "chat", "artifacts/demo", "--variant", "wasm-simd", *prompt], place)
    run([wisp, "export", "site"], place)
    assert (place / "site" / "models" / "demo" / "model.json").is_file()
    run([wisp, "compile", "phi-2", "--weights", "none", "--variants", "wasm-simd", "--context", "64", "-o", "x"], place)
    assert '"phi-2"' in run([wisp, "inspect", "x", "--json"], place)
    assert "q4af16_g64" in run([wisp, "models", "--local", "--artifacts", "."], place)
    with serving([wisp, "serve", ".", "--port", "0"], place) as address:
        assert '"id":"phi-2"' in urllib.request.urlopen(address + "models").read().decode()
