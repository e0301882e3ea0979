"""Replays a plan natively through wgpu (Vulkan, Metal, DX12): buffers, kernels and dispatches as in the browser.

Knows the plan's format (`artifact/FORMAT.md`); what a program is run for, `session` knows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import wgpu

from ..artifact.writer import Artifact
from ..errors import WispError
from .session import ReadRows, Session, initial_content

BACKENDS = ("Vulkan", "Metal", "D3D12")
NATIVE_FEATURES = {"shader-f16": "shader-f16", "subgroups": "subgroup"}


def request_adapter() -> Any:
    """The machine's best adapter. Raises WispError when there is none.

    OpenGL's adapters are none: they lack 16-bit floats and subgroups, and naga's GLSL is no shader that a browser runs.
    """
    try:
        best = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
        found = [adapter for adapter in (best, *wgpu.gpu.enumerate_adapters_sync()) if adapter is not None]
    except Exception as error:  # wgpu raises RuntimeError subclasses of its own
        found, reason = [], str(error)
    else:
        reason = ", ".join(f"{name} over {api}" for name, api in sorted({_name(a) for a in found})) or "none found"
    usable = [adapter for adapter in found if _name(adapter)[1] in BACKENDS]
    if not usable:
        raise WispError(
            "no GPU adapter for wgpu",
            got=reason,
            expected="a Vulkan, Metal or D3D12 driver",
            remedy="install one (on Debian, the package mesa-vulkan-drivers has a software one)",
        )
    return usable[0]


def _name(adapter: Any) -> tuple[str, str]:
    """What an adapter is called, and the API behind it."""
    return adapter.info["device"], adapter.info["backend_type"]


def missing_features(adapter: Any, required: Sequence[str]) -> list[str]:
    """The required WebGPU features that an adapter lacks."""
    return [name for name in required if NATIVE_FEATURES.get(name, name) not in adapter.features]


def native_source(kernels: str) -> str:
    """kernels.wgsl as naga takes it."""
    lines = kernels.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("enable subgroups;", "diagnostic(")))


class NativeRuntime(Session):
    """A plan on a native device: buffers, pipelines and bind groups made once; programs replayed.

    `alternatives` are modules of the plan's alternatives, by their `kernels_file`: those are there to `choose` from.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        kernels: str,
        required_features: Sequence[str],
        read_rows: ReadRows,
        constants: bytes,
        adapter: Any = None,
        alternatives: Mapping[str, str] | None = None,
    ) -> None:
        adapter = adapter or request_adapter()
        missing = missing_features(adapter, required_features)
        if missing:
            raise WispError(
                f"the adapter cannot run the variant {plan['variant']}",
                got=f"{adapter.info['device']} without {', '.join(missing)}",
                expected=", ".join(required_features),
                remedy="choose another variant",
            )
        super().__init__(plan)
        self.adapter = adapter
        wanted = [NATIVE_FEATURES.get(name, name) for name in required_features]
        if "timestamp-query" in adapter.features:
            wanted.append("timestamp-query")
        self.device = adapter.request_device_sync(required_features=wanted)
        started = time.perf_counter()
        self._by_name: dict[str, int] = {}
        self._buffers = [self._create(i, b, read_rows, constants) for i, b in enumerate(plan["buffers"])]
        self.synchronize()
        self.upload_seconds = time.perf_counter() - started
        started = time.perf_counter()
        self._layouts: list[Any] = []
        self._pipelines: list[Any] = []
        self._compile(kernels, plan["kernels"])
        self._groups: dict[tuple[int, ...], Any] = {}
        self._own = self._programs = self._record(plan["programs"], len(plan["kernels"]))
        self._sources = dict(alternatives or {})
        self._alternatives: dict[str, dict[str, list[tuple[Any, Any, list[int]]]]] = {}
        self.compile_seconds = time.perf_counter() - started

    def choose(self, name: str | None) -> None:
        """Run an alternative's programs where it has them; None runs the plan's own. Compiles it the first time."""
        if name is not None and name not in self._alternatives:
            (alternative,) = (a for a in self.plan.get("alternatives", []) if a["name"] == name)
            first = len(self._pipelines)
            self._compile(self._sources[alternative["kernels_file"]], alternative["kernels"])
            self._alternatives[name] = self._record(alternative["programs"], first)
        self._programs = self._own | (self._alternatives[name] if name is not None else {})

    def _record(self, programs: Mapping[str, Any], first: int) -> dict[str, list[tuple[Any, Any, list[int]]]]:
        """Programs whose kernels beyond the plan's own are pipelines from `first` on."""
        beyond = first - len(self.plan["kernels"])

        def numbered(dispatch: Mapping[str, Any]) -> Mapping[str, Any]:
            kernel = dispatch["kernel"]
            return {**dispatch, "kernel": kernel if kernel < len(self.plan["kernels"]) else kernel + beyond}

        return {name: [self._bind(numbered(d)) for d in program] for name, program in programs.items()}

    def _compile(self, source: str, kernels: Sequence[Mapping[str, Any]]) -> None:
        module = self.device.create_shader_module(code=native_source(source))
        for kernel in kernels:
            entries = [
                {
                    "binding": i,
                    "visibility": wgpu.ShaderStage.COMPUTE,
                    "buffer": {"type": "storage" if access == "read_write" else "read-only-storage"},
                }
                for i, access in enumerate(kernel["bindings"])
            ]
            layout = self.device.create_bind_group_layout(entries=entries)
            self._layouts.append(layout)
            self._pipelines.append(
                self.device.create_compute_pipeline(
                    layout=self.device.create_pipeline_layout(bind_group_layouts=[layout]),
                    compute={"module": module, "entry_point": kernel["entry"]},
                )
            )

    def _create(self, index: int, buffer: Mapping[str, Any], read_rows: ReadRows, constants: bytes) -> Any:
        if buffer["kind"] != "scratch":
            self._by_name[buffer["name"]] = index
        size = max(16, -(-buffer["bytes"] // 4) * 4)
        usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC
        data = initial_content(buffer, read_rows, constants)
        created = self.device.create_buffer(size=size, usage=usage)
        if data is not None:
            padded = data if len(data) % 4 == 0 else data + bytes(4 - len(data) % 4)
            self.device.queue.write_buffer(created, 0, padded)
        return created

    def _bind(self, dispatch: Mapping[str, Any]) -> tuple[Any, Any, list[int]]:
        key = (dispatch["kernel"], *dispatch["bind"])
        if key not in self._groups:
            self._groups[key] = self.device.create_bind_group(
                layout=self._layouts[dispatch["kernel"]],
                entries=[
                    {"binding": i, "resource": {"buffer": self._buffers[b], "offset": 0, "size": self._buffers[b].size}}
                    for i, b in enumerate(dispatch["bind"])
                ],
            )
        return self._pipelines[dispatch["kernel"]], self._groups[key], dispatch["grid"]

    def buffer(self, name: str) -> Any:
        """A buffer by its name in the plan."""
        return self._buffers[self._by_name[name]]

    def write(self, name: str, data: bytes, offset: int = 0) -> None:
        self.device.queue.write_buffer(self.buffer(name), offset, data)

    def read(self, name: str, dtype: str = "float32") -> np.ndarray:
        """The content of a buffer."""
        return np.frombuffer(self.device.queue.read_buffer(self.buffer(name)), dtype)

    def synchronize(self) -> None:
        """Wait until the device has done everything so far (on_submitted_work_done fails in wgpu 0.32)."""
        self.device.queue.read_buffer(self.buffer("state"), 0, 16)

    def encode(self, encoder: Any, program: str, **pass_arguments: Any) -> None:
        """Record a program's dispatches as one compute pass."""
        compute = encoder.begin_compute_pass(**pass_arguments)
        for pipeline, group, grid in self._programs[program]:
            compute.set_pipeline(pipeline)
            compute.set_bind_group(0, group)
            compute.dispatch_workgroups(*grid)
        compute.end()

    def run(self, program: str) -> None:
        """Submit a program once."""
        encoder = self.device.create_command_encoder()
        self.encode(encoder, program)
        self.device.queue.submit([encoder.finish()])

    def dispatches(self, program: str) -> list[tuple[str, Any, Any, list[int]]]:
        """(kernel entry, pipeline, bind group, grid) of each dispatch, for timing them one by one."""
        entries = [self.plan["kernels"][d["kernel"]]["entry"] for d in self.plan["programs"][program]]
        return [(entry, *call) for entry, call in zip(entries, self._programs[program], strict=True)]


def open_variant(artifact: Artifact, name: str, adapter: Any = None) -> NativeRuntime:
    """A variant of an artifact, its weights on the device; its alternatives are there to be chosen."""
    entry = next(variant for variant in artifact.model["variants"] if variant["name"] == name)
    files = [alternative["kernels_file"] for alternative in artifact.plans[name].get("alternatives", [])]
    return NativeRuntime(
        artifact.plans[name],
        artifact.kernels(name),
        entry["required_features"],
        lambda tensor, start, stop: artifact.tensor(tensor, start, stop).tobytes(),
        artifact.constants(),
        adapter,
        {file: (artifact.path / file).read_text(encoding="utf-8") for file in files},
    )
