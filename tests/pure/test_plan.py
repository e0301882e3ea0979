"""The plan: planned and shared storages carry the same data as one buffer a tensor would; dumps are in order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tvm import relax

from compiler.errors import WispError
from compiler.kernels.webgpu.tuning import ALTERNATIVES
from compiler.lowering import lower
from compiler.lowering.lower import Lowered, lower_variant
from compiler.lowering.plan import Call, Program, assemble, read_program, share_storages
from compiler.lowering.wgsl import KernelInfo
from compiler.models import config_from_huggingface, weight_specs
from compiler.models.base import Layer, Mlp, ModelConfig, Norm
from compiler.network.graph import Graph
from compiler.network.layers import Geometry
from compiler.network.webgpu import WebGpu
from compiler.target.variants import VARIANTS
from compiler.weights.schemes import SCHEMES

VARIANT, SCHEME, CONTEXT, CHUNKS = VARIANTS["webgpu-f32"], SCHEMES["q4f16_1"], 512, (32, 16)


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    raw = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 331,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    }
    return config_from_huggingface(raw, CONTEXT)


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dump")


@pytest.fixture(scope="module")
def lowered(model: ModelConfig, dump: Path) -> Lowered:
    return lower_variant(model, SCHEME, VARIANT, CONTEXT, CHUNKS, dump)


# --------------------------------------------------------------------------------------------------------- data flow


Access = tuple[str, tuple[Any, ...]]  # a dispatch's entry point and what it reads


def data_flow(dispatches: Iterable[tuple[KernelInfo, list[str]]]) -> list[Access]:
    """What each dispatch reads, as the name of the dispatch that wrote it; `dispatches` are (kernel, buffers bound).

    A buffer that no dispatch of the program has written holds its own name. A binding that is written is read too where
    it is a parameter (a cache, the state): its old content matters.
    """
    content: dict[str, Any] = {}
    flow = []
    for number, (info, bound) in enumerate(dispatches):
        pairs = list(zip(bound, info.bindings, strict=True))
        read = [content.get(b, b) for b, access in pairs if access == "read" or not b.startswith("scratch")]
        flow.append((info.entry, tuple(read)))
        for place, (buffer, access) in enumerate(pairs):
            if access == "read_write":
                content[buffer] = (number, place)
    return flow


@dataclass(frozen=True)
class Unplanned:
    """The same programs before Relax plans their memory, when every tensor has a storage of its own."""

    flow: dict[str, list[Access]]
    bytes: dict[str, list[list[int]]]  # of each dispatch's bindings; 0 for those that are parameters


@pytest.fixture(scope="module")
def unplanned(model: ModelConfig) -> Unplanned:
    graph = Graph(Geometry(model, SCHEME, VARIANT, CONTEXT, CHUNKS), weight_specs(model), WebGpu())
    module, parameters = graph.export_tvm({program: {} for program in graph.geometry.programs})
    for name, make in lower.PASSES:
        if name != "static_plan_block_memory":
            module = make()(module)
    names = [lower._label(name) for name, _ in parameters]
    kernels = lower._render(graph.kernels.functions)
    flow, sizes = {}, {}
    for name, program in lower._read_programs(module, graph, names).items():
        bound = [[call.operands[i] for i in kernels[call.kernel].parameters] for call in program.calls]
        infos = [kernels[call.kernel] for call in program.calls]
        flow[name] = data_flow(zip(infos, [[_named(o) for o in operands] for operands in bound], strict=True))
        storages = {f"storage:{i}": size for i, size in enumerate(program.storages)}
        sizes[name] = [[storages.get(operand, 0) for operand in operands] for operands in bound]
    return Unplanned(flow, sizes)


def _named(operand: str) -> str:
    return operand.replace("storage:", "scratch.").removeprefix("runtime.")


def planned_flow(plan: dict[str, Any]) -> dict[str, list[Access]]:
    infos = [
        KernelInfo(k["entry"], tuple(k["workgroup_size"]), 0, tuple(k["bindings"]), (), (1, 1, 1), "")
        for k in plan["kernels"]
    ]
    names = [buffer["name"] for buffer in plan["buffers"]]
    return {
        name: data_flow((infos[d["kernel"]], [names[b] for b in d["bind"]]) for d in program)
        for name, program in plan["programs"].items()
    }


def test_shared_buffers_never_hold_two_live_tensors(unplanned: Unplanned, lowered: Lowered) -> None:
    """Every dispatch of the plan reads what the dispatch that was meant to wrote, as it would without any sharing."""
    got = planned_flow(lowered.plan)
    assert got == unplanned.flow
    assert {name: len(flow) for name, flow in got.items()} == {
        "decode": 23,
        "mask": 1,
        "prefill_32": 20,
        "prefill_16": 20,
        "verify_8": 59,
    }
    scratch = [b for b in lowered.plan["buffers"] if b["kind"] == "scratch"]
    assert len(scratch) < 12, "nothing is shared, so this test proves nothing"


def test_the_comparison_notices_an_alias(lowered: Lowered) -> None:
    """Binding one scratch buffer in place of another changes the data flow."""
    want = planned_flow(lowered.plan)
    scratch = [i for i, b in enumerate(lowered.plan["buffers"]) if b["kind"] == "scratch"]
    changed = 0
    for first, second in itertools.combinations(scratch, 2):
        plan = json.loads(json.dumps(lowered.plan))
        for dispatch in plan["programs"]["decode"]:
            dispatch["bind"] = [first if b == second else b for b in dispatch["bind"]]
        changed += planned_flow(plan) != want
    assert changed > 0


def test_scratch_buffers_are_large_enough(unplanned: Unplanned, lowered: Lowered) -> None:
    buffers = lowered.plan["buffers"]
    for name, program in lowered.plan["programs"].items():
        for dispatch, needed in zip(program, unplanned.bytes[name], strict=True):
            for buffer, size in zip(dispatch["bind"], needed, strict=True):
                assert buffers[buffer]["bytes"] >= size
                assert (buffers[buffer]["kind"] == "scratch") == (size > 0)


# ------------------------------------------------------------------------------------------------------------- pieces


def test_programs_share_storages_by_size() -> None:
    sizes, places = share_storages(
        {"decode": Program((), (100, 8, 5000)), "prefill_16": Program((), (64, 4096)), "empty": Program((), ())}
    )
    assert sizes == [5008, 112, 16]
    assert places["decode"] == {"storage:2": 0, "storage:0": 1, "storage:1": 2}
    assert places["prefill_16"] == {"storage:1": 0, "storage:0": 1}
    for program in places.values():
        assert len(set(program.values())) == len(program), "two storages of a program have one buffer"


def test_assemble_orders_operands_as_the_kernel_binds_them() -> None:
    info = KernelInfo("scale", (64, 1, 1), 0, ("read", "read_write"), (1, 0), (3, 1, 1), "")
    named = {
        "w": {"kind": "weight", "name": "w", "bytes": 16},
        "unused": {"kind": "io", "name": "unused", "bytes": 16},
        "state": {"kind": "state", "name": "state", "bytes": 64},
    }
    program = Program((Call("a", ("storage:0", "w")), Call("b", ("state", "storage:0"))), (48,))
    plan = assemble({"format": "wisp-plan"}, named, {"decode": program}, {"a": info, "b": info})
    assert [b["name"] for b in plan["buffers"]] == ["w", "state", "scratch.0"]
    assert len(plan["kernels"]) == 1, "kernels of one text are one kernel"
    assert [d["bind"] for d in plan["programs"]["decode"]] == [[0, 2], [2, 1]]
    assert plan["programs"]["decode"][0]["grid"] == [3, 1, 1]


def test_a_function_that_is_not_planned_is_refused(model: ModelConfig) -> None:
    graph = Graph(Geometry(model, SCHEME, VARIANT, CONTEXT, CHUNKS), weight_specs(model), WebGpu())
    module, parameters = graph.export_tvm({"decode": {}})
    module = relax.transform.ToNonDataflow()(module)
    names = [lower._label(name) for name, _ in parameters]
    with pytest.raises(RuntimeError, match="unexpected call"):
        read_program(module["decode"], names, {})


# -------------------------------------------------------------------------------------------------------------- dumps


def test_dumps_are_numbered_in_the_order_of_the_stages(lowered: Lowered, dump: Path) -> None:
    files = sorted(path.name for path in (dump / VARIANT.name).iterdir())
    own = ["graph.py", *(f"{name}.py" for name, _ in lower.PASSES), "kernels.wgsl"]
    stages = [*own, *(f"{a.name}_{stage}" for a in ALTERNATIVES[VARIANT.name] for stage in own), "plan.json"]
    assert files == [f"{i:02d}_{stage}" for i, stage in enumerate(stages)]
    assert json.loads((dump / VARIANT.name / files[-1]).read_text()) == lowered.plan
    assert (dump / VARIANT.name / files[len(own) - 1]).read_text() == lowered.kernels
    assert "alloc_storage" in (dump / VARIANT.name / "04_static_plan_block_memory.py").read_text()


# -------------------------------------------------------------------------------------------------------- alternatives


def test_alternatives_have_no_kernel_that_the_plan_has(lowered: Lowered) -> None:
    plan = lowered.plan
    alternatives = {a["name"]: a for a in plan["alternatives"]}
    assert list(alternatives) == [a.name for a in ALTERNATIVES[VARIANT.name]]
    assert set(alternatives["narrow"]["programs"]) == {"decode", "prefill_32", "prefill_16"}
    assert set(alternatives["wide"]["programs"]) == {"decode"}
    assert set(alternatives["packed"]["programs"]) == {"prefill_32", "prefill_16"}
    assert alternatives["packed"]["language_features"] == ["packed_4x8_integer_dot_product"]
    assert sorted(lowered.alternatives) == sorted(a["kernels_file"] for a in plan["alternatives"])
    for name, alternative in alternatives.items():
        source = lowered.alternatives[alternative["kernels_file"]].decode()
        kernels = plan["kernels"] + alternative["kernels"]
        for kernel in alternative["kernels"]:
            assert f"fn {kernel['entry']}(" in source
            assert kernel["entry"].endswith(f"_{name}")
        used = {d["kernel"] for program in alternative["programs"].values() for d in program}
        assert used >= set(range(len(plan["kernels"]), len(kernels))), "a kernel that nothing uses"
        assert used & set(range(len(plan["kernels"]))), "the embedding, for one, is the plan's own"
        for program, dispatches in alternative["programs"].items():
            more = 4 if name == "packed" else 0  # two layers quantize twice more; the last ends before it has to
            own = plan["programs"][program]
            assert len(dispatches) == len(own) + more
            if not more:  # so that a runtime may choose by kernel
                assert [d["bind"] for d in dispatches] == [d["bind"] for d in own]
    assert {name: bool(a["preferred_on"]) for name, a in alternatives.items()} == {
        "narrow": False,
        "wide": False,
        "packed": True,
    }


def test_an_alternative_for_other_weights_is_left_out(model: ModelConfig) -> None:
    plan = lower_variant(model, SCHEMES["q0f16"], VARIANT, CONTEXT, CHUNKS).plan
    assert [a["name"] for a in plan["alternatives"]] == ["narrow", "wide"]


def test_alternatives_use_scratch_buffers_as_the_plan_does(lowered: Lowered) -> None:
    """With the same steps in the same order, every dispatch reads what its counterpart in the plan reads."""
    plan = lowered.plan
    for alternative in plan["alternatives"]:
        if alternative["name"] == "packed":
            continue
        programs = alternative["programs"]
        view = {**plan, "kernels": plan["kernels"] + alternative["kernels"], "programs": programs}
        got, want = planned_flow(view), planned_flow(plan)
        for program in programs:
            assert [read for _, read in got[program]] == [read for _, read in want[program]]


def test_two_compilations_are_equal(model: ModelConfig, lowered: Lowered) -> None:
    again = lower_variant(model, SCHEME, VARIANT, CONTEXT, CHUNKS)
    assert again.plan == lowered.plan
    assert again.kernels == lowered.kernels
    assert again.alternatives == lowered.alternatives


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda layer: replace(layer, mlp=Mlp(layer.mlp.norm, "silu", gated=False)), "without a gate and with silu"),
        (lambda layer: replace(layer, mlp=replace(layer.mlp, output_norm=Norm("layer", 1e-5))), "no RMS norm"),
        (lambda layer: replace(layer, attention=replace(layer.attention, rope=None)), "without any positions"),
    ],
)
def test_what_no_kernel_does_is_refused(model: ModelConfig, change: Callable[[Layer], Layer], what: str) -> None:
    described = replace(model, layers=tuple(change(layer) for layer in model.layers))
    with pytest.raises(WispError, match=what):
        Graph(Geometry(described, SCHEME, VARIANT, CONTEXT, CHUNKS), weight_specs(model), WebGpu())
