"""The packing of a matrix by a scheme's numbers, and the slow obvious twin that states what is right.

Words are laid out as in MLC's group quantization (`mlc_llm/quantization/group_quantization.py`): groups along the input
axis share one float16 scale and, in affine schemes, one float16 bias, which `scales.py` chooses. Knows nothing of
checkpoints or shards. All words are little endian.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import WispError
from ..models.base import WeightSpec
from .scales import (
    FLOAT16_MAX,
    FLOAT16_MIN_NORMAL,
    Rule,
    absmax_scales,
    affine_scales,
    affine_steps_of,
    reference_affine_scale,
    reference_scale,
    reference_zero_point,
    search_affine,
    search_scales,
    steps_of,
    storable,
    with_zero_points,
)
from .schemes import Scheme
from .storage import LOW, Storage

TensorLayout = tuple[str, Literal["uint32", "float16", "float32"], tuple[int, ...]]
# Rows [start, stop) of a matrix -> the scales of its groups that the source itself was quantized with, (R, groups), 0
# where there is none; None when it has none at all.
GroupScales = Callable[[int, int], NDArray[np.float16] | None]

K_MULTIPLE = 8
ORDER = ".q_order"  # how the name of a matrix's order of columns ends
BLOCK_ELEMENTS = 1 << 19  # what a thread takes at a time
CACHE_ELEMENTS = 1 << 16  # what it goes over many times: a quarter of a MiB, which stays in its cache
BLOCKS_AHEAD = 32  # of 2 MiB each in float32
THREADS = min(8, os.cpu_count() or 1)


def parameter_layout(spec: WeightSpec, scheme: Scheme) -> list[TensorLayout]:
    """The stored tensors of a weight, `(name, dtype, shape)`, without its data.

    A matrix's have a row for each of its own, but for the order of its columns, where there is one.
    Raises WispError for a matrix whose columns the scheme cannot hold.
    """
    scheme = scheme.of(spec)
    if spec.kind == "vector":
        return [(spec.name, scheme.float_dtype, spec.shape)]
    rows, columns = spec.shape
    if columns % K_MULTIPLE:
        raise WispError(
            f"{scheme.name} does not fit the matrix '{spec.name}'",
            got=f"{columns} columns",
            expected=f"a multiple of {K_MULTIPLE}",
            remedy="compile a checkpoint with other sizes",
        )
    if scheme.group_size == 0:
        return [(f"{spec.name}.weight", scheme.float_dtype, spec.shape)]
    groups = scheme.groups(columns)
    order: list[TensorLayout] = [(f"{spec.name}{ORDER}", "uint32", (columns,))] if scheme.ordered else []
    words: TensorLayout = (f"{spec.name}.q_weight", "uint32", (rows, groups * scheme.words_per_group))
    # Scale and bias lie side by side: one binding of the few that a kernel may have, and one load.
    if scheme.bias:
        second = "zero" if scheme.zeros else "bias"
        return [words, (f"{spec.name}.q_scale_{second}", "float16", (rows, groups * 2)), *order]
    return [words, (f"{spec.name}.q_scale", "float16", (rows, groups)), *order]


def span_of(name: str, extent: int, start: int, stop: int) -> tuple[int, int]:
    """What rows `[start, stop)` of a weight need of its stored tensor of that many rows: of an order all."""
    return (0, extent) if name.endswith(ORDER) else (start, stop)


def quantize(
    spec: WeightSpec,
    weight: NDArray[np.float32] | Iterable[NDArray[np.float32]],
    scheme: Scheme,
    source_scales: GroupScales | None = None,
    rule: Rule = "absmax",
    importance: NDArray[np.float32] | None = None,
) -> list[tuple[str, NDArray]]:
    """The stored tensors of a weight, `(name, array)`, as `parameter_layout` describes them.

    `weight` is the float32 array of `spec.shape`, or blocks of its rows in order (so that a large matrix is never held
    whole in float32). A group of a symmetric scheme whose elements are all whole multiples, within its range, of its
    scale in `source_scales` keeps that scale and so its exact values; every other group gets one by `rule`, for which
    `importance`, one number a column, weighs the squared error. By `absmax` an affine group goes from its least to its
    largest element.
    Raises WispError for NaN, infinity, a wrong shape and values that do not fit float16.
    """
    layout, scheme = parameter_layout(spec, scheme), scheme.of(spec)
    if spec.kind == "matrix" and scheme.codebook:
        raise ValueError(f"{scheme.name} holds what came in it; nothing is quantized to it")
    outputs = [np.empty(shape, dtype) for _, dtype, shape in layout]
    if spec.kind == "matrix" and scheme.ordered:  # an order serves values that came with one; others keep theirs
        outputs[-1][:] = np.arange(spec.shape[1])

    def store(row: int, block: NDArray[np.float32]) -> None:
        stop = row + block.shape[0]
        _check_finite(spec, block)
        if spec.kind == "matrix" and scheme.group_size:
            parts = [o[row:stop] for o in outputs[:2]]
            if scheme.bias:
                _quantize_affine_rows(spec, block, scheme, rule, importance, parts)
            else:
                source = source_scales(row, stop) if source_scales else None
                _quantize_rows(spec, block, scheme, source, rule, importance, parts)
        else:
            outputs[0][row:stop] = _to_float(spec, block, outputs[0].dtype)

    row = 0
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:  # numpy computes without Python's lock
        for block in _row_blocks(weight):
            _check_shape(spec, block, row)
            pending.append(pool.submit(store, row, block))
            row += block.shape[0]
            if len(pending) > BLOCKS_AHEAD:
                pending.popleft().result()
        for future in pending:
            future.result()
    if row != spec.shape[0]:
        raise WispError(f"weight '{spec.name}' is incomplete", got=f"{row} rows", expected=spec.shape[0])
    return [(name, output) for (name, _, _), output in zip(layout, outputs, strict=True)]


def dequantize(spec: WeightSpec, tensors: Mapping[str, NDArray], scheme: Scheme) -> NDArray[np.float32]:
    """The float32 array of `spec.shape` that the stored tensors stand for."""
    layout, scheme = parameter_layout(spec, scheme), scheme.of(spec)
    if spec.kind == "vector" or scheme.group_size == 0:
        return tensors[layout[0][0]].astype(np.float32)
    words, factors = (np.ascontiguousarray(tensors[name]) for name, _, _ in layout[:2])
    rows, columns = spec.shape
    q = unpack(words, scheme).reshape(rows, -1, scheme.group_size).astype(np.float32)
    if scheme.bias:
        scales, biases = (half.astype(np.float32) for half in split_pairs(factors))
        if scheme.zeros:
            biases *= -scales
        q *= scales[:, :, None]
        q += biases[:, :, None]
    else:
        q = np.array(scheme.codebook, np.float32)[q.astype(np.uint8)] if scheme.codebook else q - scheme.zero_point
        q *= factors.astype(np.float32)[:, :, None]
    values = q.reshape(rows, -1)[:, :columns]
    if not scheme.ordered:
        return values
    found = np.empty_like(values)
    found[:, tensors[layout[2][0]]] = values
    return found


def join_pairs(scales: NDArray[np.float16], biases: NDArray[np.float16]) -> NDArray[np.float16]:
    """Scales and biases, each (R, groups), as they are stored: (R, 2 * groups), a group's bias behind its scale."""
    return np.stack((scales, biases), axis=-1).reshape(len(scales), -1)


def split_pairs(pairs: NDArray[np.float16]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """The inverse of `join_pairs`."""
    return pairs[:, 0::2], pairs[:, 1::2]


def _row_blocks(weight: NDArray[np.float32] | Iterable[NDArray[np.float32]]) -> Iterable[NDArray[np.float32]]:
    for array in [weight] if isinstance(weight, np.ndarray) else weight:
        step = max(1, BLOCK_ELEMENTS // max(1, math.prod(array.shape[1:])))
        for start in range(0, array.shape[0], step):
            yield array[start : start + step]


def _check_shape(spec: WeightSpec, block: NDArray[np.float32], row: int) -> None:
    if block.shape[1:] != spec.shape[1:] or row + block.shape[0] > spec.shape[0]:
        raise WispError(
            f"weight '{spec.name}' has another shape",
            got=f"rows {row}..{row + block.shape[0]} of shape {block.shape}",
            expected=spec.shape,
        )


def _check_finite(spec: WeightSpec, block: NDArray[np.float32]) -> None:
    if not np.isfinite(block).all():
        raise WispError(
            f"weight '{spec.name}' holds NaN or infinity",
            expected="finite numbers",
            remedy=f"repair the checkpoint (its tensors {', '.join(spec.sources)})",
        )


def _to_float(spec: WeightSpec, block: NDArray[np.float32], dtype: np.dtype) -> NDArray:
    if dtype == np.float16:
        largest = float(np.abs(block).max(initial=0.0))
        if largest > FLOAT16_MAX:
            raise WispError(
                f"weight '{spec.name}' does not fit float16",
                got=f"{largest:g}",
                expected=f"at most {FLOAT16_MAX:g}",
                remedy="compile with --quant q0f32",
            )
    return block.astype(dtype)


def _quantize_rows(
    spec: WeightSpec,
    block: NDArray[np.float32],
    scheme: Scheme,
    source: NDArray[np.float16] | None,
    rule: Rule,
    importance: NDArray[np.float32] | None,
    outputs: Sequence[NDArray],
) -> None:
    """Words and scales of a block of rows, (R, K) -> (R, groups * words_per_group) and (R, groups)."""
    columns = block.shape[1]
    groups, padding = scheme.groups(columns), -columns % scheme.group_size
    if importance is not None:
        importance = np.pad(importance, (0, padding)).reshape(groups, scheme.group_size)
    step = max(1, CACHE_ELEMENTS // columns)
    for start in range(0, block.shape[0], step):
        rows = slice(start, min(block.shape[0], start + step))
        part = np.pad(block[rows], ((0, 0), (0, padding))) if padding else block[rows]
        grouped = part.reshape(-1, groups, scheme.group_size)
        largest = absmax_scales(grouped, scheme.reach)
        if largest.max(initial=0.0) > FLOAT16_MAX:
            raise WispError(
                f"weight '{spec.name}' is too large for {scheme.name}",
                got=f"{largest.max() * scheme.reach:g}",
                expected=f"at most {FLOAT16_MAX * scheme.reach:g}",
                remedy="compile with --quant q0f32",
            )
        scales = storable(largest)
        if rule == "search":
            scales, q = search_scales(grouped, scales, scheme.reach, importance)
        else:
            q = steps_of(grouped, scales, scheme.reach)
        if source is not None:
            exact = _holds_exactly(grouped, largest, source[rows])
            if exact.any():
                scales = np.where(exact, source[rows], scales)
                np.copyto(q, steps_of(grouped, scales, scheme.reach), where=exact[..., None])
        q += scheme.zero_point
        outputs[0][rows] = pack(q.astype(np.uint8).reshape(len(part), -1), scheme)
        outputs[1][rows] = scales


def _quantize_affine_rows(
    spec: WeightSpec,
    block: NDArray[np.float32],
    scheme: Scheme,
    rule: Rule,
    importance: NDArray[np.float32] | None,
    outputs: Sequence[NDArray],
) -> None:
    """Words, and scales with biases, of a block of rows. What pads a row has q = 0 and no say in its group's range."""
    columns = block.shape[1]
    padding = -columns % scheme.group_size
    counted = np.pad(np.ones(columns, np.float32) if importance is None else importance, (0, padding))
    counted = counted.reshape(-1, scheme.group_size)
    step = max(1, CACHE_ELEMENTS // columns)
    for start in range(0, block.shape[0], step):
        rows = slice(start, min(block.shape[0], start + step))
        part = np.pad(block[rows], ((0, 0), (0, padding)), mode="edge") if padding else block[rows]
        grouped = part.reshape(len(part), -1, scheme.group_size)
        scales, biases = affine_scales(grouped, scheme.largest)
        if grouped.min(initial=0.0) < -FLOAT16_MAX or scales.max(initial=0.0) > FLOAT16_MAX:
            raise WispError(
                f"weight '{spec.name}' is too large for {scheme.name}",
                got=f"{grouped.min():g} to {grouped.max():g}",
                expected=f"{-FLOAT16_MAX:g} to {FLOAT16_MAX:g}",
                remedy="compile with --quant q0f32",
            )
        stored = storable(scales)
        if rule == "search":
            stored, biases, steps = search_affine(grouped, stored, biases, scheme.largest, counted)
        else:
            steps = affine_steps_of(grouped, stored, biases, scheme.largest)
        if scheme.zeros:
            stored, biases = with_zero_points(stored, biases)
            steps = affine_steps_of(grouped, stored, -biases.astype(np.float32) * stored, scheme.largest)
        q = steps.astype(np.uint8).reshape(len(part), -1)
        q[:, columns:] = 0
        outputs[0][rows], outputs[1][rows] = pack(q, scheme), join_pairs(stored, biases)


def _holds_exactly(
    grouped: NDArray[np.float32], least: NDArray[np.float32], scales: NDArray[np.float16]
) -> NDArray[np.bool_]:
    """Which groups, (R, groups, group_size), are multiples of these scales, which are not below the `least`."""
    steps = scales.astype(np.float32)
    fits: NDArray[np.bool_] = (scales >= FLOAT16_MIN_NORMAL) & (least > 0) & (steps >= least)
    if fits.any():
        values, step = grouped[fits], steps[fits][:, None]
        fits[fits] = (np.rint(values / step) * step == values).all(axis=1)
    return fits


def pack(q: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.uint32]:
    """Words of whole groups, (R, K) -> (R, K * bits / 32): the first element in the low bits."""
    if scheme.storage.high_bits:
        return _pack_pieces(q, scheme.storage)
    if scheme.bits == 4:
        pairs = q.view("<u2")  # the first of two elements in the low byte
        q = (pairs | pairs >> 4).astype(np.uint8)
    return q.view("<u4")


def unpack(words: NDArray[np.uint32], scheme: Scheme) -> NDArray[np.uint8]:
    """The inverse of `pack`."""
    packed = words.view(np.uint8)
    if scheme.storage.high_bits:
        return _unpack_pieces(packed, scheme.storage)
    if scheme.bits == 8:
        return packed
    return np.stack((packed & 15, packed >> 4), axis=-1).reshape(words.shape[0], -1)


def _pack_pieces(q: NDArray[np.uint8], storage: Storage) -> NDArray[np.uint32]:
    """Of each block the low four bits of all elements, then the bits above: a byte of either holds one of each run."""
    blocks = q.reshape(len(q), -1, storage.block)
    pieces = []
    for bits, field in ((LOW, blocks & np.uint8(15)), (storage.high_bits, blocks >> np.uint8(LOW))):
        runs = field.reshape(*blocks.shape[:2], 8 // bits, -1)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
        pieces.append(np.bitwise_or.reduce(runs << shifts, axis=2))
    words: NDArray[np.uint32] = np.concatenate(pieces, axis=2).reshape(len(q), -1).view("<u4")
    return words


def _unpack_pieces(packed: NDArray[np.uint8], storage: Storage) -> NDArray[np.uint8]:
    blocks = packed.reshape(len(packed), -1, 4 * storage.words(storage.block))
    low = 4 * storage.low_words
    fields = []
    for bits, piece in ((LOW, blocks[..., :low]), (storage.high_bits, blocks[..., low:])):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
        runs = piece[:, :, None] >> shifts & np.uint8(2**bits - 1)
        fields.append(runs.reshape(*blocks.shape[:2], storage.block))
    return (fields[0] | fields[1] << np.uint8(LOW)).reshape(len(packed), -1)


def reference_places(k: int, storage: Storage) -> list[tuple[int, int, int]]:
    """Where element k of a row lies, its lowest bits first: (word, first bit, bits) of each of its pieces."""
    if not storage.high_bits:
        return [(k * storage.bits // 32, k * storage.bits % 32, storage.bits)]
    block, j = divmod(k, storage.block)
    first = 32 * block * storage.words(storage.block)  # in bits
    places = []
    for bits in (LOW, storage.high_bits):
        length = storage.block * bits // 8  # in bytes
        bit = first + 8 * (j % length) + bits * (j // length)
        places.append((bit // 32, bit % 32, bits))
        first += 8 * length
    return places


def reference_quantize_row(
    row: list[float], scheme: Scheme, rule: Rule = "absmax", importance: Sequence[float] = ()
) -> tuple[list[int], list[float], list[float]]:
    """Words, scales and biases or zero points of a row, by element: what `quantize` is tested against."""
    words: list[int] = []
    scales: list[float] = []
    biases: list[float] = []
    for start in range(0, len(row), scheme.group_size):
        group = row[start : start + scheme.group_size]
        if scheme.bias:
            weights = importance[start : start + scheme.group_size]
            scale, bias = reference_affine_scale(group, scheme.largest, rule, weights)
            if scheme.zeros:
                scale, zero = reference_zero_point(scale, bias)
                bias = -zero * scale
            biases.append(zero if scheme.zeros else bias)
        else:
            scale = reference_scale(group, scheme.reach, rule, importance[start : start + scheme.group_size])
            bias = 0.0
        scales.append(scale)
        q = []
        for value in group:
            steps = round((value - bias) / scale) if scale else 0
            q.append(min(max(steps + scheme.zero_point, 0, scheme.zero_point - scheme.reach), scheme.largest))
        q += [scheme.zero_point] * (scheme.group_size - len(group))
        words += [0] * scheme.words_per_group
        for k, value in enumerate(q, start):
            for word, shift, bits in reference_places(k, scheme.storage):
                words[word] |= (value & (2**bits - 1)) << shift
                value >>= bits
    return words, scales, biases


def reference_dequantize_row(
    words: list[int], scales: list[float], biases: list[float], columns: int, scheme: Scheme
) -> list[float]:
    """One row back, element by element."""
    row = []
    for k in range(columns):
        q = known = 0
        for word, shift, bits in reference_places(k, scheme.storage):
            q |= (words[word] >> shift & (2**bits - 1)) << known
            known += bits
        scale, second = scales[k // scheme.group_size], biases[k // scheme.group_size] if scheme.bias else 0.0
        row.append((q - scheme.zero_point) * scale + (-second * scale if scheme.zeros else second))
    return row
