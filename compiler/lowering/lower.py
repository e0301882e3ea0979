"""Model graph -> plan and kernels, as ordered passes; each can be dumped.

The whole lowering of a variant, top to bottom: build the graph, let Relax allocate and plan its tensors, read the
planned functions as dispatch lists, compile the kernels into one module of WGSL or WebAssembly. No pass calls another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm_ffi import StructuralKey

from ..kernels.rope import rope_table
from ..kernels.webgpu.tuning import ALTERNATIVES, TOLERANCE
from ..models import weight_specs
from ..models.base import ModelConfig
from ..network.backend import Backend
from ..network.cpu import Cpu
from ..network.graph import Graph
from ..network.hearing import HearingGraph
from ..network.layers import RING_SIZE, Geometry
from ..network.webgpu import WebGpu
from ..target.limits import COMPATIBILITY_INVOCATIONS, DEFAULT_LIMITS
from ..target.variants import ACTIVATION_DTYPE, Variant
from ..weights.quantize import parameter_layout
from ..weights.schemes import Scheme
from . import limits, wasm, wgsl
from .plan import AlternativePrograms, Program, assemble, read_program
from .wgsl import KernelInfo

PASSES: tuple[tuple[str, Any], ...] = (
    ("to_non_dataflow", relax.transform.ToNonDataflow),
    ("remove_purity_checking", relax.transform.RemovePurityChecking),
    ("call_tir_rewrite", relax.transform.CallTIRRewrite),
    ("static_plan_block_memory", relax.transform.StaticPlanBlockMemory),
)
MAX_INVOCATIONS = DEFAULT_LIMITS["maxComputeInvocationsPerWorkgroup"]


Identity = tuple[tuple[str, ...], StructuralKey]
Show = Callable[[str, Callable[[], str]], None]  # (name, text): what dumps a stage's result


@dataclass(frozen=True)
class Lowered:
    """A variant, compiled: the content of plan.json, and its modules by their keys in model.json (`kernels`, ...).

    `required_limits` are those of its entry there; `alternatives` are the modules of the plan's alternatives, by their
    paths in the artifact.
    """

    plan: dict[str, Any]
    modules: dict[str, bytes]
    kv_dtype: str
    required_limits: dict[str, int] = field(default_factory=dict)
    alternatives: dict[str, bytes] = field(default_factory=dict)

    @property
    def kernels(self) -> str:
        """The text of a WebGPU variant's module."""
        return self.modules["kernels"].decode()


class Dump:
    """Writes what each stage made into a directory, under numbered names; does nothing without one."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._count = 0

    def __call__(self, name: str, text: Callable[[], str]) -> None:
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / f"{self._count:02d}_{name}").write_text(text())
        self._count += 1


def lower_variant(
    model: ModelConfig,
    scheme: Scheme,
    variant: Variant,
    context: int,
    prefill_chunks: tuple[int, ...],
    dump: Path | None = None,
    alternatives: bool = True,
) -> Lowered:
    """Compile one variant. With `dump`, every stage's result is written to `dump/<variant>/`.

    Without `alternatives` only the default programs and, of the CPU, the module that every engine runs: half the time.

    Raises `WispError`, before it compiles anything, when no device would hold a buffer of it.
    """
    show = Dump(dump / variant.name if dump else None)
    geometry = geometry_of(model, scheme, variant, context, prefill_chunks)
    if (obstacle := limits.obstacle(geometry)) is not None:
        raise obstacle
    graph, programs, parameters = _plan_programs(geometry, show)
    if variant.backend == "wasm":
        kernels, modules = _compile_wasm(graph, show, alternatives)
    else:
        kernels, modules = _compile_wgsl(graph, variant, show)
    made = [
        found
        for alternative in (ALTERNATIVES.get(variant.tuned_as, ()) if alternatives else ())
        if (found := _lower_alternative(replace(geometry, alternative=alternative), graph, kernels, show))
    ]
    header = {
        "format": "wisp-plan",
        "format_version": 1,
        "variant": variant.name,
        "activation_dtype": ACTIVATION_DTYPE,
        "context": context,
        "vocab_size": model.vocab_size,
        "ring_size": RING_SIZE,
        "prefill_chunks": list(geometry.prefill_chunks),
    }
    shapes = _weight_shapes(geometry)
    named = {label: _describe(label, parameter, geometry, shapes) for label, parameter in parameters.items()}
    plan = assemble(header, named, programs, kernels, [a for a, _ in made])
    show("plan.json", lambda: json.dumps(plan, indent=1))
    required: dict[str, int] = {}
    if variant.backend == "webgpu":
        _check_kernels(plan, MAX_INVOCATIONS if variant.subgroups else COMPATIBILITY_INVOCATIONS)
        required = limits.required_limits(plan)
    return Lowered(plan, modules, geometry.cache.dtype, required, {a.kernels_file: source for a, source in made})


def geometry_of(
    model: ModelConfig, scheme: Scheme, variant: Variant, context: int, prefill_chunks: tuple[int, ...]
) -> Geometry:
    """What a variant is compiled for."""
    if variant.backend == "wasm":  # a CPU does no work for padding: the largest chunk serves every length
        prefill_chunks = (max(prefill_chunks),) if prefill_chunks else ()
    return Geometry(model, scheme, variant, context, prefill_chunks)


def _plan_programs(geometry: Geometry, show: Show) -> tuple[Graph, dict[str, Program], dict[str, Any]]:
    """(graph, planned programs, parameters by label) of a geometry."""
    graph = graph_of(geometry)
    module, parameters = graph.export_tvm({program: {} for program in geometry.programs})
    show("graph.py", module.script)
    for name, make in PASSES:
        module = make()(module)
        show(f"{name}.py", module.script)
    labelled = {_label(name): parameter for name, parameter in parameters}
    return graph, _read_programs(module, graph, list(labelled)), labelled


def _lower_alternative(
    geometry: Geometry, own: Graph, kernels: Mapping[str, KernelInfo], show: Show
) -> tuple[AlternativePrograms, bytes] | None:
    """The programs of `geometry.alternative` and the WGSL of the kernels that `own`, the plan's graph, lacks.

    None where it lacks none: the alternative is one for other models.
    """
    alternative, variant = geometry.alternative, geometry.variant
    assert alternative is not None

    def show_prefixed(name: str, text: Callable[[], str]) -> None:
        show(f"{alternative.name}_{name}", text)

    graph, programs, _ = _plan_programs(geometry, show_prefixed)
    known = {_identity(function): kernels[name] for name, function in own.kernels.functions.items()}
    shared = {name: known[key] for name, f in graph.kernels.functions.items() if (key := _identity(f)) in known}
    fresh = {name: f for name, f in graph.kernels.functions.items() if name not in shared}
    if not fresh:
        return None
    rendered = _render(fresh)
    source = wgsl.join(_unique(rendered), variant.subgroups)
    show_prefixed("kernels.wgsl", lambda: source)
    found = AlternativePrograms(
        alternative.name,
        f"{variant.name}/{alternative.name}.wgsl",
        alternative.language_features,
        alternative.preferred_on,
        TOLERANCE,
        programs,
        shared | rendered,
    )
    return found, source.encode()


def _compile_wgsl(graph: Graph, variant: Variant, show: Dump) -> tuple[dict[str, KernelInfo], dict[str, bytes]]:
    kernels = _render(graph.kernels.functions)
    source = wgsl.join(_unique(kernels), variant.subgroups)
    show("kernels.wgsl", lambda: source)
    return kernels, {"kernels": source.encode()}


def _compile_wasm(graph: Graph, show: Dump, relaxed: bool) -> tuple[dict[str, KernelInfo], dict[str, bytes]]:
    functions = graph.kernels.functions
    kernels = wasm.describe(functions)
    entries = {name: functions[name] for name in _unique(kernels)}
    show("kernels.py", lambda: "\n".join(function.script() for function in entries.values()))
    keys = {"kernels": False, "kernels_relaxed": True} if relaxed else {"kernels": False}
    return kernels, dict(zip(keys, wasm.compile_modules(entries, list(keys.values())), strict=True))


def graph_of(geometry: Geometry) -> Graph:
    """The graph of a model's network, made of the kernels of its variant's backend."""
    backend: Backend = Cpu() if geometry.variant.backend == "wasm" else WebGpu()
    kind = Graph if geometry.model.encoder is None else HearingGraph
    return kind(geometry, weight_specs(geometry.model), backend)


def rope_constants(model: ModelConfig, context: int) -> bytes:
    """The content of constants.bin; nothing where nothing rotates."""
    if not model.ropes:
        return b""
    frequencies = np.concatenate([np.asarray(rope.inv_freq, np.float64) for rope in model.ropes])
    scaling = np.concatenate([np.full(len(rope.inv_freq), rope.scaling) for rope in model.ropes])
    return rope_table(frequencies, scaling, context).astype("<f4").tobytes()


def _label(parameter: str) -> str:
    """nn.Module's path of a parameter -> its name in the plan; rows behind `@` where a matrix is cut."""
    head, _, rest = parameter.partition(".")
    return rest if head.startswith("matrix") else parameter


def _read_programs(module: tvm.IRModule, graph: Graph, names: list[str]) -> dict[str, Program]:
    callees = {g: str(f.attrs["wisp.kernel"]) for g, f in module.functions.items() if not isinstance(f, relax.Function)}
    return {name: read_program(module[name], names, callees) for name in graph.geometry.programs}


def _render(functions: Mapping[str, tirx.PrimFunc]) -> dict[str, KernelInfo]:
    """Render every kernel; those of equal text share an entry point."""
    seen: dict[str, str] = {}
    rendered: dict[str, KernelInfo] = {}
    for name, function in functions.items():
        info = _render_once(function)
        entry = seen.setdefault(info.source, name)
        rendered[name] = replace(info, entry=entry, source=info.source.replace(UNNAMED, entry))
    return rendered


UNNAMED = "wisp_unnamed_kernel"  # the entry point of a kernel that is rendered for all who have it, under any name
# Rendering takes most of a compile, and variants, chunks and models have many kernels in common.
_RENDERED: dict[Identity, KernelInfo] = {}


def _identity(function: tirx.PrimFunc) -> Identity:
    """What a kernel is but for its name. Its parameters' names are in its text, and in no comparison of structure."""
    return tuple(parameter.name for parameter in function.params), StructuralKey(function.without_attr("wisp.name"))


def _render_once(function: tirx.PrimFunc) -> KernelInfo:
    """`wgsl.render`, once for kernels that differ in name alone; its entry point is `UNNAMED`.

    What the device can do is no matter: only TVM's own warp primitives ask, and Wisp's kernels call WGSL's builtins.
    """
    key = _identity(function)
    if key not in _RENDERED:
        _RENDERED[key] = wgsl.render(function, UNNAMED)
    return _RENDERED[key]


def _unique(kernels: Mapping[str, KernelInfo]) -> dict[str, KernelInfo]:
    return {name: info for name, info in kernels.items() if info.entry == name}


def _describe(label: str, parameter: Any, geometry: Geometry, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A parameter's buffer object in the plan; `shapes` are those of whole weights."""
    shape = [int(extent) for extent in parameter.shape]
    dtype = str(parameter.dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not label.startswith("runtime."):
        name, _, rows = label.partition("@")
        start, stop = (int(v) for v in rows.split(":")) if rows else (0, shape[0])
        whole = [int(extent) for extent in shapes[name]]
        return {"kind": "weight", "name": name, "dtype": dtype, "shape": whole, "rows": [start, stop], "bytes": size}
    name = label.removeprefix("runtime.")
    if name.startswith("kv."):
        row = 4 * geometry.cache.row_words
        return {"kind": "kv", "name": name, "bytes_per_position": row, "bytes": size}
    if name.startswith("heard."):
        return {"kind": "heard", "name": name, "bytes": size}
    if name == "rope":
        return {"kind": "constant", "name": name, "offset": 0, "bytes": size}
    return {"kind": "state" if name == "state" else "io", "name": name, "bytes": size}


def _weight_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    return {
        name: shape
        for spec in weight_specs(geometry.model)
        for name, _, shape in parameter_layout(spec, geometry.scheme)
    }


def _check_kernels(plan: Mapping[str, Any], max_invocations: int) -> None:
    """Every kernel fits what all devices of its variant have; one that does not is a defect of the compiler."""
    alternatives, most_bindings = plan.get("alternatives", []), DEFAULT_LIMITS["maxStorageBuffersPerShaderStage"]
    for kernel in [*plan["kernels"], *(kernel for a in alternatives for kernel in a["kernels"])]:
        invocations = int(np.prod(kernel["workgroup_size"]))
        if len(kernel["bindings"]) > most_bindings or invocations > max_invocations:
            raise RuntimeError(f"kernel {kernel['entry']} exceeds WebGPU's limits: {kernel}")
        if kernel["workgroup_bytes"] > DEFAULT_LIMITS["maxComputeWorkgroupStorageSize"]:
            raise RuntimeError(
                f"kernel {kernel['entry']} declares {kernel['workgroup_bytes']} bytes of workgroup storage"
            )
