"""The engine in Node: the same artifacts, from a directory or from a server, by the code that pages run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.artifact.state import SamplingParameters
from compiler.artifact.writer import load_artifact
from compiler.runtime.wasmtime import open_wasm_variant
from tests.browser import toy_artifact
from tests.browser.conftest import serving
from tests.conftest import ROOT, unavailable

TOY = toy_artifact.toy()
PROMPT = [0, 17, 45, 99, 300, 12, 7, 8, 64, 200, 31]
# Runs BODY with a new `engine` and prints what it returns; the process has to end by itself.
PROGRAM = """
import {{ createEngine }} from {engine};
const [source, options, args] = JSON.parse(process.argv[1]);
const run = async () => {{
  const engine = await createEngine(source, options);
  try {{
    {body}
  }} finally {{
    await engine.dispose();
  }}
}};
const plain = ({{ name, kind, message }}) => ({{ error: name, kind, message }});
console.log(JSON.stringify(await run().catch(plain)));
"""
GENERATE = """
const logits = [...await engine.logits(args)];
const ids = await engine.generateIds(args, { maxTokens: 40, temperature: 0, ignoreEos: true });
return { info: engine.info, logits, ids, stats: engine.stats() };
"""


def in_node(source: str | Path, body: str, args: Any = None, **options: Any) -> Any:
    node, engine = shutil.which("node"), ROOT / "web" / "dist" / "wisp-node.mjs"
    if node is None:
        unavailable("there is no Node")
    program = PROGRAM.format(engine=json.dumps(engine.as_uri()), body=body)
    command = [node, "--input-type=module", "--eval", program, "--", json.dumps([str(source), options, args])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("artifacts") / "toy"
    toy_artifact.write(directory, TOY, cpu=True)
    return directory


@pytest.fixture(scope="module")
def url(toy: Path) -> Iterator[str]:
    with serving(toy.parent) as address:
        yield address


@pytest.mark.parametrize("threads", [1, 2])
def test_the_embedded_model_from_a_directory(artifact_demo: Path, threads: int) -> None:
    """The tokens that wasmtime makes of the same module, by one thread and by two."""
    prompt = [int(i) for i in np.random.default_rng(3).integers(3, 1000, 100)]
    got = in_node(artifact_demo, GENERATE, prompt, threads=threads)
    assert "error" not in got, got
    info = got["info"]
    assert (info["variant"], info["threads"]) == ("wasm-simd", threads)
    assert [skipped["variant"] for skipped in info["skipped"]][-1] == "webgpu-f32"
    assert info["hints"] == []
    relaxed = "relaxed" in info["adapter"]["description"]
    runtime = open_wasm_variant(load_artifact(artifact_demo), "wasm-simd", relaxed)
    want = runtime.logits(prompt)
    np.testing.assert_allclose(got["logits"], want, atol=1e-5 * np.abs(want).max())
    assert got["ids"] == runtime.generate(prompt, 40, SamplingParameters())
    assert got["stats"]["tokens"] == 40


def test_a_conversation_streams(artifact_demo: Path) -> None:
    body = """
    const messages = [], pieces = [];
    for (const content of args) {
      messages.push({ role: "user", content });
      let text = "";
      for await (const chunk of engine.chat.completions.create({ messages, stream: true, temperature: 0 })) {
        text += chunk.choices[0]?.delta.content ?? "";
        pieces.push(text.length);
      }
      messages.push({ role: "assistant", content: text });
    }
    return { messages, pieces, reused: engine.stats().reusedTokens };
    """
    got = in_node(artifact_demo, body, ["My name is Ada.", "What is my name?"], backend="wasm-simd")
    assert "Ada" in got["messages"][-1]["content"]
    assert len(got["pieces"]) > 6
    assert got["reused"] > 0


def test_a_window_of_penalties(artifact_demo: Path) -> None:
    """An answer is what its tokens are one by one, each with a window of its own over what is before it."""
    body = """
    const options = { temperature: 0, ignoreEos: true, repetitionPenalty: 1.5 };
    const answers = [];
    for (const repetitionWindow of [1, 6, 12, -1]) {
      const whole = await engine.generateIds(args, { ...options, repetitionWindow, maxTokens: 24 });
      const single = [];
      for (let i = 0; i < 24; i++)
        single.push(...await engine.generateIds([...args, ...single], { ...options, repetitionWindow, maxTokens: 1 }));
      answers.push({ whole, single });
    }
    return answers;
    """
    answers = in_node(artifact_demo, body, [5, 9, 2, 77, 31, 8, 5], backend="wasm-simd")
    for answer in answers:
        assert answer["whole"] == answer["single"]
    assert len({tuple(answer["whole"]) for answer in answers}) == len(answers), "windows of no effect show nothing"


def test_a_conversation_longer_than_the_context(artifact_demo: Path) -> None:
    """It is refused, or begins later: the answer is that to its last messages alone."""
    body = """
    const ask = async (messages, more) => {
      const request = { messages, temperature: 0, max_tokens: 20, ...more };
      const { choices, usage } = await engine.chat.completions.create(request);
      return [choices[0].message.content, usage.prompt_tokens];
    };
    const refused = await ask(args, {}).catch((error) => error.kind);
    await engine.resetChat();
    const slid = await ask(args, { overflow: "slide" });
    await engine.resetChat();
    const wrong = await ask(args, { overflow: "grow" }).catch((error) => error.message);
    return { refused, slid, last: await ask(args.slice(-1), {}), wrong };
    """
    said = [{"role": role, "content": "Tell me about the sea. " * 8} for role in ("user", "assistant") * 3]
    messages = [*said, {"role": "user", "content": "Who are you?"}]
    got = in_node(artifact_demo, body, messages, backend="wasm-simd", contextLength=96)
    assert got["refused"] == "context-overflow"
    assert got["slid"] == got["last"]
    assert "overflow" in got["wrong"]


def test_an_artifact_from_a_server(url: str) -> None:
    got = in_node(url + "models/toy/?ignored=1", GENERATE, PROMPT)
    assert got["ids"] == TOY.generate(PROMPT, 40)
    assert got["logits"] == TOY.logits(PROMPT)
    assert got["stats"]["bytesDownloaded"] > 0


def test_a_relative_path_and_a_file_url(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.parent)
    for source in ("toy", "./toy/", toy.as_uri()):
        assert in_node(source, GENERATE, PROMPT)["ids"] == TOY.generate(PROMPT, 40)


def test_what_is_wrong_is_said(toy: Path, tmp_path: Path) -> None:
    missing = in_node(tmp_path / "nothing", "")
    assert (missing["error"], missing["kind"]) == ("NetworkError", "network")
    assert "nothing/model.json" in missing["message"]
    gpu = in_node(toy, "", backend="webgpu-f32")
    assert gpu["kind"] == "no-variant"
    assert "WebGPU" in gpu["message"]
    damaged = tmp_path / "toy"
    shutil.copytree(toy, damaged)
    (damaged / "params_shard_1.bin").write_bytes(b"\0" * 768)
    assert "SHA-256" in in_node(damaged, "")["message"]


PREDICT = """
const messages = [{ role: "user", content: "What is 2 plus 3?" }];
const request = { messages, temperature: 0, max_tokens: 64, ignore_eos: true };
const ask = async (more) => {
  const before = engine.stats().decodeSteps;
  const { choices, usage } = await engine.chat.completions.create({ ...request, ...more });
  const text = choices[0].message.content ?? choices[0].message.reasoning_content;
  return { text, steps: engine.stats().decodeSteps - before, tokens: usage.completion_tokens,
    details: usage.completion_tokens_details };
};
const found = [];
for (const more of [{}, { temperature: 0.8, seed: 4 }, { repetition_penalty: 1.2 }]) {
  const plain = await ask(more);
  const edited = plain.text.slice(0, 40) + " instead " + plain.text.slice(50);
  const predicted = await ask({ ...more, prediction: { type: "content", content: edited } });
  const logprobs = await ask({ ...more, logprobs: true, prediction: { type: "content", content: edited } });
  found.push({ plain, predicted, logprobs });
}
return found;
"""


def test_a_prediction_saves_steps_and_changes_nothing(artifact_demo: Path) -> None:
    """Greedy, drawn and with penalties: an edited text as the prediction of the answer."""
    found = in_node(artifact_demo, PREDICT, backend="wasm-simd", threads=1)
    assert "error" not in found, found
    for answer in found:
        plain, predicted, logprobs = answer["plain"], answer["predicted"], answer["logprobs"]
        assert predicted["text"] == plain["text"] == logprobs["text"]
        assert plain["steps"] == plain["tokens"] == predicted["tokens"] == 64
        assert plain["details"] == {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
        assert logprobs["details"] == plain["details"], "each step is looked at"
        # Whether more are verified depends on what that costs here; the first seven are.
        accepted = predicted["details"]["accepted_prediction_tokens"]
        assert accepted >= 7
        assert predicted["steps"] == 64 - accepted
