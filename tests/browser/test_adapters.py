"""The engine in the shapes of others, with the demo model in Node: Vercel's AI SDK and the Prompt API."""

import json
from pathlib import Path

from tests.browser.test_node import in_node
from tests.conftest import ROOT

WEB = ROOT / "web"
FILES = [WEB / "node_modules" / "ai" / "dist" / "index.js", WEB / "dist" / "ai-sdk.js", WEB / "dist" / "prompt-api.js"]
MODULES = [file.as_uri() for file in FILES]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
BOTH = """
  globalThis.AI_SDK_LOG_WARNINGS = false;
  const [ai, { wisp }, { promptApi }] = await Promise.all(args.modules.map((it) => import(it)));
  const { schema } = args;
  const messages = [{ role: "user", content: "Who are you?" }];
  const plain = await engine.chat.completions.create({ messages, temperature: 0, max_tokens: 24 });

  const model = wisp(engine);
  const settings = { model, prompt: "Who are you?", temperature: 0, maxOutputTokens: 24 };
  const whole = await ai.generateText(settings);
  const streamed = await ai.streamText(settings).text;
  const warm = { temperature: 1.2, maxOutputTokens: 99 };
  const object = ai.Output.object({ schema: ai.jsonSchema(schema) });
  const { output } = await ai.generateText({ ...settings, ...warm, output: object });
  const asked = [];
  const execute = (input) => (asked.push(input), "fine");
  const tools = { trip: ai.tool({ inputSchema: ai.jsonSchema(schema), execute }) };
  const called = await ai.generateText({ ...settings, ...warm, tools, toolChoice: "required" });

  const LanguageModel = promptApi(async () => engine);
  const session = await LanguageModel.create({ temperature: 0, topK: 1 });
  const said = await session.prompt("Who are you?");
  const constrained = await session.prompt("Where to?", { responseConstraint: schema });
  const expression = await session.prompt("Well?", { responseConstraint: /(?:yes|no), it is/ });
  return {
    plain: plain.choices[0].message.content, cost: plain.usage,
    ai: { text: whole.text, streamed, usage: whole.usage, output, asked,
          calls: called.toolCalls.map((it) => it.input) },
    prompt: { said, constrained, expression, used: session.inputUsage },
  };
"""


def check_trip(value: dict[str, object]) -> None:
    """It is of `SCHEMA`."""
    assert list(value) == ["city", "days"]
    assert value["city"] in ("Paris", "Rome")
    assert value["days"] in range(1, 10)


def test_the_adapters(artifact_demo: Path) -> None:
    got = in_node(artifact_demo, BOTH, {"modules": MODULES, "schema": SCHEMA})
    assert "error" not in got, got
    plain, ai, prompt = got["plain"], got["ai"], got["prompt"]
    assert ai["text"] == ai["streamed"] == plain != ""
    usage = ai["usage"]
    assert [usage["inputTokens"], usage["outputTokens"]] == [
        got["cost"][f"{it}_tokens"] for it in ("prompt", "completion")
    ]
    check_trip(ai["output"])
    assert len(ai["asked"]) == 1
    assert ai["calls"] == ai["asked"]
    check_trip(ai["asked"][0])
    assert prompt["said"].startswith(plain[:20])
    check_trip(json.loads(prompt["constrained"]))
    assert prompt["expression"] in ("yes, it is", "no, it is")
    assert prompt["used"] > got["cost"]["total_tokens"]
