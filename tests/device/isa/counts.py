"""What kernels become on a real GPU, with none there: registers, spills and instructions, by AMD's compiler in Mesa.

Mesa's Radeon driver compiles for a GPU that is only named (`RADV_FORCE_FAMILY`); `null_device.c` is a Vulkan layer that
answers for memory and submissions, so that Dawn, whose shader compiler is Chrome's, gets as far as making pipelines.
Nothing runs. Counts are those of a compiler's version: another Mesa may give a few per cent more or less.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.lowering import wgsl
from tests.adapter import radeon
from tests.conftest import unavailable

HERE = Path(__file__).resolve().parent
LAYER = "VK_LAYER_WISP_null_device"
_KERNEL = re.compile(r"^kernel (\w+)\n(.*?)^end$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^BB(\d+):\n", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+([a-z]\w+)(.*?)(?:;|$)", re.MULTILINE)
_TARGET = re.compile(r"\bBB(\d+)\b")


@dataclass(frozen=True)
class Counts:
    """A kernel as the driver made it. Instructions are those of a wave; a loop's are those of one turn."""

    registers: int
    spills: int
    blocks: tuple[tuple[str, ...], ...]  # opcodes in order, without a branch into or out of them
    loops: tuple[Counter[str], ...]  # the innermost ones, by opcode

    def step(self, each: str, count: int) -> int:
        """Instructions for so many of the opcode `each`: a turn of the loop that has them.

        Where the compiler has left no such loop, as of one with few turns: the share of the block that has the most, of
        all before the last of them.
        """
        loop = max((*self.loops, Counter[str]()), key=lambda loop: loop[each])
        if loop[each] >= count:
            return loop.total()
        block = max(self.blocks, key=lambda block: block.count(each))
        return (len(block) - block[::-1].index(each)) * count // block.count(each)


def count(
    kernels: Mapping[str, wgsl.KernelInfo], subgroups: bool, scratch: Path, family: str = "navi21"
) -> dict[str, Counts]:
    """Compile kernels for a GPU of AMD's `family`; `scratch` is a directory for the layer and the modules."""
    found = radeon()
    if found is None:
        unavailable("Mesa's Radeon driver is missing; on Debian: apt-get install mesa-vulkan-drivers")
    if not (HERE / "node_modules" / "webgpu").is_dir():
        unavailable("Dawn for Node is missing; run make setup")
    _make_layer(scratch)
    modules = [
        {"entry": name, "code": wgsl.join({name: kernel}, subgroups), "bindings": kernel.bindings}
        for name, kernel in kernels.items()
    ]
    (scratch / "modules.json").write_text(json.dumps(modules))
    drivers = dict.fromkeys(("VK_DRIVER_FILES", "VK_ICD_FILENAMES"), str(found))
    environment = (
        os.environ
        | drivers
        | {
            "VK_LAYER_PATH": str(scratch),
            "VK_INSTANCE_LAYERS": LAYER,
            "RADV_FORCE_FAMILY": family,
            "RADV_DEBUG": "nocache,shaders,shaderstats",
            "MESA_SHADER_CACHE_DISABLE": "true",
            "XDG_RUNTIME_DIR": str(scratch),
        }
    )
    command = ["node", str(HERE / "compile.mjs"), str(scratch / "modules.json")]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    counts = {name: _read(text) for name, text in _KERNEL.findall(made.stderr)}
    if made.returncode or counts.keys() != kernels.keys():
        raise RuntimeError(f"the driver made {sorted(counts)} of {sorted(kernels)}:\n{made.stderr[-2000:]}")
    return counts


def _make_layer(scratch: Path) -> None:
    library = scratch / "null_device.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "null_device.c")], check=True)
    layer = {
        "name": LAYER,
        "type": "GLOBAL",
        "library_path": str(library),
        "api_version": "1.3.239",
        "implementation_version": "1",
        "description": "answers for memory and submissions",
    }
    (scratch / "layer.json").write_text(json.dumps({"file_format_version": "1.1.2", "layer": layer}))


def _read(text: str) -> Counts:
    """What the driver said of one pipeline: disassembly in blocks, then statistics."""
    code, _, statistics = text[text.index("disasm:") :].partition("*** SHADER STATS")

    def statistic(name: str) -> int:
        found = re.search(rf"^{name}: (\d+)", statistics, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the driver gives no {name!r}:\n{text[-2000:]}")
        return int(found[1])

    pieces = _BLOCK.split(code)
    names, blocks = [int(name) for name in pieces[1::2]], pieces[2::2]
    places = {name: place for place, name in enumerate(names)}
    # A branch to a block that does not come later closes a loop of all blocks between.
    loops = sorted(
        {
            (places[int(target)], place)
            for place, block in enumerate(blocks)
            for opcode, operands in _INSTRUCTION.findall(block)
            if "branch" in opcode
            for target in _TARGET.findall(operands)
            if places[int(target)] <= place
        }
    )
    inner = [
        (first, last)
        for first, last in loops
        if not any((first, last) != other and first <= other[0] and other[1] <= last for other in loops)
    ]
    opcodes = tuple(tuple(opcode for opcode, _ in _INSTRUCTION.findall(block)) for block in blocks)
    turns = tuple(Counter(opcode for block in opcodes[first : last + 1] for opcode in block) for first, last in inner)
    return Counts(statistic("VGPRs"), statistic("Spilled VGPRs"), opcodes, turns)
