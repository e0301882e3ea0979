"""`wisp publish hf://org/name` against a stand-in for the Hub: one commit with every file, and a card."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from compiler.artifact.writer import load_artifact
from compiler.cli import main
from compiler.errors import WispError
from compiler.progress import Silent
from compiler.site.hub import publish_to_hub
from tests import hub
from tests.checkpoints import make_llama

# Of the Hub's library, when it uploads.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPORT = {
    "artifact": "toy",
    "passed": True,
    "evaluated_tokens": 512,
    "perplexity": {"source": 20.75, "stored": 20.751},
    "quantization_error": {"kl_mean": 0.00012, "top1_agreement": 0.998},
    "variants": [
        {"name": "webgpu-f32", "status": "skipped", "reason": "no adapter"},
        {"name": "wasm-simd", "status": "passed", "max_error": 0.00021, "bound": 0.002},
    ],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built")
    source = make_llama(root / "tiny")
    options = ["--variants", "webgpu-f32", "--context", "64", "--name", "toy"]
    assert main(["compile", str(source), "-o", str(root / "toy"), *options]) == 0
    return root / "toy"


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "artifacts" / "toy"
    shutil.copytree(built, directory)
    manifest = json.loads((directory / "model.json").read_bytes())
    manifest["source"] = {"kind": "hub", "id": "org/base/model.gguf", "revision": "abc"}
    manifest |= {"license": "Apache-2.0", "name": "Toy"}
    (directory / "model.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    with hub.running() as running:
        running.root = tmp_path / "hub"
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield running


def published(artifact: Path, *options: str) -> int:
    return main(["publish", "hf://me/toy", "--artifacts", str(artifact.parent), "--model", "toy", *options])


def test_an_artifact_arrives_as_one_commit_with_a_card(artifact: Path, stand_in: hub.Hub, tmp_path: Path) -> None:
    (tmp_path / "check.json").write_text(json.dumps(REPORT))
    assert published(artifact, "--parity", str(tmp_path / "check.json")) == 0
    (names,) = stand_in.commits
    root = stand_in.repositories["me/toy"]
    listed = {*load_artifact(artifact).model["files"], "model.json"}
    assert sorted(names) == sorted([*listed, "README.md"])
    assert all((root / name).read_bytes() == (artifact / name).read_bytes() for name in listed)
    load_artifact(root)
    card = (root / "README.md").read_text()
    front = card.split("---")[1]
    for line in ("license: apache-2.0", "base_model: org/base", "library_name: wisp", "pipeline_tag: text-generation"):
        assert line in front.splitlines()
    for fact in ("# Toy", "hub `org/base/model.gguf` at `abc`", "| license of the weights | Apache-2.0 |"):
        assert fact in card
    for figure in ("512 tokens", "20.75", "0.00012", "99.8 %", "| `wasm-simd` | 0.00021 | 0.002 |"):
        assert figure in card
    assert "no adapter" not in card


def test_a_license_that_the_hub_does_not_know_is_named(artifact: Path, stand_in: hub.Hub) -> None:
    manifest = json.loads((artifact / "model.json").read_bytes()) | {"license": "Falcon LLM License"}
    (artifact / "model.json").write_text(json.dumps(manifest))
    assert published(artifact) == 0
    front = (stand_in.repositories["me/toy"] / "README.md").read_text().split("---")[1].splitlines()
    assert {"license: other", "license_name: Falcon LLM License"} <= set(front)


def test_what_was_not_measured_is_not_claimed(artifact: Path, stand_in: hub.Hub) -> None:
    assert published(artifact) == 0
    assert "Not measured" in (stand_in.repositories["me/toy"] / "README.md").read_text()


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        ({**REPORT, "artifact": "other"}, "does not vouch for toy: got other, passed: True"),
        ({**REPORT, "passed": False}, "does not vouch for toy: got toy, passed: False"),
        ({"artifact": "toy", "passed": True}, "is no report of parity"),
        ([], "is no report of parity"),
        (None, "is no report of parity"),
    ],
)
def test_a_report_has_to_vouch_for_the_artifact(
    artifact: Path, stand_in: hub.Hub, tmp_path: Path, report: Any, complaint: str
) -> None:
    if report is not None:
        (tmp_path / "check.json").write_text(json.dumps(report))
    with pytest.raises(WispError, match=complaint):
        publish_to_hub(artifact, "me/toy", Silent(), parity=tmp_path / "check.json")
    assert stand_in.commits == []


def test_whoever_may_not_write_is_told(
    artifact: Path, stand_in: hub.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert published(artifact) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the Hub does not take 'me/toy'" in error
    assert "hf auth login" in error
