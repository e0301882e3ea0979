"""The exported site as files: what is in it, what it replaces and what it refuses."""

import gzip
import json
import re
from pathlib import Path

import pytest

from compiler.cli import main
from compiler.errors import WispError
from compiler.progress import Silent
from compiler.serving.files import IMMUTABLE
from compiler.site.export import export
from compiler.site.files import site_files
from compiler.site.hosts import MOST_RULES, headers_file
from tests.browser import toy_artifact


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    for name in ("toy", "other"):
        toy_artifact.write(root / name, toy_artifact.toy(), name=name.title(), cpu=True)
    (root / "broken").mkdir()
    (root / "broken" / "model.json").write_text("{}")
    return root


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def loaded(found: dict[str, bytes], scripts: set[str]) -> set[str]:
    """These and every script of the engine's that they load."""
    names = {f"static/{name}" for script in scripts for name in re.findall(r"\./([\w-]+\.js)", found[script].decode())}
    more = (names & set(found)) - scripts
    return loaded(found, scripts | more) if more else scripts


def test_a_site_is_relative_and_whole(artifacts: Path, tmp_path: Path) -> None:
    export(artifacts, tmp_path / "site", Silent())
    found = contents(tmp_path / "site")
    page = found["index.html"].decode()
    addresses = re.findall(r'(?:href|src|data-catalogue|data-service-worker)="([^"#][^"]*)"', page)
    named = [address for address in addresses if not address.startswith("data:")]
    assert {"models.json", "offline.js", "manifest.json", "./"} <= set(named)
    assert not [address for address in named if address.startswith("/") or ":" in address]
    assert all(address.split("?")[0] in (*found, "./") for address in named)
    catalogue = json.loads(found["models.json"])
    assert [model["url"] for model in catalogue["models"]] == ["models/other/", "models/toy/"]
    for model in catalogue["models"]:
        manifest = json.loads(found[model["url"] + "model.json"])
        assert all(model["url"] + name in found for name in manifest["files"])
    kept = json.loads(found["files.json"])
    assert all(address == "./" or address.split("?")[0] in found for address in kept)
    offline = {address.split("?")[0] for address in kept}
    used = loaded(found, {address.split("?")[0] for address in named if ".js?" in address})
    assert used == {name for name in offline if name.endswith(".js")}, (
        "what the page's scripts load is kept, and nothing for other pages"
    )
    assert {"static/worker.js", "static/thread.js", "static/grammar.js"} <= used
    assert "static/wisp.js" in found.keys() - offline, "other pages may import the engine"
    assert b"wisp-version" not in found["offline.js"]
    assert not [name for name in found if name.endswith((".map", ".mjs", ".d.ts")) or "broken" in name]


def test_a_first_visit_downloads_little(artifacts: Path) -> None:
    """Page, style, and the scripts that come before anybody asks for something; what a conversation needs is apart."""
    files = {file.name: file for file in site_files(artifacts, (), lambda _: None)}

    def text(name: str) -> str:
        content = files[name].content
        return (content if isinstance(content, bytes) else content.read_bytes()).decode()

    names = ["index.html", "static/page.css", "static/check.js", "static/page.js"]
    for name in names:
        names += [f"static/{other}" for other in re.findall(r'from\s*"\./([\w-]+\.js)"', text(name))]
    assert sum(len(gzip.compress(text(name).encode(), 9)) for name in set(names)) <= 80_000
    later = re.findall(r'import\(\s*["`]\./(page-[\w-]+\.js)', text("static/page.js"))
    assert len(later) >= 2, "there is more to the page"
    assert not {f"static/{name}" for name in later} & set(names)
    assert all(files[f"static/{name}"].immutable for name in later)
    scripts = [name for name in files if name.startswith("static/page-")]
    assert not [name for name in scripts if "./page.js" in text(name)], "page.js would be there twice"


def test_another_model_is_another_version(artifacts: Path) -> None:
    def script(*models: str) -> object:
        return next(file.content for file in site_files(artifacts, models, lambda _: None) if file.name == "offline.js")

    assert script("toy") == script("toy") != script()


def test_what_is_pointed_at_comes_first(artifacts: Path) -> None:
    names = [file.name for file in site_files(artifacts, (), lambda _: None)]
    assert names[-4:] == ["models.json", "files.json", "index.html", "offline.js"]
    last_file = max(i for i, name in enumerate(names) if not name.endswith("model.json") and name.startswith("models/"))
    assert names.index("models/toy/model.json") > last_file


def test_an_export_takes_the_place_of_another(artifacts: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    export(artifacts, site, Silent())
    export(artifacts, site, Silent(), models=["toy"])
    assert not (site / "models" / "other").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]
    (site / "mine.txt").write_text("precious")
    with pytest.raises(WispError, match=r"holds files that are not of an export: got mine\.txt"):
        export(artifacts, site, Silent())
    assert (site / "mine.txt").read_text() == "precious"


def test_a_damaged_file_leaves_what_was_there(artifacts: Path, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    toy_artifact.write(root / "toy", toy_artifact.toy(), cpu=True)
    export(root, tmp_path / "site", Silent())
    before = contents(tmp_path / "site")
    shard = root / "toy" / "params_shard_0.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(WispError, match=r"models/toy/params_shard_0\.bin is damaged"):
        export(root, tmp_path / "site", Silent())
    assert contents(tmp_path / "site") == before
    shard.unlink()
    with pytest.raises(WispError, match="is damaged: got no file"):
        export(root, tmp_path / "new", Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "site"]


def test_one_rule_sets_how_long_a_path_is_kept(artifacts: Path) -> None:
    files = site_files(artifacts, (), lambda _: None)
    many = [file for file in files if file.name.endswith(".bin")] * 400
    large = [type(file)(f"models/m/{i}.bin", b"", file.sha256, 1 << 21) for i, file in enumerate(many)]
    lines = headers_file("/sub/", large).splitlines()
    rules = [line for line in lines if not line.startswith(" ")]
    assert rules[0] == "/sub/*"
    assert len(rules) == len(set(rules)) == MOST_RULES
    assert not [line for line in lines[: lines.index(rules[1])] if "cache-control" in line]
    assert f"  cache-control: {IMMUTABLE}" in lines


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--base", "sub"], "--base is no path: got sub"),
        (["--base", "/sub"], "--base is no path: got /sub"),
        (["--base", '/a";b/'], "--base is no path"),
        (["--base", "//"], "--base is no path"),
        (["--base", "/../"], "--base is no path"),
        (["--model", "missing"], "has no such model: got missing, expected other or toy"),
        (["--artifacts", "no-such-thing"], "no-such-thing is not a directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input(
    artifacts: Path, tmp_path: Path, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "site"), "--artifacts", str(artifacts), *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.splitlines()[-1].startswith("wisp: ")
    assert not (tmp_path / "site").exists()


def test_no_models_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / "site"), "--artifacts", str(tmp_path / "empty")]) == 2
    assert "there is no model in" in capsys.readouterr().err
