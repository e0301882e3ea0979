"""Decode of the embedded model in a browser, beside what its device does when nothing is read back, in one run.

usage: python -m tests.benchmarks.browser_decode [BROWSER] [VARIANT]     (firefox webgpu-f32; see tests/browser/drivers)
"""

import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from compiler.build import build
from compiler.config import resolve_config
from tests import chromium
from tests.browser.drivers import launch
from tests.browser.site import serving_site
from tests.conftest import ROOT

STEPS = 100
ROUNDS = 3
ENGINE = """async ([variant, steps]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/demo/", { backend: variant, autotune: false });
  const options = { temperature: 0, ignoreEos: true };
  await engine.generateIds([1, 2, 3], { ...options, maxTokens: 2 * steps });
  const before = engine.stats();
  const started = performance.now();
  await engine.generateIds([4, 5, 6], { ...options, maxTokens: 2 * steps });
  const seconds = (performance.now() - started) / 1e3;
  const after = engine.stats();
  await engine.dispose();
  return [seconds / (2 * steps), after.readbacks - before.readbacks];
}"""
BEST = """async ([variant, steps]) => {
  const { measureSteps } = await import("/static/bench.js");
  return measureSteps("/models/demo/", variant, steps);
}"""


def main(name: str = "firefox", variant: str = "webgpu-f32") -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        artifacts = Path(folder)
        build(resolve_config(str(ROOT / "configs" / "demo"), output=artifacts / "demo", variants=(variant,)))

        def start() -> Browser:
            return playwright.chromium.launch(executable_path=chromium.find(), args=list(chromium.FLAGS))

        driver = launch(name, start, playwright.chromium, artifacts / "cache")
        with serving_site(artifacts) as site:
            tab = driver.new_tab()
            tab.goto(site.url + "healthz")
            shares = []
            for _ in range(ROUNDS):  # by turns: the machine's speed changes
                best = tab.evaluate(BEST, [variant, STEPS])
                step, readbacks = tab.evaluate(ENGINE, [variant, STEPS])
                shares.append(best / step)
                print(
                    f"{1 / step:.1f} tokens/s, {readbacks} readbacks; {1 / best:.1f} without readback: {shares[-1]:.2f}"
                )
            print(f"{name}, {variant}: {statistics.median(shares):.2f} of what back-to-back submission reaches")
        driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
