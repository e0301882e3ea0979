"""The variants a model is compiled into: one a combination of backend and device features.

Knows what each asks of a device; knows nothing of models or kernels. Activations are f32 in all of them, since those of
real models pass f16's 65504. 16 bits are for storage alone, of weights and of the KV cache; core WGSL packs and unpacks
them, so `shader-f16` would add nothing.
"""

from dataclasses import dataclass
from typing import Literal

ACTIVATION_DTYPE = "float32"


@dataclass(frozen=True)
class Variant:
    """One way to run a model: a plan and a set of kernels for devices that have `required_features`.

    Those of WebGPU are the API's own names; a CPU needs `simd`, WebAssembly's vectors of 128 bits.
    """

    name: str
    backend: Literal["webgpu", "wasm"]
    subgroups: bool
    required_features: tuple[str, ...]


# Best first: a device takes the first one it can run.
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("webgpu-f32-sg", "webgpu", True, ("subgroups",)),
        Variant("webgpu-f32", "webgpu", False, ()),
        Variant("wasm-simd", "wasm", False, ("simd",)),
    )
}
# What earlier versions compiled besides, and what has taken its place.
FORMER: dict[str, str] = {"webgpu-f16-sg": "webgpu-f32-sg", "webgpu-f16": "webgpu-f32"}
