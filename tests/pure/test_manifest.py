"""The validator on a good manifest and on the bad ones that it shares with its TypeScript twin."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from compiler.artifact.manifest import Part, is_safe_path, validate
from compiler.errors import WispError

FIXTURES = Path(__file__).resolve().parent.parent / "golden" / "bad_manifests"
BAD = sorted(path for path in FIXTURES.glob("*.json") if not path.name.startswith("base"))


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def apply_patch(document: Any, patch: list[dict[str, Any]]) -> Any:
    """JSON Patch (RFC 6902): add, remove and replace."""
    document = copy.deepcopy(document)
    for operation in patch:
        *parents, last = (key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:])
        target = document
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        where = int(last) if isinstance(target, list) else last
        match operation["op"]:
            case "remove":
                del target[where]
            case "add" if isinstance(target, list):
                target.insert(where, operation["value"])
            case "add" | "replace":
                target[where] = operation["value"]
            case other:
                raise AssertionError(f"unknown operation {other}")
    return document


def check(documents: dict[str, Any]) -> dict[str, Any]:
    plans = {"webgpu-f32": documents["plan"], "wasm-simd": documents["plan"]}
    return validate(documents["model"], documents["tensor_cache"], plans)


def test_the_good_manifest_is_valid() -> None:
    tensors = check(load(FIXTURES / "base.json"))
    embedding = tensors["model.embed_tokens.q_weight"]
    assert embedding.shape == (128, 4)
    assert embedding.parts == (
        Part("params_shard_0.bin", 0, 1024, 0, 64),
        Part("params_shard_1.bin", 0, 1024, 64, 64),
    )
    assert tensors["model.norm.weight"].row_bytes == 2


def test_a_smoke_test_is_checked_where_there_is_one() -> None:
    documents = load(FIXTURES / "base.json")
    del documents["model"]["smoke"]["others"][:]
    check(documents)
    del documents["model"]["smoke"]
    check(documents)


def test_matrices_may_have_schemes_of_their_own_and_values_of_the_source() -> None:
    documents = load(FIXTURES / "base.json")
    documents["model"]["schemes"] = {"model.embed_tokens": "q8af16_g32"}
    values = {"formats": {"Q4_K": 2, "Q6_K": 1}, "exact": 0, "rounded": 2, "requantized": 1, "squared_error": 1e-6}
    documents["model"]["source_values"] = values
    check(documents)


def test_a_plan_may_have_alternatives() -> None:
    documents = load(FIXTURES / "base_alternatives.json")
    check(documents)
    documents["plan"]["alternatives"] = []
    check(documents)


def test_webgpus_limits_do_not_bind_a_plan_of_the_cpu() -> None:
    documents = load(FIXTURES / "base_wasm.json")
    scratch = documents["plan"]["buffers"][10]
    scratch["bytes"] = 2**30
    documents["plan"]["kernels"][0]["bindings"] = ["read"] * 12
    for program in documents["plan"]["programs"].values():
        program[0]["bind"] = [0] * 12
        program[0]["grid"] = [2**31 - 1, 1, 1]
    check(documents)
    del documents["model"]["variants"][0]["kernels_relaxed"]
    check(documents)


def test_a_plan_may_have_a_mask() -> None:
    documents = load(FIXTURES / "base.json")
    plan = documents["plan"]
    size = {"workgroup_size": [64, 1, 1], "workgroup_bytes": 0}
    plan["kernels"].append({"entry": "mask", **size, "bindings": ["read", "read", "read_write"]})
    plan["buffers"].append({"kind": "io", "name": "logit_mask", "bytes": 16})
    plan["buffers"].append({"kind": "io", "name": "logit_bias", "bytes": 512})
    plan["programs"]["mask"] = [{"kernel": 3, "bind": [11, 12, 9], "grid": [2, 1, 1]}]
    check(documents)


def test_a_plan_may_verify_drafts() -> None:
    documents = load(FIXTURES / "base.json")
    programs = documents["plan"]["programs"]
    programs["verify_8"] = programs["decode"] * 2
    check(documents)
    programs["verify_9999"] = programs.pop("verify_8")
    with pytest.raises(WispError, match="verify_9999"):
        check(documents)


def test_there_are_bad_manifests() -> None:
    assert len(BAD) >= 80


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_manifest_is_refused(path: Path) -> None:
    fixture = load(path)
    documents = load(FIXTURES / fixture.get("base", "base.json"))
    documents[fixture["target"]] = apply_patch(documents[fixture["target"]], fixture["patch"])
    with pytest.raises(WispError) as caught:
        check(documents)
    assert fixture["error"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_may_be_null_only_in_the_manifest() -> None:
    documents = load(FIXTURES / "base.json")
    documents["model"]["weights"] = None
    documents["tensor_cache"] = None
    assert check(documents) == {}
    del documents["model"]["weights"]
    with pytest.raises(WispError, match="weights"):
        check(documents)


def test_a_tensor_over_the_shard_size_may_have_a_shard_of_its_own() -> None:
    documents = load(FIXTURES / "base.json")
    documents["tensor_cache"]["records"].append(
        {
            "dataPath": "params_shard_2.bin",
            "format": "raw-shard",
            "nbytes": 2**26,
            "md5sum": "2" * 32,
            "records": [
                {
                    "name": "large",
                    "shape": [2**24],
                    "dtype": "float32",
                    "format": "raw",
                    "nbytes": 2**26,
                    "byteOffset": 0,
                }
            ],
        }
    )
    documents["model"]["files"]["params_shard_2.bin"] = {"bytes": 2**26, "sha256": "0" * 64}
    documents["model"]["weight_bytes"] += 2**26
    assert check(documents)["large"].parts[0].bytes == 2**26


@pytest.mark.parametrize(
    "path", ["", ".", "..", "a/../b", ".hidden", "a/.hidden", "/a", "a//b", "a/", "a b", "é", "c:d"]
)
def test_unsafe_paths(path: str) -> None:
    assert not is_safe_path(path)


@pytest.mark.parametrize("path", ["model.safetensors", "webgpu-f32/plan.json", "params_shard_0.bin"])
def test_safe_paths(path: str) -> None:
    assert is_safe_path(path)
