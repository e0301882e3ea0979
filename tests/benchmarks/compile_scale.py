"""How long a compile takes and how much memory, on random bfloat16 checkpoints of real sizes.

    python -m tests.benchmarks.compile_scale llama-3.2-1b           # 1.24 billion parameters, 2.5 GB on disk
    python -m tests.benchmarks.compile_scale llama-3.1-8b           # 8.03 billion parameters, 16 GB on disk

Writes the checkpoint under --work (and removes it at the end), runs `wisp compile` on it as a process of its own, then
once more, unchanged. Memory is the process's own (anonymous) and with the pages of files that it maps, as Linux counts.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from compiler.bench.shapes import SHAPES, byte_tokenizer
from compiler.models import config_from_huggingface, weight_specs
from compiler.progress import human_bytes

FILE_BYTES = 5 << 30  # as the Hub's tools split
RANDOM_ELEMENTS = (1 << 23) + 4099  # one block of random numbers, repeated: rows of different tensors differ in phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--scales", default="search")
    parser.add_argument("--variants", help="as of wisp compile (all)")
    parser.add_argument("--work", type=Path, help="where there is room for the checkpoint and the artifact")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint in --work, and use what is there")
    wanted = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="wisp-scale-", dir=wanted.work)) if not wanted.keep else wanted.work
    checkpoint, output = work / wanted.shape, work / "out" / wanted.shape
    try:
        if not (checkpoint / "model.safetensors.index.json").is_file():
            write_checkpoint(wanted.shape, checkpoint)
        size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
        options = ["--scales", wanted.scales, *(["--variants", wanted.variants] if wanted.variants else [])]
        command = [sys.executable, "-m", "compiler.cli", "compile", str(checkpoint), "-o", str(output), *options]
        first, again = measure(command), measure(command)
        print(report(wanted.shape, size, output, first, again))
    finally:
        if not wanted.keep:
            shutil.rmtree(work)


# ---------------------------------------------------------------------------------------------------------- checkpoint


def write_checkpoint(shape: str, directory: Path) -> None:
    """A sharded bfloat16 checkpoint with the tensors of a shape."""
    directory.mkdir(parents=True)
    config = dict(SHAPES[shape])
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_bytes(byte_tokenizer())
    tensors = {
        source: (rows, *spec.shape[1:])
        for spec in weight_specs(config_from_huggingface(config, 4096))
        for source, rows in zip(spec.sources, spec.source_rows, strict=True)
    }
    values = np.random.default_rng(0).standard_normal(RANDOM_ELEMENTS, np.float32) * np.float32(0.02)
    block = values.astype(ml_dtypes.bfloat16).tobytes()
    files, room = list[dict[str, tuple[int, ...]]](), 0
    for name, extents in tensors.items():
        if math.prod(extents) * 2 > room:
            files.append({})
            room = FILE_BYTES
        files[-1][name] = extents
        room -= math.prod(extents) * 2
    weight_map: dict[str, str] = {}
    for i, part in enumerate(files):
        name = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        with (directory / name).open("wb") as file:
            _write_safetensors(file, part, block)
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _write_safetensors(file: BinaryIO, tensors: dict[str, tuple[int, ...]], block: bytes) -> None:
    header, end = {}, 0
    for name, extents in tensors.items():
        start, end = end, end + math.prod(extents) * 2
        header[name] = {"dtype": "BF16", "shape": list(extents), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for piece in _repeated(block, end):
        file.write(piece)


def _repeated(block: bytes, length: int) -> Iterator[memoryview]:
    view = memoryview(block)
    while length > 0:
        yield view[:length]
        length -= len(view[:length])


# --------------------------------------------------------------------------------------------------------- measurement


def measure(command: list[str]) -> dict[str, object]:
    """Runs a compile. Seconds in all and of each stage, its last line, and the largest memory seen, in bytes."""
    started, memory = time.monotonic(), {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stderr=said) as process:
        while process.poll() is None:
            for key, value in _memory(process.pid).items():
                memory[key] = max(memory[key], value)
            time.sleep(0.02)
        elapsed = time.monotonic() - started
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise SystemExit("\n".join(lines))
    stages = {m[1].strip(): float(m[2]) for line in lines if (m := re.fullmatch(r"(.{28}) +([\d.]+) s", line))}
    usage = os.times()
    return {"seconds": elapsed, "stages": stages, "line": lines[-1], "cpu": usage.children_user, **memory}


def _memory(process: int) -> dict[str, int]:
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return {m[1]: int(m[2]) * 1024 for m in re.finditer(r"^(RssAnon|RssFile|VmHWM):\s+(\d+) kB", text, re.MULTILINE)}


def report(shape: str, size: int, output: Path, first: dict, again: dict) -> str:
    """The figures as a Markdown table."""
    model = json.loads((output / "model.json").read_text())
    seconds = first["stages"].get("quantizing", math.nan)
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in first["stages"].items())
    rows = [
        ("parameters", f"{model['parameters']:,}"),
        ("checkpoint", f"{human_bytes(size)}, bfloat16"),
        ("weights written", f"{human_bytes(model['weight_bytes'])}, {model['quantization']}, {model['scales']}"),
        ("time", f"{first['seconds']:.1f} s ({stages}); processor time {first['cpu']:.0f} s"),
        ("quantizing", f"{size / seconds / 1e6:.0f} MB/s, {model['parameters'] / seconds / 1e6:.1f} million weights/s"),
        ("memory of its own", human_bytes(first["RssAnon"])),
        ("resident, with mapped files", human_bytes(first["VmHWM"])),
        ("again, unchanged", f'{again["seconds"]:.1f} s: "{Path(again["line"]).name}"'),
        ("load", " ".join(f"{value:.1f}" for value in os.getloadavg()) + f" on {os.cpu_count()} cores"),
    ]
    return "\n".join([f"| {shape} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    main()
