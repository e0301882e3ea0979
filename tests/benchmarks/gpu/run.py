"""Times Wisp's kernels on the GPU at hand, in a folder that `prepare` filled. Python's own library and nothing else.

    python3 run.py [--rehearse] [--out DIR] [--limit SECONDS]

Phases, each a process of its own with its share of the time: what the GPU can do at most; every plan with all its
alternatives; the first plan once more without bounds checks. A phase that fails or runs out of time is named, the
others go on. Writes `results.json` to DIR (default: $OUT, or here) and prints a table. `--rehearse` does all of it on
SwiftShader, in few runs.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
ICD_FOLDERS = (Path("/etc/vulkan/icd.d"), Path("/usr/share/vulkan/icd.d"))
NVIDIA_LIBRARIES = ("libGLX_nvidia.so.0", "libEGL_nvidia.so.0")
VARIANTS = ("webgpu-f32-sg", "webgpu-f32")
ROBUSTNESS_OFF = "disable_robustness"
SPARE = 15.0  # seconds for what is not a phase


@dataclass(frozen=True)
class Phase:
    """A script's run: its arguments, its share of the time, toggles of Dawn, and whether alternatives are left out."""

    name: str
    script: str
    arguments: tuple[str, ...]
    share: float
    toggles: str = ""
    own: bool = False


def phases(plans: list[Path], few: bool) -> list[Phase]:
    """In the order of what is to be known first."""
    found = [Phase("ceilings", "ceilings.mjs", ("tiny",) if few else (), 1.0)]
    found += [Phase(f"{plan.name} {VARIANTS[0]}", "plan.mjs", (str(plan), VARIANTS[0]), 2.0) for plan in plans]
    if plans:
        first = str(plans[0])
        found.append(Phase(f"{plans[0].name} {VARIANTS[1]}", "plan.mjs", (first, VARIANTS[1]), 1.5))
        name = f"{plans[0].name} unchecked"
        found.append(Phase(name, "plan.mjs", (first, VARIANTS[0]), 1.0, ROBUSTNESS_OFF, own=True))
    return found


def unpack() -> Path:
    """Node and Dawn beside their compressed files; returns Node."""
    for packed in HERE.rglob("*.xz"):
        target = packed.with_suffix("")
        if not target.exists():
            partial = target.with_name(f"{target.name}.part")
            with lzma.open(packed) as content, partial.open("wb") as out:
                shutil.copyfileobj(content, out)
            partial.chmod(0o755)
            partial.rename(target)
    return HERE / "node"


def drivers(rehearse: bool) -> list[Path]:
    """Descriptions of Vulkan drivers for the loader: those of the machine, else one that names NVIDIA's library."""
    if rehearse:
        return [SWIFTSHADER] if SWIFTSHADER.exists() else []
    found = [path for folder in ICD_FOLDERS if folder.is_dir() for path in sorted(folder.glob("*nvidia*.json"))]
    if found:
        return found
    written = []
    for library in NVIDIA_LIBRARIES:
        path = HERE / f"{library}.json"
        icd = {"library_path": library, "api_version": "1.3.0"}
        path.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))
        written.append(path)
    return written


def run_phase(node: Path, phase: Phase, seconds: float, few: bool, icds: list[Path]) -> dict[str, Any]:
    """The phase's figures, or `failed`: why there are none."""
    listed = ":".join(map(str, icds))
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{HERE / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        "VK_DRIVER_FILES": listed,
        "VK_ICD_FILENAMES": listed,  # what loaders before 1.3.207 read
        "WISP_DAWN": phase.toggles,
    }
    arguments = list(phase.arguments)
    if phase.script == "plan.mjs":
        options = [name for name, chosen in (("few", few), ("own", phase.own)) if chosen]
        arguments += [f"{seconds * 0.8:.0f}", *options]
    started = time.monotonic()
    try:
        made = subprocess.run(
            [str(node), phase.script, *arguments],
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"phase": phase.name, "failed": f"not done after {seconds:.0f} s"}
    lines = made.stdout.splitlines()
    if made.returncode or not lines:
        return {"phase": phase.name, "failed": (made.stderr or "no output").strip()[-2000:]}
    return {"phase": phase.name, "seconds": round(time.monotonic() - started, 1), **json.loads(lines[-1])}


def table(results: list[dict[str, Any]]) -> str:
    """A line a figure that matters; times in milliseconds, rates in GB/s and their share of what was read at most."""
    lines = []
    ceilings = next((result for result in results if result.get("kind") == "ceilings"), None)
    most = ceilings["read_bytes_per_second"] if ceilings else None
    if ceilings:
        rates = {key.split("_")[0]: value for key, value in ceilings.items() if key.endswith("adds_per_second")}
        lines.append(f"{ceilings['adapter']['description'] or ceilings['adapter']['name']}")
        read, copied = (ceilings[f"{kind}_bytes_per_second"] / 1e9 for kind in ("read", "copy"))
        lines.append(
            f"read {read:.1f} GB/s, copy {copied:.1f} GB/s, a dispatch {1e6 * ceilings['dispatch_seconds']:.2f} us"
        )
        lines.append("multiply-adds " + ", ".join(f"{name} {rate / 1e12:.3f} T/s" for name, rate in rates.items()))
    for result in results:
        if "failed" in result:
            lines.append(f"{result['phase']}: FAILED: {result['failed'].splitlines()[-1]}")
        if result.get("kind") == "plan":
            lines += _plan_lines(result, most)
    return "\n".join(lines)


def _plan_lines(result: dict[str, Any], most: float | None) -> list[str]:
    lines = [f"{result['phase']} ({result['seconds']} s)"]
    for name, found in result["decode"].items():
        times = " ".join(f"{context}: {1e3 * value:.3f}" for context, value in found["device_seconds"].items())
        off = found.get("logits_off_by")
        lines.append(f"  decode {name:8} ms {times}; logits off by {'?' if off is None else f'{off:.1e}'}")
    for kernel in result["kernels"].get("own", []):
        each = 1e6 * kernel["seconds"] / kernel["dispatches"]
        line = f"    {kernel['kernel']:28} x{kernel['dispatches']:3} {each:9.2f} us"
        if kernel["weight_bytes"]:
            rate = kernel["weight_bytes"] / kernel["seconds"]
            line += f" {rate / 1e9:8.1f} GB/s" + (f" {100 * rate / most:5.1f} %" if most else "")
        lines.append(line)
    if sampling := result.get("sampling_seconds"):
        lines.append("  sampling ms " + ", ".join(f"{name} {1e3 * value:.3f}" for name, value in sampling.items()))
    for name, found in result["prefill_seconds"].items():
        rates = ", ".join(f"{size}: {int(size) / value:.0f}" for size, value in found.items())
        lines.append(f"  prefill {name:8} tokens/s {rates}")
    if result["left_out"]:
        lines.append(f"  left out for want of time: {', '.join(result['left_out'])}")
    return lines


def card() -> str | None:
    """The card and its driver, as NVIDIA's own tool names them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False).stdout.strip() or None


def main() -> int:
    parser = argparse.ArgumentParser(description="Time Wisp's kernels on the GPU at hand.")
    parser.add_argument("--rehearse", action="store_true", help="on SwiftShader, in few runs")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", HERE)))
    parser.add_argument("--limit", type=float, default=540.0, help="seconds in all")
    arguments = parser.parse_args()
    started = time.monotonic()
    icds = drivers(arguments.rehearse)
    if not icds:
        sys.exit("run: SwiftShader is missing; on Debian: apt-get install chromium")
    node = unpack()
    todo = phases(sorted((HERE / "plans").iterdir()), arguments.rehearse)
    results = []
    for i, phase in enumerate(todo):
        left = arguments.limit - SPARE - (time.monotonic() - started)
        seconds = left * phase.share / sum(other.share for other in todo[i:])
        print(f"{phase.name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        results.append(run_phase(node, phase, seconds, arguments.rehearse, icds))
    whole = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": platform.platform(),
        "card": card(),
        "rehearsal": arguments.rehearse,
        "seconds": round(time.monotonic() - started, 1),
        "phases": results,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(whole, indent=1))
    print(table(results))
    return 1 if any("failed" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
