"""Answers that are held to a format: the demo model in browsers and in Node, on the GPU and on the CPU."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.drivers import Tab
from tests.browser.site import Site
from tests.browser.test_node import in_node

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 20},
        "celsius": {"type": "integer", "minimum": -60, "maximum": 60},
        "sky": {"enum": ["clear", "cloudy", "dark blue"]},
        "days": {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["city", "celsius", "sky", "days"],
    "additionalProperties": False,
}

# `ask` of every answer, `text` of what came of it.
BEGIN = """
  const messages = [{ role: "user", content: "What is the weather like in Paris?" }];
  const ask = (response_format, more) =>
    engine.chat.completions.create({ messages, seed: 3, max_tokens: 200, response_format, ...more });
  const text = ({ choices: [choice] }) => [choice.message.content, choice.finish_reason];
  const schema = { type: "json_schema", json_schema: { name: "weather", strict: true, schema: SCHEMA } };
  const before = engine.stats();
  const cold = await ask(schema, { temperature: 0 });
  const after = engine.stats();
  const out = {
    variant: engine.info.variant,
    schema: [text(cold)],
    steps: after.decodeSteps - before.decodeSteps,
    tokens: cold.usage.completion_tokens,
    free: text(await ask(undefined, { temperature: 0, max_tokens: 8 })),
    regex: text(await ask({ type: "regex", regex: "It is (sunny|rainy) and \\\\d{1,2} degrees\\\\." }, {})),
    again: text(await ask(undefined, { temperature: 0, max_tokens: 8 })),
  };
""".replace("SCHEMA", json.dumps(SCHEMA))
MORE = """
  for (let i = 0; i < 2; i++) out.schema.push(text(await ask(schema, { temperature: 1.5, seed: 1 })));
  out.object = text(await ask({ type: "json_object" }, { temperature: 1 }));
  out.grammar = text(await ask({ type: "grammar", grammar: 'root ::= "yes" | "no"' }, {}));
  out.cut = text(await ask(schema, { max_tokens: 9 }));
  out.streamed = "";
  for await (const chunk of await ask(schema, { temperature: 0, stream: true }))
    out.streamed += chunk.choices[0]?.delta.content ?? "";
  const unknown = { type: "json_schema", json_schema: { name: "a", schema: { type: "string", format: "idn-email" } } };
  const clock = { type: "object", properties: { zone: { enum: ["UTC", "CET"] } }, required: ["zone"] };
  const functions = [{ name: "weather", parameters: SCHEMA }, { name: "clock", parameters: clock }];
  const tools = functions.map((it) => ({ type: "function", function: it }));
  out.called = [];
  for (const name of ["", "weather", "clock"]) {
    const tool_choice = name === "" ? "required" : { type: "function", function: { name } };
    const { choices: [choice] } = await ask(undefined, { tools, tool_choice, temperature: 1.3 });
    const calls = (choice.message.tool_calls ?? []).map(({ function: it }) => [it.name, it.arguments]);
    out.called.push([name, choice.finish_reason, choice.message.content, calls]);
  }
  const regex = { type: "regex", regex: "(?:yes|no)!" };
  const yes = { logprobs: true, top_logprobs: 5, temperature: 0 };
  const plain = await ask(regex, { temperature: 0 });
  const told = await ask(regex, yes);
  out.told = [told.choices[0].logprobs.content, told.choices[0].message.content, plain.choices[0].message.content];
  out.refused = await ask(unknown, {}).catch((error) => String(error));
""".replace("SCHEMA", json.dumps(SCHEMA))


def check_weather(answer: dict[str, Any]) -> None:
    """It is of `SCHEMA`."""
    assert list(answer) == ["city", "celsius", "sky", "days"]
    assert 1 <= len(answer["city"]) <= 20
    assert -60 <= answer["celsius"] <= 60
    assert answer["sky"] in ("clear", "cloudy", "dark blue")
    assert 1 <= len(answer["days"]) <= 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for day in answer["days"])


def check(out: dict[str, Any]) -> None:
    for content, reason in out["schema"]:
        assert reason == "stop"
        check_weather(json.loads(content))
    # What the schema leaves no choice in is appended, not decoded.
    assert out["steps"] < out["tokens"]
    assert re.fullmatch(r"It is (sunny|rainy) and \d{1,2} degrees\.", out["regex"][0])
    assert out["regex"][1] == "stop"
    assert out["free"] == out["again"]


def check_more(out: dict[str, Any]) -> None:
    check(out)
    cold, *sampled = out["schema"]
    assert sampled[0] == sampled[1] != cold
    assert out["streamed"] == cold[0]
    content, reason = out["object"]
    assert reason == "length" or isinstance(json.loads(content), dict)
    assert out["grammar"][0] in ("yes", "no")
    assert out["cut"][1] == "length"
    assert "idn-email" in out["refused"]
    tokens, said, plain = out["told"]
    assert said == plain, "watched or not, the answer is the same"
    assert "".join(token["token"] for token in tokens) == said
    for token in tokens:  # of what the format allows
        assert sum(math.exp(it["logprob"]) for it in token["top_logprobs"]) == pytest.approx(1, abs=1e-4)
        assert token["top_logprobs"][0]["token"] == token["token"]
    for asked, reason, said, calls in out["called"]:
        ((name, arguments),) = calls
        assert (reason, said) == ("tool_calls", None), "a function is called, and nothing is said besides"
        assert name == asked or asked == ""
        given = json.loads(arguments)
        if name == "weather":
            check_weather(given)
        else:
            assert given["zone"] in ("UTC", "CET")


@pytest.fixture(scope="session")
def browser(quick_browser: Browser) -> Browser:
    return quick_browser


PAGE = """async (variant) => {
  const { createEngine } = await import("/static/wisp.js");
  const engine = await createEngine("/models/demo/", { backend: variant, autotune: false });
  try { BODY return out; } finally { await engine.dispose(); }
}"""


def test_on_a_gpu_in_chromium(page: Page, server_url: str) -> None:
    page.goto(f"{server_url}healthz")
    check(page.evaluate(PAGE.replace("BODY", BEGIN), "webgpu-f32-sg"))


@pytest.mark.parametrize("tab", ["webkit"], indirect=True)
def test_on_the_cpu_in_webkit(tab: Tab, site: Site) -> None:
    tab.goto(site.url + "healthz")
    check(tab.evaluate(PAGE.replace("BODY", BEGIN), "wasm-simd"))


@pytest.mark.parametrize("tab", ["firefox"], indirect=True)
def test_on_the_cpu_in_firefox(tab: Tab, site: Site) -> None:
    tab.goto(site.url + "healthz")
    check_more(tab.evaluate(PAGE.replace("BODY", BEGIN + MORE), "wasm-simd"))


def test_in_node(artifact_demo: Path) -> None:
    check_more(in_node(artifact_demo, BEGIN + MORE + "return out;"))
