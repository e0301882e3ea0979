// Choices as they come from storage, and as they go into a request.
import { expect, test } from "vitest";
import { NOTHING_CHOSEN, readChoices, requestOf, schemaFault, withValue } from "../../src/ui/state/choices";

test("storage of earlier pages is read, and nonsense is nothing", () => {
  expect(readChoices({ systemPrompt: "Be brief.", sampling: { temperature: 0.5, seed: 7 } })).toEqual({
    ...NOTHING_CHOSEN,
    systemPrompt: "Be brief.",
    sampling: { temperature: 0.5, seed: 7 },
  });
  for (const nonsense of [null, 3, "x", [], { sampling: [], stop: {}, systemPrompt: 1 }])
    expect(readChoices(nonsense)).toEqual(NOTHING_CHOSEN);
});

test("a request holds what was chosen and nothing else", () => {
  expect(requestOf(NOTHING_CHOSEN)).toEqual({});
  const schema = '{"type": "string"}';
  expect(requestOf({ ...NOTHING_CHOSEN, sampling: { top_k: 5 }, stop: ["END"], schema })).toEqual({
    top_k: 5,
    stop: ["END"],
    response_format: { type: "json_schema", json_schema: { name: "answer", schema: { type: "string" } } },
  });
  expect(requestOf({ ...NOTHING_CHOSEN, schema: '{"type": ' })).toEqual({});
});

test("a schema is an object in JSON", () => {
  expect(schemaFault(" ")).toBeUndefined();
  expect(schemaFault("{}")).toBeUndefined();
  expect(schemaFault("[1]")).toBe("a schema is an object");
  expect(schemaFault('{"a"')).toMatch(/JSON/);
});

test("a value that is not chosen is the model's own again", () => {
  expect(withValue({ top_k: 5, seed: 1 }, "seed", undefined)).toEqual({ top_k: 5 });
  expect(withValue({ top_k: 5 }, "seed", 0)).toEqual({ top_k: 5, seed: 0 });
});
