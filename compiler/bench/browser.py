"""Measures an artifact in a headless Chromium: a real server, the engine's public API, the same figures as natively.

Knows the engine's API (`web/src/api/types.ts`), what `web/src/bench/` measures beside it, how to start a browser. A GPU
is used when the browser offers one, else its software adapter; CPU variants need neither.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..artifact.writer import Artifact
from ..errors import WispError
from ..places import PACKAGE
from .device import (
    ARRIVED,
    COPY_BYTES,
    COPY_KERNEL,
    MULTIPLY_ADDS_A_THREAD,
    READ_KERNEL,
    READ_WORKGROUPS,
    WORKGROUP,
    multiply_add_source,
)
from .native import (
    MOST_DECODE_STEPS,
    RUNS,
    decode_contexts,
    dispatch_bytes,
    first_token_seconds,
    kernel_figures,
    measure,
    prefill_rows,
    prompt_sizes,
    random_ids,
    timed_programs,
)
from .steps import SAMPLING, step_programs

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--enable-webgpu-developer-features",  # timestamps to the nanosecond: a page's are rounded to 100 us
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Tried in order until the browser has a WebGPU adapter: the machine's GPU (Vulkan on Linux), then a software one.
ADAPTER_FLAGS = (("--enable-features=Vulkan",), ("--use-webgpu-adapter=swiftshader",))

HAS_ADAPTER = "async () => Boolean(await navigator.gpu?.requestAdapter())"
LOAD = """async ([url, options]) => {
  await window.bench?.dispose();
  const { createEngine } = await import("/static/wisp.js");
  const started = performance.now();
  window.bench = await createEngine(url, options);
  return { seconds: (performance.now() - started) / 1e3, info: window.bench.info, stats: window.bench.stats() };
}"""
# Greedy, so that nothing but the model is timed; the statistics are those of this request.
GENERATE = """async ([ids, maxTokens]) => {
  const before = window.bench.stats();
  const started = performance.now();
  const tokens = await window.bench.generateIds(ids, { maxTokens, temperature: 0, ignoreEos: true });
  const seconds = (performance.now() - started) / 1e3;
  const after = window.bench.stats();
  const stats = Object.fromEntries(Object.keys(after).map((key) => [key, after[key] - before[key]]));
  return { seconds, tokens, stats };
}"""
# What the engine does not say, from a module that nothing else loads (web/src/bench/).
MEASURE_DEVICE = """async (sources) => (await import("/static/bench.js")).measureDevice(sources)"""
MEASURE_KERNELS = """async ([url, variant, programs, limit]) =>
  (await import("/static/bench.js")).measureKernels(url, variant, programs, limit)"""
MEASURE_PASSES = """async ([url, variant, programs, samplings, limit]) =>
  (await import("/static/bench.js")).measurePasses(url, variant, programs, samplings, limit)"""
FEATURES = """async () => {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  return [...(adapter?.features ?? [])];
}"""
NO_DEVICE: dict[str, Any] = dict.fromkeys(("bandwidth", "multiply_adds", "steps", "sampling", "kernels"))
CHECK = """async (ids) => {
  const [first, second] = [await window.bench.logits(ids), await window.bench.logits(ids)];
  const differ = first.some((value) => value !== first[0]);
  return differ && first.every((value, i) => Number.isFinite(value) && value === second[i]);
}"""


def bench_browser(
    artifact: Artifact,
    variant: str | None,
    limit: float,
    threads: int | None = None,
    windows: Sequence[int | None] = (),
) -> dict[str, Any]:
    """Every figure of a variant in the browser; none of them takes much longer than `limit` seconds.

    `threads` is for variants of the CPU; `windows` are the positions that each layer's queries see at most. Raises
    WispError for what the engine refuses.
    """
    on_cpu = any(v["name"] == variant and v["backend"] == "wasm" for v in artifact.model["variants"])
    with serving(artifact.path) as url, open_page(url, needs_adapter=not on_cpu) as page:
        models = page.evaluate("async () => (await (await fetch('/models')).json()).models")
        wanted = variant or _gpu_variant(page, artifact)
        options = {key: value for key, value in (("backend", wanted), ("threads", threads)) if value is not None}
        load = [models[0]["url"], options]
        cold = _call(page, LOAD, load)
        page.evaluate("() => window.bench.dispose()")
        page.reload()
        warm = _call(page, LOAD, load)
        info = warm["info"]
        if (info["backend"] == "wasm") != on_cpu:
            reasons = "; ".join(f"{entry['variant']}: {entry['reason']}" for entry in info["skipped"])
            raise WispError("the browser runs no WebGPU variant of it", got=reasons, remedy="measure --backend wasm")
        vocab_size, context = info["vocabSize"], info["contextLength"]
        if not _call(page, CHECK, random_ids(min(32, context), vocab_size, 0)):
            raise RuntimeError(f"the logits of {info['variant']} are not to be trusted; run `wisp check`")
        skipped: list[str] = []
        prefill = prefill_figures(page, context, vocab_size, limit, skipped)
        decode, counters = decode_figures(page, prefill, context, vocab_size, limit, skipped)
        if page.evaluate("() => window.bench.info.variant") != info["variant"]:
            raise RuntimeError(f"the device was lost; some of the figures are not of {info['variant']}")
        page.evaluate("() => window.bench.dispose()")  # its memory is for what follows
        timed = Timed(artifact, models[0]["url"], info["variant"], limit, windows)
        device = NO_DEVICE if on_cpu else device_figures(page, timed, skipped)
        if device["kernels"] is None:
            reason = "only on WebGPU" if on_cpu else "the browser's adapter has no timestamp-query"
            skipped.append(f"kernels{', bandwidth and multiply-adds' * on_cpu}: {reason}")
        return {
            "variant": info["variant"],
            "adapter": _adapter_name(info, page),
            "threads": info["threads"] or None,
            "load": {
                "cold_s": cold["seconds"],
                "warm_s": warm["seconds"],
                "compile_s": cold["stats"]["compileMs"] / 1e3,
                "compile_warm_s": warm["stats"]["compileMs"] / 1e3,
            },
            "time_to_first_token_s": first_token_seconds(prefill),
            "prefill": prefill,
            "decode": decode,
            "counters": counters,
            **device,
            "skipped": skipped,
        }


def _gpu_variant(page: Any, artifact: Artifact) -> str | None:
    """The first whose features the adapter has. By name, as "auto" takes the CPU before a software adapter."""
    features = set(page.evaluate(FEATURES))
    on_gpu = [v for v in artifact.model["variants"] if v["backend"] == "webgpu"]
    return next((v["name"] for v in on_gpu if features.issuperset(v["required_features"])), None)


def _adapter_name(info: dict[str, Any], page: Any) -> str:
    """What runs the kernels, and in which browser."""
    adapter, browser = info["adapter"] or {}, page.context.browser
    keys = ("vendor", "architecture", "device", "description")
    name = " ".join(adapter[key] for key in keys if adapter.get(key)) or "CPU"
    return f"{name}, {browser.browser_type.name} {browser.version}" if browser else name


@dataclass(frozen=True)
class Timed:
    """A variant that is timed beside the engine: the artifact, where its server has it, seconds a figure may take."""

    artifact: Artifact
    url: str
    variant: str
    limit: float
    windows: Sequence[int | None]


def device_figures(page: Any, timed: Timed, skipped: list[str]) -> dict[str, Any]:
    """What the device can do at most; whole programs and each kernel on it, on devices of their own."""
    if not page.evaluate("async () => (await fetch('/static/bench.js')).ok"):
        raise WispError("web/dist has no bench.js", remedy="run `make build`")
    sources = {
        "read": READ_KERNEL,
        "readWorkgroups": READ_WORKGROUPS,
        "copy": COPY_KERNEL,
        "multiplyAdd": {dtype: multiply_add_source(dtype) for dtype in ("f32", "f16")},
        "multiplyAddsAWorkgroup": MULTIPLY_ADDS_A_THREAD * WORKGROUP,
        "threadsAWorkgroup": WORKGROUP,
        "arrived": ARRIVED,
        "copyBytes": COPY_BYTES,
    }
    device = _call(page, MEASURE_DEVICE, sources)
    bandwidth = {
        "bytes_per_second": max(device["read"], device["copyKernel"], device["copyQueue"]),
        "read_bytes_per_second": device["read"],
        "copy_kernel_bytes_per_second": device["copyKernel"],
        "copy_queue_bytes_per_second": device["copyQueue"],
        "buffer_bytes": device["copyBytes"],
    }
    plan, most = timed.artifact.plans[timed.variant], bandwidth["bytes_per_second"]
    programs = timed_programs(plan)
    seconds = _call(page, MEASURE_KERNELS, [timed.url, timed.variant, programs, timed.limit])
    kernels = seconds and {
        of[0]: kernel_figures(plan, of, taken, dispatch_bytes(plan, *of, timed.windows), most)
        for of, taken in zip(programs, seconds, strict=True)
    }
    rates = {"f32_per_second": device["f32"], "f16_per_second": device["f16"]}
    return {"bandwidth": bandwidth, "multiply_adds": rates, "kernels": kernels, **pass_figures(page, timed, skipped)}


def pass_figures(page: Any, timed: Timed, skipped: list[str]) -> dict[str, Any]:
    """`step_seconds` of a page: `steps` and `sampling`, null where the adapter has no timestamps."""
    plan = timed.artifact.plans[timed.variant]
    programs = step_programs(plan, decode_contexts(plan["context"]))
    samplings = {
        name: {_camel(key): value for key, value in asdict(parameters).items()} for name, parameters in SAMPLING.items()
    }
    found = _call(page, MEASURE_PASSES, [timed.url, timed.variant, programs, samplings, timed.limit])
    if found is None:
        return {"steps": None, "sampling": None}
    for row in found["steps"]:
        if row["seconds"] is None:
            skipped.append(f"a pass of {row['program']} by {row['alternative']}: takes more than {timed.limit:g} s")
    return {**found, "steps": [row for row in found["steps"] if row["seconds"] is not None]}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def prefill_figures(page: Any, context: int, vocab_size: int, limit: float, skipped: list[str]) -> list[dict[str, Any]]:
    """`prefill_rows` of the engine on a page."""
    seed = 0

    def prompt(count: int) -> Callable[[], float]:
        def run() -> float:
            nonlocal seed
            seed += 1  # another prompt each time: a known prefix would not be read again
            seconds: float = _call(page, GENERATE, [random_ids(count, vocab_size, seed), 1])["seconds"]
            return seconds

        return run

    return prefill_rows(prompt_sizes(context), limit, skipped, prompt)


def decode_figures(
    page: Any,
    prefill: Sequence[dict[str, Any]],
    context: int,
    vocab_size: int,
    limit: float,
    skipped: list[str],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time of a decode step behind some prompts, from the first answer token to the last, and what a step costs."""
    figures: list[dict[str, Any]] = []
    counters: dict[str, Any] = {}
    for position in decode_contexts(context):
        if prefill[-1]["seconds"] * position / prefill[-1]["tokens"] > limit:
            skipped.append(f"decode at {position}: its prompt would take more than {limit:g} s")
            continue
        ids = random_ids(position, vocab_size, 1_000_000 + position)
        _call(page, GENERATE, [ids, 1])  # the prompt is read once; the runs find it in the KV cache
        once = _call(page, GENERATE, [ids, 3])["stats"]["decodeMs"] / 2e3
        most = min(MOST_DECODE_STEPS, context - position)
        steps = max(2, min(most, int(limit / (2 * RUNS) / max(once, 1e-4))))
        answers: list[dict[str, Any]] = []

        def run(ids: Sequence[int] = ids, steps: int = steps, answers: list[dict[str, Any]] = answers) -> float:
            answers.append(_call(page, GENERATE, [ids, steps]))
            seconds: float = answers[-1]["stats"]["decodeMs"] / 1e3
            return seconds

        timing = measure(run, limit)
        if any(answer["tokens"] != answers[0]["tokens"] for answer in answers):
            raise RuntimeError("greedy answers to the same prompt differ; run `wisp check`")
        step = timing.seconds / (steps - 1)
        stats = answers[-1]["stats"]
        figures.append(
            {
                "context": position,
                "seconds_per_token": step,
                "tokens_per_second": 1 / step,
                "steps": steps,
                "runs": timing.runs,
            }
        )
        counters = {
            "dispatches_per_token": stats["dispatches"] / stats["decodeSteps"],
            "submits_per_token": stats["submits"] / stats["tokens"],
            "readbacks_per_token": stats["readbacks"] / stats["tokens"],
            "bytes_uploaded_per_token": stats["bytesUploaded"] / stats["tokens"],
            "bytes_read_back_per_token": stats["bytesReadBack"] / stats["tokens"],
        }
    return figures, counters


# ------------------------------------------------------------------------------------------------- server and browser


def _call(page: Any, script: str, argument: Any) -> Any:
    """Runs a script on the page; what the engine refuses is bad input here too."""
    from playwright.sync_api import Error

    try:
        return page.evaluate(script, argument)
    except Error as error:
        raise WispError("the engine refused", got=error.message.splitlines()[0]) from error


@contextlib.contextmanager
def serving(artifact: Path) -> Iterator[str]:
    """The server over one artifact, in a process of its own on a free port; yields its URL."""
    command = [
        sys.executable,
        "-u",
        "-m",
        f"{__name__.partition('.')[0]}.cli",
        "serve",
        str(artifact.absolute()),
        "--port",
        "0",
    ]
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, cwd=PACKAGE.parent) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # "Wisp is at URL (...)", or nothing when it could not start
            url = next((word for word in line.split() if word.startswith("http://")), None)
            if url is None:
                process.wait()
                complaints.seek(0)
                reason = complaints.read().strip().splitlines()
                raise WispError("the server did not start", got=reason[-1] if reason else "no reason")
            yield url
        finally:
            process.terminate()


@contextlib.contextmanager
def open_page(url: str, needs_adapter: bool = True) -> Iterator[Any]:
    """A page with empty caches in a browser; one that has a WebGPU adapter, when that is needed."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise WispError(
            "measuring in a browser needs Playwright, which is not installed",
            remedy="install it with: pip install 'wisp[bench]'",
        ) from error
    executable = find_chromium()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profiles:
        for i, adapter_flags in enumerate(ADAPTER_FLAGS):
            context = playwright.chromium.launch_persistent_context(
                str(Path(profiles) / str(i)), executable_path=executable, args=[*FLAGS, *adapter_flags], timeout=120_000
            )
            try:
                page = context.new_page()
                page.goto(url + "healthz")
                if not needs_adapter or page.evaluate(HAS_ADAPTER):
                    yield page
                    return
            finally:
                context.close()
    raise WispError(
        "the browser offers no WebGPU adapter",
        got=executable,
        expected="a Chromium that has WebGPU",
        remedy="set WISP_CHROMIUM to another one",
    )


def find_chromium() -> str:
    """$WISP_CHROMIUM, or a Chromium or Chrome on PATH."""
    named = os.environ.get("WISP_CHROMIUM")
    for command in (named,) if named else COMMANDS:
        if path := shutil.which(command):
            return path
    raise WispError(
        "no Chromium was found",
        got=f"WISP_CHROMIUM={named}" if named else "none on PATH",
        expected=" or ".join(COMMANDS),
        remedy="install one, or set WISP_CHROMIUM to its path",
    )
