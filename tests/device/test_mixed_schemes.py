"""The embedding or the vocabulary projection in 8 bits beside 4: `wisp check` holds the artifact to its checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.artifact.writer import load_artifact
from compiler.build import build
from compiler.check.parity import check
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.sources.open import open_checkpoint
from tests.checkpoints import make_llama, make_phi3
from tests.device.harness import Gpu

VARIANTS = ["webgpu-f32"]


def recipe(path: Path, source: Path, **overrides: str) -> Path:
    table = "\n".join(f'{role} = "{scheme}"' for role, scheme in overrides.items())
    path.write_text(f'source = "{source}"\n[quantization_overrides]\n{table}\n')
    return path


@pytest.mark.parametrize(
    ("make", "overrides", "words"),
    [
        (make_llama, {"embedding": "q8f16_1"}, {"model.embed_tokens": 8}),
        (make_phi3, {"lm_head": "q8f16_1"}, {"transformer.embd": 4, "lm_head": 8}),
        (make_phi3, {"lm_head": "q0f16", "embedding": "q8f16_1"}, {"transformer.embd": 8, "lm_head": None}),
    ],
    ids=["tied", "untied", "untied, both"],
)
def test_parity(tmp_path: Path, gpu: Gpu, make: Any, overrides: dict[str, str], words: dict[str, int | None]) -> None:
    source = make(tmp_path / "source")
    path = recipe(tmp_path / "recipe.toml", source, **overrides)
    config = resolve_config(str(path), output=tmp_path / "out", variants=VARIANTS, context=64, quantization="q4f16_1")
    output = build(config)
    artifact = load_artifact(output)
    assert artifact.model["quantization"] == "q4f16_1"
    assert artifact.model["quantization_overrides"] == overrides
    hidden = artifact.model["architecture"]["hidden_size"]
    for name, per_group in words.items():
        if per_group is None:
            assert artifact.tensors[f"{name}.weight"].shape[1] == hidden
        else:
            assert artifact.tensors[f"{name}.q_weight"].shape[1] == hidden // 32 * per_group
    report = check(output, str(source), tokens=16)
    assert report["passed"], report["failures"]
    assert report["weights"] == {"tensors": len(artifact.tensors), "compared": True, "differing": []}
    again = build(resolve_config(str(output), output=tmp_path / "again", variants=VARIANTS, context=64))
    stored, copied = (json.loads((path / "tensor-cache.json").read_text()) for path in (output, again))
    assert stored == copied, "an artifact compiles again, bit for bit"
    assert json.loads((again / "model.json").read_text())["quantization_overrides"] == overrides


def test_overrides_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    source = make_llama(tmp_path / "source")
    for overrides, named in [
        ({"lm_head": "q8f16_1"}, "no lm_head of its own"),
        ({"qkv": "q8f16_1"}, "unknown key.*qkv.*embedding or lm_head"),
        ({"embedding": "q3"}, "q3.*q4f16_1 or"),
    ]:
        with pytest.raises(WispError, match=named):
            build(resolve_config(str(recipe(tmp_path / "recipe.toml", source, **overrides)), output=tmp_path / "out"))
    assert open_checkpoint(source).config["tie_word_embeddings"]
