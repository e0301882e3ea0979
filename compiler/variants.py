"""The variants a model is compiled into: one a combination of backend, activation type and device features.

Knows what each asks of a device; knows nothing of models or kernels.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """One way to run a model: a plan and a set of kernels for devices that have `required_features`.

    Those of WebGPU are the API's own names; a CPU needs `simd`, WebAssembly's vectors of 128 bits.
    """

    name: str
    backend: Literal["webgpu", "wasm"]
    activation_dtype: Literal["float16", "float32"]
    subgroups: bool
    required_features: tuple[str, ...]


# Best first: a device takes the first one it can run.
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("webgpu-f16-sg", "webgpu", "float16", True, ("shader-f16", "subgroups")),
        Variant("webgpu-f16", "webgpu", "float16", False, ("shader-f16",)),
        Variant("webgpu-f32-sg", "webgpu", "float32", True, ("subgroups",)),
        Variant("webgpu-f32", "webgpu", "float32", False, ()),
        Variant("wasm-simd", "wasm", "float32", False, ("simd",)),
    )
}
