"""The variants a model is compiled into: one a combination of backend and device features.

Knows what each asks of a device; knows nothing of models or kernels. Activations are f32 in all of them, since those of
real models pass f16's 65504. 16 bits are for storage alone, of weights and of the KV cache; core WGSL packs and unpacks
them, so `shader-f16` would add nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal

ACTIVATION_DTYPE = "float32"
Q8_SUFFIX = "-q8"


@dataclass(frozen=True)
class Variant:
    """One way to run a model: a plan and a set of kernels for devices that have `required_features`.

    Those of WebGPU are the API's own names; a CPU needs `simd`, WebAssembly's vectors of 128 bits.
    """

    name: str
    backend: Literal["webgpu", "wasm"]
    subgroups: bool
    required_features: tuple[str, ...]
    q8: bool = False  # keys and values in 8 bits

    @property
    def tuned_as(self) -> str:
        """The variant whose tuning it has: products are the same in 8 bits."""
        return self.name.removesuffix(Q8_SUFFIX)


# Best first: a device takes the first one it can run.
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("webgpu-f32-sg", "webgpu", True, ("subgroups",)),
        Variant("webgpu-f32", "webgpu", False, ()),
        Variant("wasm-simd", "wasm", False, ("simd",)),
    )
}
# What each is with keys and values in 8 bits: the same weights, another plan and other kernels.
Q8_VARIANTS: dict[str, Variant] = {
    f"{name}{Q8_SUFFIX}": replace(variant, name=f"{name}{Q8_SUFFIX}", q8=True) for name, variant in VARIANTS.items()
}
# Of every name, a variant before its twin in 8 bits.
ALL_VARIANTS: dict[str, Variant] = {
    v.name: v for pair in zip(VARIANTS.values(), Q8_VARIANTS.values(), strict=True) for v in pair
}
# What earlier versions compiled besides, and what has taken its place.
FORMER: dict[str, str] = {"webgpu-f16-sg": "webgpu-f32-sg", "webgpu-f16": "webgpu-f32"}
