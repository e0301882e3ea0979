"""Decode of an answer that is an edit of a text, with that text as `prediction` and without, by turns in one run.

usage: python -m tests.benchmarks.prediction ARTIFACT [VARIANT ...]     (wasm-simd webgpu-f32-sg; in Chromium)

The answer is what the model says, 200 tokens, greedily; the given text is that answer but for one word in ten: some are
other words, some are missing, some stand there twice, one by one or three together. Both ways have to say the same.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import chromium
from tests.browser.site import serving_site

ROUNDS = 3
MEASURE = """async ([variant, rounds]) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/edited/", { backend: variant, autotune: false, cache: false });
  const messages = [{ role: "user", content: "Write a long story about a lighthouse." }];
  const request = { messages, temperature: 0, max_tokens: 200, ignore_eos: true };
  const ask = async (prediction) => {
    const before = engine.stats().decodeSteps;
    const started = performance.now();
    const { choices, usage } = await engine.chat.completions.create({ ...request, prediction });
    const seconds = (performance.now() - started) / 1e3;
    const { completion_tokens: tokens, completion_tokens_details: details } = usage;
    const stepsPerToken = (engine.stats().decodeSteps - before) / tokens;
    return { text: choices[0].message.content, rate: tokens / seconds, stepsPerToken, ...details };
  };
  const { text } = await ask();
  const words = text.split(/(?<= )/);
  const change = (word, i) => [["instead "], [], [word, word]][i % 3];
  const edited = (together) => words.flatMap((word, i) =>
    Math.floor(i / together) % 10 === 5 ? change(word, Math.floor(i / 10)) : [word]).join("");
  const texts = {
    "no prediction": undefined,
    "words here and there": edited(1),
    "three words together": edited(3),
    "the answer itself": text,
  };
  const best = {};
  for (let round = 0; round < rounds; round++)
    for (const [name, content] of Object.entries(texts)) {
      const found = await ask(content && { type: "content", content });
      if (found.text !== text) throw new Error(`${name}: another answer\\n${text}\\n${found.text}`);
      if (!(best[name]?.rate > found.rate)) best[name] = found;
    }
  await engine.dispose();
  return best;
}"""


def main(artifact: str, *variants: str) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        shutil.copytree(artifact, Path(folder) / "edited")
        browser = playwright.chromium.launch(executable_path=chromium.find(), args=list(chromium.FLAGS))
        with serving_site(Path(folder)) as site:
            page = browser.new_page()
            page.goto(site.url + "healthz")
            for variant in variants or ("wasm-simd", "webgpu-f32-sg"):
                best = page.evaluate(MEASURE, [variant, ROUNDS])
                plain = best["no prediction"]["rate"]
                for name, found in best.items():
                    print(
                        f"{variant}, {name}: {found['rate']:.1f} tokens/s, {found['rate'] / plain:.2f} times;"
                        f" {found['stepsPerToken']:.2f} steps a token, {found['accepted_prediction_tokens']} accepted,"
                        f" {found['rejected_prediction_tokens']} rejected",
                        flush=True,
                    )
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
