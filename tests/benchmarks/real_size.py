"""A model of real size in a headless Chromium against the same artifact natively: memory, seconds, and is it right.

    python -m tests.benchmarks.real_size                            # 1.1 billion parameters, a minute or two on a CPU
    python -m tests.benchmarks.real_size --shape llama-110m         # a smaller one
    python -m tests.benchmarks.real_size --shape phi-3-mini --variant wasm-simd --prompt 250     # on the CPU

Random weights (`compiler/bench/shapes.py`), a random prompt: the logits after it have to agree, and greedy tokens too.
Memory is the proportional share (PSS) of every process of the browser, summed once a second: Linux only.
"""

import argparse
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from compiler.artifact.writer import Artifact, load_artifact
from compiler.bench.browser import GENERATE, LOAD, open_page, serving
from compiler.bench.native import random_ids
from compiler.bench.shapes import SHAPES, shape_artifact
from compiler.check.inputs import adapter_name
from compiler.check.parity import wide_console
from compiler.progress import Terminal, human_bytes
from compiler.runtime.wasmtime import open_wasm_variant
from compiler.runtime.wgpu import NativeRuntime, open_variant
from compiler.target.variants import VARIANTS

TOLERANCE = 2e-3  # of the largest logit: keys and values are f16, which rounds what differs by f32's last places
LOGITS = "async (ids) => Array.from(await window.bench.logits(ids))"


@dataclass(frozen=True)
class Run:
    """One side: `logits` after the prompt, (tokens, vocabulary) natively and only the first row in the browser."""

    adapter: str
    logits: NDArray[np.float32]
    tokens: list[int]
    load_seconds: float
    prompt_seconds: float
    token_seconds: float
    peak_bytes: int | None
    context: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--tokens", type=int, default=4, help="greedy tokens, at least 2")
    parser.add_argument("--prompt", type=int, default=8, help="tokens of the prompt")
    parser.add_argument("--variant", choices=VARIANTS, default="webgpu-f32-sg")
    parser.add_argument("--artifact", type=Path, metavar="DIR", help="one that is there, in place of a shape's")
    wanted = parser.parse_args()
    progress = Terminal()
    artifact = load_artifact(wanted.artifact or shape_artifact(wanted.shape, progress=progress))
    prompt = random_ids(wanted.prompt, artifact.model["architecture"]["vocab_size"], seed=1)
    with progress.stage("natively", 1):
        native = run_natively(artifact, wanted.variant, prompt, max(2, wanted.tokens))
    gc.collect()  # the weights of this process, before the browser takes its own
    with progress.stage("in the browser", 1):
        browser = run_in_browser(artifact, wanted.variant, prompt, max(2, wanted.tokens))
    error = relative_error(browser.logits[0], native.logits[0])
    complaints = differences(native, browser, error)
    print_table(artifact, wanted.variant, native, browser, error, complaints)
    return 1 if complaints else 0


def run_natively(artifact: Artifact, variant: str, prompt: Sequence[int], count: int) -> Run:
    """Through wgpu or wasmtime: the logits of every step, each on the token that led before."""
    started = time.perf_counter()
    on_cpu = VARIANTS[variant].backend == "wasm"
    runtime = open_wasm_variant(artifact, variant) if on_cpu else open_variant(artifact, variant)
    loaded = time.perf_counter()
    rows = [runtime.logits(prompt)]
    answered = time.perf_counter()
    while len(rows) < count:
        rows.append(runtime.next_logits(int(rows[-1].argmax())))
    ended = time.perf_counter()
    logits = np.stack(rows)
    return Run(
        adapter_name(runtime.adapter) if isinstance(runtime, NativeRuntime) else "wasmtime",
        logits,
        logits.argmax(axis=1).tolist(),
        loaded - started,
        answered - loaded,
        (ended - answered) / (count - 1),
        None,
        runtime.plan["context"],
    )


def run_in_browser(artifact: Artifact, variant: str, prompt: Sequence[int], count: int) -> Run:
    """Through the engine's public API, from a server on this machine, with an empty cache."""
    with serving(artifact.path) as url, open_page(url) as page, peak_memory() as peak:
        models = page.evaluate("async () => (await (await fetch('/models')).json()).models")
        loaded = page.evaluate(LOAD, [models[0]["url"], {"backend": variant}])
        started = time.perf_counter()
        logits = np.asarray([page.evaluate(LOGITS, list(prompt))], np.float32)
        prompt_seconds = time.perf_counter() - started
        answer = page.evaluate(GENERATE, [list(prompt), count])
        found = loaded["info"]["adapter"]
        adapter = " ".join(filter(None, (found[key] for key in ("vendor", "architecture")))) or found["description"]
        browser = page.context.browser
        return Run(
            f"{adapter}, {browser.browser_type.name} {browser.version}" if browser else adapter,
            logits,
            answer["tokens"],
            loaded["seconds"],
            prompt_seconds,
            answer["stats"]["decodeMs"] / 1e3 / (count - 1),
            peak[0],
            loaded["info"]["contextLength"],
        )


# -------------------------------------------------------------------------------------------------------------- memory


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list of one number: the most bytes that this process's browsers have held so far."""
    peak, done = [browser_bytes()], threading.Event()

    def sample() -> None:
        while not done.wait(1):
            peak[0] = max(peak[0], browser_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def browser_bytes() -> int:
    """The summed PSS of Chromium's processes among the descendants of this one."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # ended meanwhile
            continue
        parents[int(entry.name)], names[int(entry.name)] = int(rest.split()[1]), name
    total = 0
    for pid, name in names.items():
        if name.startswith(("chrom", "google-chrome", "headless")) and is_descendant(pid, parents):
            total += proportional_bytes(pid)
    return total


def is_descendant(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


# ------------------------------------------------------------------------------------------------------------ compare


def relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference, of the largest logit; infinite when something is no number."""
    if got.shape != expected.shape or not np.isfinite(got).all() or float(np.ptp(expected)) == 0:
        return float("inf")
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def differences(native: Run, browser: Run, error: float) -> list[str]:
    """What is wrong, in words. A token may differ where the native logits call it as good, within the tolerance."""
    complaints = [] if native.context == browser.context else [f"a context of {browser.context} in the browser"]
    complaints += [] if error <= TOLERANCE else [f"logits differ by {error:.1e} of the largest, allowed {TOLERANCE:g}"]
    if len(browser.tokens) != len(native.tokens):
        complaints.append(f"{len(browser.tokens)} tokens instead of {len(native.tokens)}")
    for step, (ours, theirs, logits) in enumerate(zip(browser.tokens, native.tokens, native.logits, strict=False)):
        if ours != theirs:
            if float(logits[theirs] - logits[ours]) > 2 * TOLERANCE * float(np.abs(logits).max()):
                complaints.append(f"token {step} is {ours}, natively {theirs}")
            break  # from here on they continue different texts
    return complaints


def print_table(
    artifact: Artifact, variant: str, native: Run, browser: Run, error: float, complaints: Sequence[str]
) -> None:
    model: dict[str, Any] = artifact.model
    table = Table(box=SIMPLE_HEAD)
    for heading in ("", "natively", "in the browser"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.add_row("adapter", native.adapter, browser.adapter)
    table.add_row("context, tokens", f"{native.context:,}", f"{browser.context:,}")
    table.add_row("load, s", f"{native.load_seconds:.1f}", f"{browser.load_seconds:.1f}")
    table.add_row("logits after the prompt, s", f"{native.prompt_seconds:.1f}", f"{browser.prompt_seconds:.1f}")
    table.add_row("a token, s", f"{native.token_seconds:.2f}", f"{browser.token_seconds:.2f}")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    table.add_row("peak memory", "", f"{human_bytes(browser.peak_bytes or 0)} of {human_bytes(total)}")
    table.add_row("greedy tokens", *(" ".join(map(str, run.tokens)) for run in (native, browser)))
    console = wide_console()
    console.print(
        f"{model['id']} ({model['parameters'] / 1e9:.2f} billion parameters, {model['quantization']}, "
        f"{human_bytes(model['weight_bytes'])} of weights), {variant}",
        markup=False,
    )
    console.print(table)
    console.print(f"largest difference of logits: {error:.1e} of the largest", markup=False)
    console.print("\n".join(f"FAILED: {line}" for line in complaints) or "agrees", markup=False)


if __name__ == "__main__":
    sys.exit(main())
