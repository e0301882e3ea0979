"""What a variant asks of a device beyond WebGPU's default limits: how large its buffers are.

Sizes are known before anything is lowered, which takes seconds; the plan's own buffers are what `required_limits` then
states. Knows shapes; knows nothing of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import WispError
from ..kernels.cache import Q8_MULTIPLE
from ..models import weight_specs
from ..network.layers import CUT_ROLES, Geometry
from ..target.limits import DEFAULT_LIMITS, LARGEST_BINDING
from ..weights.quantize import parameter_layout

LARGEST_ON_CPU = 4 * (2**31 - 1)  # indices of words are i32; a runtime allocates as many positions as memory holds


def obstacle(geometry: Geometry) -> WispError | None:
    """Why the variant has a buffer that no device holds, and what would fit; None when all is well."""
    name, size = geometry.variant.name, geometry.cache.heads.size
    if geometry.cache.bytes and size % Q8_MULTIPLE:
        return WispError(
            "keys and values in 8 bits are not for heads of this size",
            got=str(size),
            expected=f"a multiple of {Q8_MULTIPLE}",
            remedy="leave --kv q8 out",
        )
    row = 4 * geometry.cache.row_words
    on_gpu = geometry.variant.backend == "webgpu"
    largest = LARGEST_BINDING if on_gpu else LARGEST_ON_CPU
    if row * geometry.context > largest:
        return WispError(
            f"a layer's KV cache exceeds what {name} can address",
            got=f"{row * geometry.context} bytes at context {geometry.context}",
            expected=f"at most {largest} bytes",
            remedy=f"use --context {largest // row} or less",
        )
    if not on_gpu:
        return None
    model = geometry.model
    widest = max(model.hidden_size, model.intermediate_size, model.qkv_size)
    chunk = max(geometry.prefill_chunks, default=1)
    if 4 * widest * chunk > LARGEST_BINDING:
        return WispError(
            f"the activations of a chunk of prefill exceed what {name} can address",
            got=f"{4 * widest * chunk} bytes at chunks of {chunk}",
            expected=f"at most {LARGEST_BINDING} bytes",
            remedy=f"use prefill_chunks of at most {LARGEST_BINDING // (4 * widest)}",
        )
    for spec in weight_specs(model):
        if spec.role in CUT_ROLES:
            continue
        for tensor, dtype, shape in parameter_layout(spec, geometry.scheme):
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if size > LARGEST_BINDING:
                return WispError(
                    f"weight {tensor} exceeds what {name} can address",
                    got=f"{size} bytes",
                    expected=f"at most {LARGEST_BINDING} bytes",
                    remedy="use a --quant of fewer bits",
                )
    return None


def required_limits(plan: Mapping[str, Any]) -> dict[str, int]:
    """The WebGPU limits that a plan's buffers pass the defaults of, each with the least value that will do."""
    largest = max(buffer["bytes"] for buffer in plan["buffers"])
    largest = -(-largest // 4) * 4
    names = ("maxStorageBufferBindingSize", "maxBufferSize")
    return {name: largest for name in names if largest > DEFAULT_LIMITS[name]}
