"""Checkpoints of AWQ, GPTQ, compressed-tensors and MLX, as these tools write them, from a small one of transformers.

The packers are made from the formats' descriptions, element by element; they share nothing with the compiler.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Tensors = dict[str, NDArray]
# A packer's result: the tensors of a stem, and the values that they stand for.
Packed = tuple[Tensors, NDArray[np.float64]]


def drawn(rng: np.random.Generator, rows: int, columns: int, bits: int, group: int) -> tuple[NDArray, NDArray, NDArray]:
    """q (rows, columns), zeros and scales (rows, groups)."""
    groups = -(-columns // group)
    q = rng.integers(0, 2**bits, (rows, columns))
    scales = rng.uniform(1e-1, 1.0, (rows, groups)) * 2.0**-bits / 10
    scales = scales.astype(np.float16)
    return q, rng.integers(0, 2**bits, (rows, groups)), scales


def words(elements: list[int], bits: int) -> int:
    """Elements in a word, the first in the lowest bits, as a signed 32-bit number."""
    value = sum(int(element) << (bits * i) for i, element in enumerate(elements))
    return value - 2**32 if value >= 2**31 else value


def values_of(q: NDArray, zeros: NDArray, scales: NDArray, group: int) -> NDArray[np.float64]:
    columns = np.arange(q.shape[1]) // group
    return (q - zeros[:, columns]) * scales[:, columns].astype(np.float64)


def awq(rng: np.random.Generator, rows: int, columns: int, group: int) -> Packed:
    """`qweight[k][c]` holds out-columns 8c .. 8c + 7 of input k, nibble i of them the one that AWQ's order names."""
    q, zeros, scales = drawn(rng, rows, columns, 4, group)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    pack = lambda line: [words([line[8 * c + order[i]] for i in range(8)], 4) for c in range(rows // 8)]  # noqa: E731
    tensors = {
        "qweight": np.array([pack(q[:, k]) for k in range(columns)], np.int32),
        "qzeros": np.array([pack(zeros[:, g]) for g in range(zeros.shape[1])], np.int32),
        "scales": np.ascontiguousarray(scales.T),
    }
    return tensors, values_of(q, zeros, scales, group)


def gptq(rng: np.random.Generator, rows: int, columns: int, group: int, bits: int = 4, version: int = 1) -> Packed:
    """`qweight[w][n]` holds inputs of output n; version 1 stores a zero less one, modulo a word's element."""
    q, zeros, scales = drawn(rng, rows, columns, bits, group)
    zeros = zeros + 1 if version == 1 else zeros  # what can be stored
    per, stored = 32 // bits, (zeros - 1 if version == 1 else zeros)
    tensors = {
        "qweight": np.array(
            [[words(list(q[n, w * per : (w + 1) * per]), bits) for n in range(rows)] for w in range(columns // per)],
            np.int32,
        ),
        "qzeros": np.array(
            [
                [words(list(stored[w * per : (w + 1) * per, g]), bits) for w in range(-(-rows // per))]
                for g in range(zeros.shape[1])
            ],
            np.int32,
        ),
        "scales": np.ascontiguousarray(scales.T),
        "g_idx": (np.arange(columns) // group).astype(np.int32),
    }
    return tensors, values_of(q, zeros, scales, group)


def mlx(
    rng: np.random.Generator, rows: int, columns: int, group: int, bits: int = 4, dtype: Any = np.float16
) -> Packed:
    """`weight[n][w]` holds inputs of output n; the value is q * scale + bias."""
    q, _, scales = drawn(rng, rows, columns, bits, group)
    scales = scales.astype(dtype)
    biases = (-rng.uniform(0, 5e-2, scales.shape)).astype(dtype)
    per, index = 32 // bits, np.arange(columns) // group
    tensors = {
        "weight": np.array(
            [[words(list(q[n, w * per : (w + 1) * per]), bits) for w in range(columns // per)] for n in range(rows)],
            np.int64,
        ).astype(np.uint32),
        "scales": scales,
        "biases": biases,
    }
    return tensors, q * scales.astype(np.float64)[:, index] + biases.astype(np.float64)[:, index]


def compressed(
    rng: np.random.Generator, rows: int, columns: int, group: int, bits: int = 4, symmetric: bool = True
) -> Packed:
    """`weight_packed[n][w]` holds inputs of output n, each with half a range added; zero points lie along outputs."""
    q, zeros, scales = drawn(rng, rows, columns, bits, group)
    per, half = 32 // bits, 2 ** (bits - 1)
    zeros = np.full_like(zeros, half) if symmetric else zeros
    tensors = {
        "weight_packed": np.array(
            [[words(list(q[n, w * per : (w + 1) * per]), bits) for w in range(columns // per)] for n in range(rows)],
            np.int32,
        ),
        "weight_scale": scales,
        "weight_shape": np.array([rows, columns], np.int64),
    }
    if not symmetric:
        packed = [[words(list(zeros[w * per : (w + 1) * per, g]), bits) for g in range(zeros.shape[1])]
                  for w in range(rows // per)]  # fmt: skip
        tensors["weight_zero_point"] = np.array(packed, np.int32)
    return tensors, values_of(q, zeros, scales, group)


def compressed_config(**weights: Any) -> dict[str, Any]:
    """As LLM Compressor writes it."""
    stated = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128,
              "actorder": None, "block_structure": None, "dynamic": False, "observer": "minmax",
              "observer_kwargs": {}, **weights}  # fmt: skip
    group = {"targets": ["Linear"], "weights": stated, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed",
            "global_compression_ratio": 1.5}  # fmt: skip


Packer = Callable[[np.random.Generator, int, int, int], Packed]
KINDS: dict[str, tuple[Packer, dict[str, Any], int, str, bool]] = {
    "awq": (awq, {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm",
                                          "zero_point": True, "modules_to_not_convert": None}},
            32, "q4zf16_g32", True),
    "awq-128": (awq, {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}},
                128, "q4zf16_g128", True),
    "gptq": (gptq, {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False,
                                            "sym": False, "damp_percent": 0.01}}, 64, "q4zf16_g64", True),
    "gptq-v2": (lambda r, n, k, g: gptq(r, n, k, g, version=2),
                {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True,
                                         "checkpoint_format": "gptq_v2"}}, 128, "q4zf16_g128", True),
    "gptq-8": (lambda r, n, k, g: gptq(r, n, k, g, bits=8),
               {"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 32}}, 32, "q8zf16_g32", True),
    "gptq-row": (gptq, {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}},
                 0, "q4zf16_g128", True),
    "compressed": (compressed, {"quantization_config": compressed_config()}, 128, "q4af16_g128", True),
    "compressed-8": (lambda r, n, k, g: compressed(r, n, k, g, bits=8, symmetric=False),
                     {"quantization_config": compressed_config(num_bits=8, group_size=32, symmetric=False)},
                     32, "q8zf16_g32", True),
    "compressed-row": (compressed, {"quantization_config": compressed_config(strategy="channel", group_size=None)},
                       0, "q4af16_g128", True),
    "mlx": (mlx, {"quantization": {"group_size": 64, "bits": 4}}, 64, "q4af16_g64", True),
    "mlx-8": (lambda r, n, k, g: mlx(r, n, k, g, bits=8),
              {"quantization": {"group_size": 32, "bits": 8, "mode": "affine"},
               "quantization_config": {"group_size": 32, "bits": 8, "mode": "affine"}}, 32, "q8af16_g32", True),
    "mlx-bf16": (lambda r, n, k, g: mlx(r, n, k, g, dtype=ml_dtypes.bfloat16),
                 {"quantization": {"group_size": 128, "bits": 4}}, 128, "q4af16_g128", False),
}  # fmt: skip


def write(floats: Path, path: Path, kind: str) -> dict[str, NDArray[np.float64]]:
    """The checkpoint with its matrices packed (of MLX the embedding too); returns their values by name."""
    packer, config, group, _, _ = KINDS[kind]
    shutil.copytree(floats, path)
    fields = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(fields | config))
    tensors: Tensors = {}
    values: dict[str, NDArray[np.float64]] = {}
    for i, (name, array) in enumerate(sorted(load_file(path / "model.safetensors").items())):
        if array.ndim < 2 or ("embed_tokens" in name and not kind.startswith("mlx")):
            tensors[name], values[name] = array, array.astype(np.float64)
            continue
        stem = name.removesuffix(".weight")
        rows, columns = array.shape
        made, values[name] = packer(np.random.default_rng(i), rows, columns, group or columns)
        tensors |= {f"{stem}.{suffix}": tensor for suffix, tensor in made.items()}
    save_file(tensors, path / "model.safetensors")
    return values
