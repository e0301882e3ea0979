// Decode of an answer that is held to a JSON Schema beside free decode, on the CPU, by turns in one run:
// `node tests/benchmarks/structured_output.mjs ARTIFACT ROUNDS` after `npm run build` in web/. Tokens over processor time on one thread,
// the best of the rounds, behind a prompt that is there already: what else runs on the machine counts as little as it can. Tokens that
// the schema forces count as those that are drawn do.
import { createEngine } from "../../web/dist/wisp-node.mjs";

const [artifact, rounds] = process.argv.slice(2);
const person = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 20, maxLength: 60 },
    about: { type: "string", minLength: 120, maxLength: 200 },
    age: { type: "integer", minimum: 0, maximum: 120 },
    tags: {
      type: "array",
      items: { type: "string", minLength: 5, maxLength: 20 },
      minItems: 4,
      maxItems: 6,
    },
  },
  required: ["name", "about", "age", "tags"],
  additionalProperties: false,
};
// As most are: no lengths. Texts of a bounded length are in another state of the grammar behind each character.
const plain = {
  ...person,
  properties: {
    name: { type: "string" },
    about: { type: "string" },
    age: { type: "integer" },
    tags: { type: "array", items: { type: "string" } },
  },
};
const messages = [{ role: "user", content: "Describe a person, in JSON." }];
const FORMATS = {
  free: undefined,
  schema: {
    type: "json_schema",
    json_schema: { name: "person", schema: plain },
  },
  "schema with lengths": {
    type: "json_schema",
    json_schema: { name: "person", schema: person },
  },
  "any JSON": { type: "json_object" },
};
const engine = await createEngine(artifact, {
  backend: "wasm-simd",
  threads: 1,
  cache: false,
});
const best = {};
for (let round = -1; round < Number(rounds); round++) {
  for (const [name, response_format] of Object.entries(FORMATS)) {
    const request = {
      messages,
      response_format,
      seed: round + 2,
      temperature: 0.8,
      max_tokens: 80,
      ignore_eos: response_format === undefined,
    };
    const before = process.cpuUsage().user;
    const { usage } = await engine.chat.completions.create(request);
    const rate =
      (1e6 * usage.completion_tokens) / (process.cpuUsage().user - before);
    // The first round finds the masks that later ones have kept, as an app's second request does.
    if (round < 0) console.log(`${name}: ${rate.toFixed(1)} tokens/s at first`);
    else best[name] = Math.max(best[name] ?? 0, rate);
  }
}
for (const [name, rate] of Object.entries(best))
  console.log(
    `${name}: ${rate.toFixed(1)} tokens/s, ${(rate / best.free).toFixed(2)} of free decode`,
  );
await engine.dispose();
process.exit(0);
