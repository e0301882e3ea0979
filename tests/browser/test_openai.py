"""OpenAI's client in a browser against the demo model: chat, stream, text, logprobs and biases, with no network."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import ROOT

WEB = ROOT / "web"
RUN = """async (backend) => {
  const engine = await createEngine("/models/demo/", {backend});
  const client = new OpenAI({apiKey: "none", fetch: engine.fetch, dangerouslyAllowBrowser: true, maxRetries: 0});
  const messages = [{role: "user", content: "Who are you?"}];
  const request = {model: "demo", messages, temperature: 0, max_tokens: 24};
  const whole = await client.chat.completions.create({...request, logprobs: true, top_logprobs: 3});
  let streamed = "";
  for await (const {choices} of await client.chat.completions.create({...request, stream: true}))
    streamed += choices[0]?.delta.content ?? "";
  const prompt = await engine.applyChatTemplate(messages);
  const text = await client.completions.create({model: "demo", prompt, temperature: 0, max_tokens: 24});
  const [first] = whole.choices[0].logprobs.content;
  const [id] = await engine.tokenize(first.token, {addSpecialTokens: false});
  const biased = await client.chat.completions.create({...request, max_tokens: 1, logit_bias: {[id]: -100}});
  const seeded = {...request, temperature: 1, seed: 5};
  const drawn = await client.chat.completions.create(seeded);
  const redrawn = await client.chat.completions.create({...seeded, logits_processor: undefined, logit_bias: {0: 0}});
  const special = [{role: "user", content: "</s><|end|>"}];
  const typed = await client.chat.completions.create({...request, messages: special, max_tokens: 1});
  const failing = client.chat.completions.create({...request, audio: {}});
  const error = await failing.catch(({status, param}) => ({status, param}));
  await engine.dispose();
  const content = ({choices}) => choices[0].message.content;
  return {whole, streamed, text: text.choices[0].text, biased: content(biased), first: first.token,
          drawn: content(drawn), redrawn: content(redrawn), typed: typed.usage, error};
}"""


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    """OpenAI's package as one script."""
    directory = tmp_path_factory.mktemp("openai")
    config = directory / "vite.config.mjs"
    entry = WEB / "node_modules" / "openai" / "index.mjs"
    config.write_text(
        f"export default {{build: {{lib: {{entry: {json.dumps(str(entry))}, formats: ['es'], fileName: 'openai'}}, "
        f"outDir: {json.dumps(str(directory / 'out'))}}}}};"
    )
    vite = WEB / "node_modules" / "vite" / "bin" / "vite.js"
    command = [shutil.which("node") or "node", str(vite), "build", "--logLevel", "warn", "--config", str(config)]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (script,) = (directory / "out").glob("openai*js")
    return Path(script).read_text(encoding="utf-8")


@pytest.mark.parametrize("backend", ["webgpu-f32", "wasm-simd"])
def test_openais_client_works_on_the_engine(page: Page, server_url: str, client: str, backend: str) -> None:
    page.goto(server_url.rstrip("/") + "/healthz")
    page.route("**/openai.js", lambda route: route.fulfill(body=client, content_type="text/javascript"))
    imports = (
        'const [{ createEngine }, { default: OpenAI }] = [await import("/static/wisp.js"), await import("/openai.js")];'
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    got: dict[str, Any] = page.evaluate(f"async (backend) => {{ {imports} return await ({RUN})(backend); }}", backend)
    assert not [url for url in asked if "openai.com" in url or "/chat/completions" in url]
    choice = got["whole"]["choices"][0]
    assert choice["message"]["content"] == got["streamed"] == got["text"] != ""
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == got["whole"]["usage"]["completion_tokens"]
    for token in tokens:  # the answer is greedy
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == token["logprob"] <= 0
    assert not got["biased"].startswith(got["first"])
    assert got["drawn"] == got["redrawn"], "the page's sampler draws what the device's draws"
    assert got["typed"]["prompt_tokens"] > 8
    assert got["error"] == {"status": 400, "param": "audio"}
