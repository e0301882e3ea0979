"""Wisp and wllama on the same published file, on the CPU of one Chromium, by turns: tokens a second.

    python -m tests.benchmarks.beside_wllama                   # SmolLM2-135M-Instruct Q4_1; 1 and 2 threads

The file is the one of `wisp demo`, kept as it is by `--quant auto`; wllama (npm) reads it with llama.cpp. Both answer
the same prompts greedily. A page holds one engine with one number of threads; pages take turns, so that what else runs
on the machine slows all alike, and a figure is the median of the rounds. wllama's times are those that it reports.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Page, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from tokenizers import Tokenizer

from compiler.build import build
from compiler.config import resolve_config
from compiler.demo import RECIPE, cache_directory
from compiler.serving.app import create_app
from compiler.serving.listen import bind
from tests import chromium
from tests.smollm2 import PROSE, model_file

WLLAMA = "3.8.1"
CONTEXT = 512
WORDS_APART = 40  # of the beginnings of two prompts: no cache of prefixes can help
ISOLATED = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}
LOAD_WISP = """async (threads) => {
  const { createEngine } = await import("/static/wisp.js");
  self.engine = await createEngine("/models/%s/", { backend: "wasm-simd", threads, contextLength: %d });
}"""
RUN_WISP = """async ([ids, text, n]) => {
  const before = engine.stats();
  const tokens = await engine.generateIds(ids, { maxTokens: n, temperature: 0, ignoreEos: true });
  const after = engine.stats();
  await engine.resetChat();
  return { prompt: ids.length, prefill: after.prefillMs - before.prefillMs, count: tokens.length,
           decode: (after.decodeMs - before.decodeMs) / (tokens.length - 1), tokens };
}"""
LOAD_WLLAMA = """async (threads) => {
  const { Wllama } = await import("/wllama/index.js");
  self.engine = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, { suppressNativeLog: true });
  await engine.loadModelFromUrl(new URL("/file/%s", location.href).href,
    { n_ctx: %d, n_batch: 512, n_parallel: 1, n_threads: threads, n_gpu_layers: 0, warmup: false });
  if (engine.getNumThreads() !== threads) throw new Error(`wllama runs ${engine.getNumThreads()} threads`);
}"""
# What llama.cpp calls predicted is all but the first token, which comes with the prompt.
RUN_WLLAMA = """async ([ids, prompt, n]) => {
  let timings, text = "";
  const chunks = await engine.createCompletion({ prompt, max_tokens: n, temperature: 0, top_k: 1, ignore_eos: true,
                                                 cache_prompt: false, stream: true });
  for await (const chunk of chunks) {
    text += chunk.choices?.[0]?.text ?? "";
    timings = chunk.timings ?? timings;
  }
  return { prompt: timings.prompt_n, prefill: timings.prompt_ms, count: timings.predicted_n,
           decode: timings.predicted_ms / (timings.predicted_n - 1), text };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--artifact", type=Path, help="of the file, already compiled")
    options = parser.parse_args()
    file = model_file()
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder:
        artifact: Path = options.artifact or Path(folder) / "artifacts" / "model"
        if options.artifact is None:
            config = resolve_config(str(file), recipe_for_source=RECIPE, identifier="model", output=artifact)
            build(replace(config, variants=("wasm-simd",)))
        prompts = _prompts(artifact / "tokenizer.json", options.prompt, options.rounds + 1)
        with _serving(artifact.resolve().parent, file, _wllama()) as url:
            _compare(url, artifact.resolve().name, file.name, prompts, options)


def _compare(
    url: str, model: str, file: str, prompts: list[tuple[list[int], str]], options: argparse.Namespace
) -> None:
    engines = {
        "Wisp": (LOAD_WISP % (model, CONTEXT), RUN_WISP),
        f"wllama {WLLAMA}": (LOAD_WLLAMA % (file, CONTEXT), RUN_WLLAMA),
    }
    with sync_playwright() as playwright:
        path = chromium.find()
        assert path is not None, "no Chromium found"
        browser = playwright.chromium.launch(executable_path=path, args=list(chromium.FLAGS))
        print(f"Chromium {browser.version}; medians of {options.rounds} rounds, tokens a second")
        for threads in options.threads:
            pages: dict[str, Page] = {}
            for name, (load, _) in engines.items():
                pages[name] = browser.new_context().new_page()
                pages[name].goto(url + "bench.html")
                pages[name].evaluate(load, threads)
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
            for ids, text in prompts:
                for name, (_, run) in engines.items():
                    found[name].append(pages[name].evaluate(run, [ids, text, options.new]))
            _show(threads, {name: runs[1:] for name, runs in found.items()})  # the first warms up
            for page in pages.values():
                page.context.close()
        browser.close()


def _show(threads: int, found: dict[str, list[dict[str, Any]]]) -> None:
    rates: dict[str, list[tuple[float, float]]] = {}
    for name, runs in found.items():
        rates[name] = [(1e3 * run["prompt"] / run["prefill"], 1e3 / run["decode"]) for run in runs]
        prefill, decode = (statistics.median(column) for column in zip(*rates[name], strict=True))
        tokens = f"prompt of {runs[0]['prompt']}, {runs[0]['count']} new"
        print(f"{threads} threads, {name:14} prefill {prefill:7.1f}   decode {decode:7.1f}   ({tokens})")
    ours, theirs = rates.values()
    ratios = [[mine / other for mine, other in zip(*pair, strict=True)] for pair in zip(ours, theirs, strict=True)]
    prefill, decode = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"{threads} threads, Wisp over wllama: prefill {prefill:.1f} x, decode {decode:.1f} x", flush=True)


def _prompts(tokenizer: Path, length: int, count: int) -> list[tuple[list[int], str]]:
    """Pieces of prose, each as ids and as the text that they spell."""
    encoder = Tokenizer.from_file(str(tokenizer))
    words = PROSE.read_text(encoding="utf-8").split()
    ids = [encoder.encode(" ".join(words[WORDS_APART * i :])).ids[:length] for i in range(count)]
    return [(piece, encoder.decode(piece)) for piece in ids]


def _wllama() -> Path:
    """The package's files, fetched once."""
    prefix = cache_directory() / f"wllama-{WLLAMA}"
    package = prefix / "node_modules" / "@wllama" / "wllama" / "esm"
    if not package.is_dir():
        prefix.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-save", "--prefix", str(prefix)]
        subprocess.run([*command, f"@wllama/wllama@{WLLAMA}"], check=True, stdout=subprocess.DEVNULL)
    return package


@contextlib.contextmanager
def _serving(artifacts: Path, file: Path, wllama: Path) -> Iterator[str]:
    """Wisp's application, wllama and the file, and a page of the same origin that may run both, with threads."""

    def page(request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>bench</title>", headers=ISOLATED)

    app = Starlette(
        routes=[
            Route("/bench.html", page),
            Mount("/wllama", StaticFiles(directory=wllama)),
            Mount("/file", StaticFiles(directory=file.parent)),
            Mount("/", create_app(artifacts)),
        ]
    )
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


if __name__ == "__main__":
    main()
