// Answers drawn at random through the real masks, over the demo model's vocabulary: each is valid, by ajv.
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { expect, test } from "vitest";
import { RequestError } from "../../../src/api/errors";
import { GrammarEngine, grammarOf } from "../../../src/text/grammar/engine";
import { COMBINED, FEATURES, REFUSED, type Schema } from "../../support/schemas";
import { answer, demoVocabulary, random } from "../../support/random-answers";

const engine = new GrammarEngine(demoVocabulary());
const ajv = new Ajv({ strict: false, unicodeRegExp: true });
(addFormats as unknown as { default: (to: Ajv) => void }).default(ajv);
const ANSWERS = 2;

async function check(schema: Schema, seed: number): Promise<number> {
  const valid = ajv.compile(schema);
  const draw = random(seed);
  let whole = 0;
  for (let i = 0; i < ANSWERS; i++) {
    const constraint = engine.constraint({ type: "json_schema", schema });
    const { text, ended } = await answer(constraint, draw);
    if (!ended) continue;
    whole++;
    let value: unknown;
    const parse = () => {
      value = JSON.parse(text);
    };
    expect(parse, `${JSON.stringify(schema)}: ${text}`).not.toThrow();
    expect(valid(value), `${JSON.stringify(schema)}: ${text}: ${ajv.errorsText(valid.errors)}`).toBe(true);
  }
  return whole;
}

const feature = (schema: Schema): string => Object.keys(FEATURES).find((name) => FEATURES[name]?.includes(schema) === true) ?? "combined";
const all = [...Object.values(FEATURES).flat(), ...COMBINED];

test("there are more than two hundred schemas", () => {
  expect(all.length).toBeGreaterThan(200);
});

test.each(all.map((schema, i) => [i, feature(schema), schema] as const))("%i: %s: every answer is valid", async (i, _name, schema) => {
  expect(await check(schema, i), `no whole answer to ${JSON.stringify(schema)}`).toBeGreaterThan(0);
});

test.each(REFUSED)("refused by name: %s", (word, schema) => {
  expect(() => grammarOf({ type: "json_schema", schema })).toThrow(RequestError);
  expect(() => grammarOf({ type: "json_schema", schema })).toThrow(word);
});
