"""What a variant asks of a device beyond WebGPU's defaults: stated where a buffer passes them, refused where no device
has so much, before anything is lowered."""

import dataclasses
import json
from pathlib import Path

import pytest

import compiler.lowering.lower
from compiler.build import build, fitting_variants
from compiler.config import resolve_config
from compiler.errors import WispError
from compiler.lowering.limits import obstacle, required_limits
from compiler.lowering.lower import geometry_of, lower_variant
from compiler.models import config_from_huggingface
from compiler.progress import Silent
from compiler.recipes import plan_recipe
from compiler.target.limits import DEFAULT_LIMITS, LARGEST_BINDING
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
# 64 heads of keys and values of 256: a position takes 64 KiB of a layer, 128 KiB on the CPU.
WIDE = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "head_dim": 256,
    "vocab_size": 320,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 65536,
    "tie_word_embeddings": True,
}
MOST = LARGEST_BINDING // 65536


class Notes(Silent):
    """Keeps what a build has to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def wide(path: Path, **fields: int) -> str:
    """A recipe of a model with a very large cache."""
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in (WIDE | fields).items())
    path.write_text(f'source = "org/wide"\n[architecture]\n{table}\n')
    return str(path)


@pytest.fixture
def no_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("lowered, before the limits were checked")

    monkeypatch.setattr(compiler.lowering.lower, "_plan_programs", refuse)


@pytest.mark.parametrize(
    ("recipe", "context", "largest"),
    [
        ("phi-3-mini-128k-instruct", 8192, None),
        ("phi-3-mini-128k-instruct", 32768, 32768 * 2 * 32 * 96 * 2),
        ("llama-3.1-8b-instruct", 32768, None),
        ("llama-3.1-8b-instruct", 131072, 131072 * 2 * 8 * 128 * 2),
    ],
)
def test_long_contexts_compile_and_state_their_limits(
    tmp_path: Path, recipe: str, context: int, largest: int | None
) -> None:
    path, variant = CONFIGS / f"{recipe}.toml", "webgpu-f32"
    output = tmp_path / "out"
    build(resolve_config(str(path), weights="none", context=context, variants=[variant], kv="f16", output=output))
    (entry,) = json.loads((output / "model.json").read_text())["variants"]
    caches = [b for b in json.loads((output / variant / "plan.json").read_text())["buffers"] if b["kind"] == "kv"]
    assert entry["kv_bytes_per_token"] * context == sum(b["bytes"] for b in caches)
    if largest is None:
        assert max(b["bytes"] for b in caches) <= DEFAULT_LIMITS["maxStorageBufferBindingSize"]
        assert entry["required_limits"] == {}
    else:
        assert {b["bytes"] for b in caches} == {largest}
        assert entry["required_limits"] == {"maxStorageBufferBindingSize": largest, "maxBufferSize": largest}


def test_a_binding_may_pass_its_default_where_a_buffer_does_not() -> None:
    """maxBufferSize is 256 MiB by default, maxStorageBufferBindingSize half of that."""
    plan = {"buffers": [{"bytes": 16}, {"bytes": (200 << 20) + 2}]}
    assert required_limits(plan) == {"maxStorageBufferBindingSize": (200 << 20) + 4}
    assert required_limits({"buffers": [{"bytes": 128 << 20}]}) == {}


@pytest.mark.usefixtures("no_lowering")
@pytest.mark.parametrize("variants", [["webgpu-f32"], ["webgpu-f32", "wasm-simd"], None])
def test_what_no_device_holds_is_refused_by_name(tmp_path: Path, variants: list[str] | None) -> None:
    """Also from a recipe that names its variants."""
    recipe = Path(wide(tmp_path / "wide.toml"))
    if variants is None:
        recipe.write_text('variants = ["webgpu-f32-sg", "webgpu-f32", "wasm-simd"]\n' + recipe.read_text())
    output = tmp_path / "out"
    config = resolve_config(str(recipe), weights="none", context=40000, variants=variants, kv="f16", output=output)
    named = "webgpu-f32-sg" if variants is None else "webgpu-f32"
    with pytest.raises(WispError, match=f"KV cache exceeds what {named} can address.*--context {MOST} or less"):
        build(config)
    assert not (tmp_path / "out").exists()


def test_a_default_variant_that_does_not_fit_is_left_out_with_a_note(tmp_path: Path) -> None:
    """What 16 bits do not hold, 8 bits may."""
    config = resolve_config(wide(tmp_path / "wide.toml"), weights="none", context=40000, output=tmp_path / "out")
    notes = Notes()
    output = build(config, notes)
    written = [v["name"] for v in json.loads((output / "model.json").read_text())["variants"]]
    assert written == ["webgpu-f32-sg-q8", "webgpu-f32-q8", "wasm-simd", "wasm-simd-q8"]
    left = [note for note in notes.notes if note.startswith("left out")]
    assert [note.split(":")[0] for note in left] == ["left out webgpu-f32-sg", "left out webgpu-f32"]
    assert all(f"--context {MOST}" in note for note in left)


@pytest.mark.usefixtures("no_lowering")
def test_the_largest_context_that_is_named_fits(tmp_path: Path) -> None:
    model = config_from_huggingface(WIDE, MOST)
    geometry = geometry_of(model, SCHEMES["q4f16_1"], VARIANTS["webgpu-f32"], MOST, (64,))
    assert obstacle(geometry) is None
    assert obstacle(dataclasses.replace(geometry, context=MOST + 1)) is not None
    cpu = geometry_of(model, SCHEMES["q4f16_1"], VARIANTS["wasm-simd"], 131071, (64,))
    assert obstacle(cpu) is None
    refused = obstacle(dataclasses.replace(cpu, context=131072))
    assert refused is not None
    assert "wasm-simd can address" in str(refused)
    assert "--context 131071" in str(refused)
    # With no variant left there is nothing to leave out.
    config, network = plan_recipe(Path(wide(tmp_path / "wide.toml")))
    config = dataclasses.replace(config, variants=("webgpu-f32-sg", "webgpu-f32"), variants_named=False, kv="f16")
    with pytest.raises(WispError, match="webgpu-f32-sg can address"):
        fitting_variants(config, dataclasses.replace(network, context=MOST + 1), Silent())


@pytest.mark.usefixtures("no_lowering")
@pytest.mark.parametrize(
    ("fields", "scheme", "chunk", "message"),
    [
        ({"intermediate_size": 1 << 18}, "q4f16_1", 4096, "chunk of prefill.*webgpu-f32.*prefill_chunks of at most 20"),
        ({"intermediate_size": 1 << 18, "hidden_size": 8192}, "q0f32", 64, "gate_up_proj.weight.*webgpu-f32.*--quant"),
    ],
)
def test_other_buffers_are_refused_too(fields: dict[str, int], scheme: str, chunk: int, message: str) -> None:
    model = config_from_huggingface(WIDE | fields, 4096)
    with pytest.raises(WispError, match=message):
        lower_variant(model, SCHEMES[scheme], VARIANTS["webgpu-f32"], 4096, (chunk,))


def test_a_matrix_over_the_default_binding_is_stated() -> None:
    """Only the vocabulary's matrices are cut; another one that is larger asks for a larger binding."""
    model = config_from_huggingface(WIDE | {"hidden_size": 512, "intermediate_size": 1 << 17}, 256)
    lowered = lower_variant(model, SCHEMES["q0f16"], VARIANTS["webgpu-f32"], 256, (16,), alternatives=False)
    size = 2 * (1 << 17) * 512 * 2
    assert lowered.required_limits == {"maxStorageBufferBindingSize": size}
