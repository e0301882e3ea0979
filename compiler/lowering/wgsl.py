"""TIR kernels -> one WGSL module. Knows TVM's WebGPU code generator and its habits; knows nothing about models.

TVM writes each kernel as a module of its own, adds a uniform that lets it fold grids wider than 65,535 workgroups
(Wisp's grids are narrower, so the uniform and its guard are taken out), and keeps registers in arrays. `render` undoes
these, gives every global a name of its own and joins the kernels behind one header. Each rewrite insists on finding
what it replaces: another TVM fails here, loudly, and not in a browser.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import codegen_build

HELPERS = """\
fn wisp_f16(pair: u32, odd: i32) -> f32 {
  return unpack2x16float(pair >> (u32(odd) * 16u)).x;
}
fn wisp_f16x4(low: u32, high: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(low), unpack2x16float(high));
}
fn wisp_pack_f16(low: f32, high: f32) -> u32 {
  return pack2x16float(clamp(vec2<f32>(low, high), vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}
fn wisp_dot8(sum: f32, low: vec4<f32>, high: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> f32 {
  let first = fma(low.w, a.w, fma(low.z, a.z, fma(low.y, a.y, fma(low.x, a.x, sum))));
  return fma(high.w, b.w, fma(high.z, b.z, fma(high.y, b.y, fma(high.x, b.x, first))));
}
fn wisp_64(word: u32) -> vec2<f32> {
  return unpack2x16float((word & 0x00f000f0u) | 0x54005400u);
}
fn wisp_q4_low(word: u32) -> vec4<f32> {
  return vec4<f32>(wisp_64(word << 4u).x, wisp_64(word).x, wisp_64(word >> 4u).x, wisp_64(word >> 8u).x);
}
fn wisp_q4_high(word: u32) -> vec4<f32> {
  return vec4<f32>(wisp_64(word << 4u).y, wisp_64(word).y, wisp_64(word >> 4u).y, wisp_64(word >> 8u).y);
}
fn wisp_codebook(word: u32, step: u32, values: vec4<u32>) -> vec4<u32> {
  let q = (vec4<u32>(word) >> (vec4<u32>(0u, 1u, 2u, 3u) * step)) & vec4<u32>(15u);
  let odd = (q & vec4<u32>(4u)) != vec4<u32>();
  let low = select(vec4<u32>(values.x), vec4<u32>(values.y), odd);
  let high = select(vec4<u32>(values.z), vec4<u32>(values.w), odd);
  let four = select(low, high, (q & vec4<u32>(8u)) != vec4<u32>());
  return (four >> ((q & vec4<u32>(3u)) * 8u)) & vec4<u32>(255u);
}
fn wisp_coded4(word: u32, values: vec4<u32>) -> vec4<f32> {
  return vec4<f32>(wisp_codebook(word, 4u, values)) - 128.0;
}
fn wisp_coded_bytes(word: u32, values: vec4<u32>) -> u32 {
  let four = wisp_codebook(word, 8u, values) << vec4<u32>(0u, 8u, 16u, 24u);
  return (four.x | four.y | four.z | four.w) ^ 0x80808080u;
}
fn wisp_q6(word: u32) -> vec4<f32> {
  let even = unpack2x16float(((word << 4u) & 0x03f003f0u) | 0x54005400u);
  let odd = unpack2x16float(((word >> 4u) & 0x03f003f0u) | 0x54005400u);
  return vec4<f32>(even.x, odd.x, even.y, odd.y);
}
fn wisp_q8(word: u32) -> vec4<f32> {
  let even = unpack2x16float(((word << 2u) & 0x03fc03fcu) | 0x5c005c00u);
  let odd = unpack2x16float(((word >> 6u) & 0x03fc03fcu) | 0x5c005c00u);
  return vec4<f32>(even.x, odd.x, even.y, odd.y);
}
"""

# Those of TVM's passes for a GPU that find something to do in Wisp's kernels; the other forty take as long again.
PASSES = (
    s_tir.transform.UnifyThreadBinding,
    s_tir.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    s_tir.transform.RenormalizeSplitPattern,
    tirx.transform.StmtSimplify,
    s_tir.transform.RewriteUnsafeSelect,
    tirx.transform.CommonSubexprElim,
    tirx.transform.SplitHostDevice,
    tirx.transform.StmtSimplify,
    tirx.transform.LowerIntrin,
)

_POD = re.compile(
    r"struct PODArgs \{\s*packGridDimX: u32\s*\}\s*@group\(0\) @binding\(\d+\) var<uniform> podArgs : PODArgs;\n"
)
_GUARD = "  if (blockIdx.z * gridDim.x + blockIdx.x > podArgs.packGridDimX) { return; }\n"
_GRID_DIM = "  @builtin(num_workgroups) gridDim : vec3<u32>,\n"
_BINDING = re.compile(r"@group\(0\) @binding\((\d+)\) var<storage, (read|read_write)> (\w+) : array<([\w<>]+)>;")
_SHARED = re.compile(r"var<workgroup> (\w+) : array<([\w<>]+), (\d+)>;")
_LOCAL = re.compile(r"^( +)var (\w+) : array<([\w<>]+), (\d+)>;$", re.MULTILINE)
_INDEXED = re.compile(r"\b(\w+)\[")
_INDEXED_BY_CONSTANT = re.compile(r"\b(\w+)\[\d+i\]")
_ELEMENT = re.compile(r"\b(\w+)\[(\d+)i\]")
_WORKGROUP = re.compile(r"@workgroup_size\((\d+), (\d+), (\d+)\)")
_BYTES = {"f32": 4, "u32": 4, "i32": 4, "f16": 2}


@dataclass(frozen=True)
class KernelInfo:
    """What a plan says of a kernel. `parameters[i]` is the PrimFunc's parameter that binding i takes."""

    entry: str
    workgroup_size: tuple[int, int, int]
    workgroup_bytes: int
    bindings: tuple[str, ...]
    parameters: tuple[int, ...]
    grid: tuple[int, int, int]
    source: str


def _element_bytes(kind: str) -> int:
    vector = re.fullmatch(r"vec(\d)<(\w+)>", kind)
    return int(vector[1]) * _BYTES[vector[2]] if vector else _BYTES[kind]


def _scalarize(source: str) -> str:
    """Turn a register array that is indexed by constants alone into one variable an element."""
    uses, constant_uses = Counter(_INDEXED.findall(source)), Counter(_INDEXED_BY_CONSTANT.findall(source))
    arrays = {name for _, name, _, _ in _LOCAL.findall(source) if uses[name] == constant_uses[name]}

    def declare(match: re.Match[str]) -> str:
        indent, name, kind, length = match.groups()
        if name not in arrays:
            return match[0]
        return "\n".join(f"{indent}var {name}_{i} : {kind};" for i in range(int(length)))

    def use(match: re.Match[str]) -> str:
        return f"{match[1]}_{match[2]}" if match[1] in arrays else match[0]

    return _ELEMENT.sub(use, _LOCAL.sub(declare, source))


def _strip(source: str) -> str:
    """Take out TVM's grid folding."""
    source = re.sub(r"^//.*\n|^enable \w+;\n", "", source, flags=re.MULTILINE)
    for pattern in (_GUARD, _GRID_DIM):
        if pattern not in source:
            raise RuntimeError(f"TVM's WGSL lacks the expected line {pattern.strip()!r}; got:\n{source}")
        source = source.replace(pattern, "")
    source, found = _POD.subn("", source)
    if found != 1:
        raise RuntimeError(f"TVM's WGSL lacks the expected uniform; got:\n{source}")
    return source.replace("blockIdx.z * gridDim.x + blockIdx.x", "blockIdx.x")


def render(function: tirx.PrimFunc, entry: str) -> KernelInfo:
    """Generate one kernel's WGSL. `entry` must be unique in the module; every global is prefixed with it.

    `function` carries `wisp.grid` (see `kernels.builder`). Raises `RuntimeError` when TVM's output is not of the known
    form.
    """
    target = tvm.target.Target("webgpu", host="llvm")
    grid = [int(extent) for extent in function.attrs["wisp.grid"]]
    module = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    with tvm.transform.PassContext(), target:
        lowered = tvm.transform.Sequential([tirx.transform.BindTarget(target), *(make() for make in PASSES)])(module)
        device = lowered["kernel_kernel"]  # beside it is the host's part, which calls it
        raw = codegen_build(tvm.IRModule({"kernel_kernel": device}), device.attrs["target"]).inspect_source()
    source = _scalarize(_strip(raw))
    names = [parameter.name for parameter in function.params]
    bindings = _BINDING.findall(source)
    if not bindings or [int(b[0]) for b in bindings] != list(range(len(bindings))):
        raise RuntimeError(f"TVM's WGSL declares unexpected bindings:\n{source}")
    for _, _, name, _ in bindings:
        source = re.sub(rf"\b{name}\b", f"{entry}_{name.removesuffix('_ptr')}", source)
    shared_bytes = 0
    for name, kind, length in _SHARED.findall(source):
        shared_bytes += -(-_element_bytes(kind) * int(length) // 16) * 16
        source = re.sub(rf"\b{name}\b", f"{entry}_{name}", source)
    source = source.replace("fn kernel_kernel(", f"fn {entry}(")
    size = _WORKGROUP.search(source)
    if size is None or f"fn {entry}(" not in source:
        raise RuntimeError(f"TVM's WGSL has no entry point of the known form:\n{source}")
    return KernelInfo(
        entry=entry,
        workgroup_size=(int(size[1]), int(size[2]), int(size[3])),
        workgroup_bytes=shared_bytes,
        bindings=tuple(access for _, access, _, _ in bindings),
        parameters=tuple(names.index(name.removesuffix("_ptr")) for _, _, name, _ in bindings),
        grid=(grid[0], grid[1], 1),
        source=source.strip() + "\n",
    )


def join(kernels: Mapping[str, KernelInfo], subgroups: bool) -> str:
    """One module of all kernels, behind the directives that they need."""
    header = ["enable subgroups;", "diagnostic(off, subgroup_uniformity);"] if subgroups else []
    return "\n".join([*header, HELPERS, *(kernel.source for kernel in kernels.values())])
