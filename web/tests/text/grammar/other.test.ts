// GBNF and regular expressions as answers, what is forced, and the machine's own corners.
import { expect, test } from "vitest";
import { RequestError } from "../../../src/api/errors";
import type { AnswerFormat } from "../../../src/api/constraint";
import { GrammarEngine, grammarOf } from "../../../src/text/grammar/engine";
import { DEAD, Machine } from "../../../src/text/grammar/machine";
import { buildTrie } from "../../../src/text/grammar/trie";
import { answer, demoVocabulary, random } from "../../support/random-answers";

const engine = new GrammarEngine(demoVocabulary());

/** Whether the whole of `text` is of the format. */
function accepts(format: AnswerFormat, text: string): boolean {
  const machine = new Machine(grammarOf(format));
  let state = 0;
  for (const byte of new TextEncoder().encode(text)) {
    state = machine.after(state, byte);
    if (state === DEAD) return false;
  }
  return machine.ends(state);
}

test.each([
  ["[a-c]{2,3}-\\d+", ["ab-1", "abc-123"], ["a-1", "abcd-1", "ab-", "ab-1x"]],
  ["(yes|no)?", ["", "yes", "no"], ["y", "yesno"]],
  ["^\\p{L}+$", ["été", "日本"], ["a1", ""]],
  ["[^a]", ["b", "é", "😀", "\n"], ["a", "bb"]],
  [".", ["b", "é", "😀"], ["\n", "ab"]],
  ["a$|^b", ["a", "b"], ["ab"]],
  ["\\x41\\u{1F600}\\u00e9", ["A😀é"], ["A"]],
  ["(?<year>\\d{4})(?:-\\d\\d)??", ["2026", "2026-11"], ["2026-"]],
])("the regular expression %s", (regex, right, wrong) => {
  for (const text of right) expect(accepts({ type: "regex", regex }, text), text).toBe(true);
  for (const text of wrong) expect(accepts({ type: "regex", regex }, text), text).toBe(false);
});

test.each([
  ['root ::= "a" | "b" root', ["a", "bba"], ["b", "ab"]],
  ['root ::= item (", " item)* # a list\nitem ::= [a-z]+', ["a", "ab, c"], ["a,", ""]],
  ['root ::= (\n  "x"\n  | "y"\n){2}', ["xy", "yy"], ["x", "xyx"]],
  ['root ::= [^\\n"\\\\] "\\x41" "\\u00e9\\n"', ["zAé\n", "😀Aé\n"], ['"Aé\n', "\nAé\n"]],
  ['root ::= expr\nexpr ::= term ("+" term)*\nterm ::= [0-9] | "(" expr ")"', ["1+2", "((1)+2)+3"], ["(1", "1+"]],
  ['root ::= a? a{2,} b{1}\na ::= "a"\nb ::= "" | "b"', ["aa", "aaaab"], ["a", "b"]],
  // What the machine must not mix up: alternatives of several lengths before an optional tail.
  [
    'root ::= "-" ("2" ("" | "x" [0-9]{1,11}) | ([3] | [4-8] | [1] [0-9]) ("x" [0-9]{1,11})? | "1000")',
    ["-3", "-3x1", "-19x22", "-1000", "-2"],
    ["-30", "-308281", "-1", "-1000x1"],
  ],
])("the grammar %s", (grammar, right, wrong) => {
  for (const text of right) expect(accepts({ type: "grammar", grammar }, text), text).toBe(true);
  for (const text of wrong) expect(accepts({ type: "grammar", grammar }, text), text).toBe(false);
});

test("what is around a value of a schema is one of the alternatives", () => {
  const zone = { type: "object", properties: { zone: { enum: ["UTC", "CET"] } }, required: ["zone"], additionalProperties: false };
  const format: AnswerFormat = {
    type: "alternatives",
    alternatives: [
      { before: 'clock", "arguments": ', schema: zone, after: "}" },
      { before: 'stop", "arguments": ', schema: { type: "string", format: "idn-email" }, otherwise: { type: "object" }, after: "}" },
    ],
  };
  expect(accepts(format, 'clock", "arguments": {"zone": "UTC"}}')).toBe(true);
  expect(accepts(format, 'stop", "arguments": {"a": [1, {}]}}')).toBe(true);
  for (const text of ['clock", "arguments": {"zone": "EST"}}', 'clock", "arguments": {"zone": "UTC"}', 'other", "arguments": {}}', ""])
    expect(accepts(format, text), text).toBe(false);
  const strict = { before: "", schema: { type: "string", format: "idn-email" }, after: "" };
  expect(() => grammarOf({ type: "alternatives", alternatives: [strict] })).toThrow("idn-email");
});

test.each([
  ["no rule root", 'start ::= "a"'],
  ["no rule b", "root ::= b"],
  ["begins with itself", 'root ::= root "a" | "b"'],
  ["begins with itself", 'root ::= a\na ::= b? a "c" | "d"\nb ::= "b"'],
  ["nothing that its root matches", 'root ::= "a" root'],
  ["line 2", 'root ::= "a"\nb ::= )'],
  ["twice", 'root ::= "a"\nroot ::= "b"'],
  ["too large", `root ::= ${"[a-z]{10000} ".repeat(60)}`],
])("a grammar is refused: %s", (word, grammar) => {
  const make = () => engine.constraint({ type: "grammar", grammar });
  expect(make).toThrow(RequestError);
  expect(make).toThrow(word);
});

test.each([
  ["lookaround", "(?!a)b"],
  ["a reference back", "(a)\\1"],
  ["a [ without its ]", "[a"],
  ["matches no text", "a^b"],
])("a regular expression is refused: %s", (word, regex) => {
  expect(() => grammarOf({ type: "regex", regex })).toThrow(word);
});

test("answers drawn at random are of the regular expression", async () => {
  const draw = random(1);
  const regex = "[A-Z][a-zé]{2,9}( [0-9]{1,3}|, (twenty|thirty) \\p{L}{3})";
  for (let i = 0; i < 40; i++) {
    const { text, ended } = await answer(engine.constraint({ type: "regex", regex }), draw);
    expect(ended).toBe(true);
    expect(text).toMatch(new RegExp(`^${regex}$`, "u"));
  }
});

test("an answer goes on where it was cut", async () => {
  const schema = { type: "object", properties: { a: { enum: ["é", "e"] }, b: { type: "integer" } }, required: ["a", "b"] };
  for (const begun of ["", "{", '{"a": "é', '{"a": "e", "b": -1']) {
    const { text } = await answer(engine.constraint({ type: "json_schema", schema }, begun), random(3));
    const whole = JSON.parse(begun + text) as { b: unknown };
    expect(Object.keys(whole).slice(0, 2)).toEqual(["a", "b"]);
    expect(Number.isInteger(whole.b)).toBe(true);
  }
  expect(engine.constraint({ type: "regex", regex: "yes|no" }, "yes").next().kind).toBe("ended");
  expect(() => engine.constraint({ type: "regex", regex: "yes|no" }, "Sure: ")).toThrow(
    /message that is continued.*Sure: .*continue_final_message/s,
  );
});

test("what has to come is not drawn, and a word that it may end in the middle of is left to the model", async () => {
  const schema = { type: "object", properties: { temperature: { enum: ["warm", "warmer"] } }, required: ["temperature"] };
  const { text, forced, tokens } = await answer(engine.constraint({ type: "json_schema", schema }), random(2));
  expect(JSON.parse(text)).toHaveProperty("temperature");
  expect(forced).toBeGreaterThan(tokens.length / 3);
  const next = engine.constraint({ type: "regex", regex: "(redder|reddest)" }).next();
  const bytes = next.kind === "forced" ? next.tokens.flatMap((token) => [...(demoVocabulary().bytes[token] ?? [])]) : [];
  expect("redde").toContain(new TextDecoder().decode(Uint8Array.from(bytes)));
  expect(bytes.length).toBeLessThan("redde".length);
});

test("a machine that is crowded begins anew and goes on where it was", () => {
  const machine = new Machine(grammarOf({ type: "json_object" }));
  const walk = (from: number, text: string) =>
    [...new TextEncoder().encode(text)].reduce((state, byte) => machine.after(state, byte), from);
  const state = machine.restart(walk(0, '{"a": [1, {"b": "x'));
  expect(machine.ends(walk(state, 'y"}, 2]}'))).toBe(true);
  expect(walk(state, 'y"]')).toBe(DEAD);
});

test("a vocabulary may be as large as models have them", () => {
  const letters = "abcdefghijklmnopqrstuvwxyz";
  const bytes = Array.from({ length: 200_000 }, (_, id) => new TextEncoder().encode(`${letters[id % 26] ?? ""}${id}`));
  const large = new GrammarEngine({ ...demoVocabulary(), bytes, stopTokenIds: [] });
  const next = large.constraint({ type: "regex", regex: "[b-c]\\d*" }).next();
  expect(next.kind).toBe("some");
  const allowed = next.kind === "some" ? Array.from(bytes, (_, id) => ((next.mask[id >> 5] ?? 0) >>> (id & 31)) & 1) : [];
  expect(allowed.reduce((sum, bit) => sum + bit, 0)).toBe(bytes.filter((text) => text[0] === 98 || text[0] === 99).length);
});

test("what is forced comes in portions", () => {
  const next = engine.constraint({ type: "regex", regex: "(a{200}){200}x" }).next();
  expect(next.kind === "forced" ? next.tokens.length : 0).toBeLessThanOrEqual(4096);
});

test("a machine that begins anew knows whether the text may end", () => {
  const machine = new Machine(grammarOf({ type: "grammar", grammar: 'root ::= "a" | "ab"' }));
  const state = machine.after(0, 97);
  expect(machine.ends(state)).toBe(true);
  expect(machine.ends(machine.restart(state))).toBe(true);
});

// Read in exponentially many ways, or through very many states.
test.each([
  ['root ::= a\na ::= "x" a | "x" a | "x"', "x".repeat(2000), true],
  ['root ::= a\na ::= "x" a "y" | "x" a "z" | "x"', "x".repeat(400) + "yz".repeat(199) + "y", true],
  ['root ::= a\na ::= "x" a "y" | "x" "x" a "z" | "x"', "x".repeat(301) + "yz".repeat(100), true],
  ['root ::= a\na ::= "x" a "y" | "x" a "z" | "x"', "x".repeat(400) + "y".repeat(400), false],
  ['root ::= s\ns ::= "a" s s | "a"', "a".repeat(301), true],
  ['root ::= (("a"?){10}){10} "b"', "a".repeat(90) + "b", true],
  ['root ::= expr\nexpr ::= term op expr | term\nop ::= [+*-]\nterm ::= [0-9]+ | "(" expr ")" | "(" term ")"', "((((1))))+2*((3))", true],
])("an ambiguous grammar is walked as any other: %s", (grammar, text, right) => {
  expect(accepts({ type: "grammar", grammar }, text)).toBe(right);
});

test("very many parts may lack, but the ways to read a text by rules within rules are counted", () => {
  expect(accepts({ type: "regex", regex: "(a?){9000}" }, "a".repeat(20))).toBe(true);
  const rules = Array.from({ length: 24 }, (_, i) => `r${i} ::= r${i + 1} "y" | r${i + 1} "z"`);
  const grammar = `root ::= r0\n${rules.join("\n")}\nr24 ::= "x"`;
  expect(() => accepts({ type: "grammar", grammar }, "x")).toThrow(/too many ways/);
});

test("what is nested too deeply is refused, and no error of the engine's own", () => {
  const schema = JSON.parse(`${'{"items":'.repeat(20_000)}{}${"}".repeat(20_000)}`) as unknown;
  const deep = [
    { type: "regex", regex: `${"(".repeat(50_000)}a${")".repeat(50_000)}` },
    { type: "grammar", grammar: `root ::= ${"(".repeat(50_000)}"a"${")".repeat(50_000)}` },
    { type: "json_schema", schema },
  ] as const;
  for (const format of deep) expect(() => engine.constraint(format)).toThrow(RequestError);
});

test("a machine that begins anew keeps stacks that have much in common", () => {
  const grammar = 'root ::= a\na ::= "x" a "y" | "x" a "z" | "x"';
  const machine = new Machine(grammarOf({ type: "grammar", grammar }));
  const walk = (from: number, text: string) => [...new TextEncoder().encode(text)].reduce((at, byte) => machine.after(at, byte), from);
  const state = machine.restart(walk(0, "xxxx"));
  expect(machine.ends(walk(state, "yzy"))).toBe(true);
  expect(walk(state, "yzyy")).toBe(DEAD);
});

test.each([
  { type: "json_schema", schema: { type: "string", minLength: 30, maxLength: 60 } },
  { type: "json_schema", schema: { type: "array", items: { type: "string", minLength: 2, maxLength: 12 }, minItems: 5, maxItems: 9 } },
  { type: "json_schema", schema: { type: "array", items: { type: "integer" }, minItems: 20, maxItems: 30 } },
  { type: "regex", regex: "([a-z]{4,9} ){8,}[0-9]{5,40}" },
  { type: "regex", regex: "(é|ab|c{5,20}x){12,24}" },
  { type: "grammar", grammar: 'root ::= "(" (part | "-" root){6,14} ")"\npart ::= [a-z]{5,30} " "' },
] as const)("masks of counted repetitions are those of a whole walk: %j", (format) => {
  const vocabulary = demoVocabulary();
  const trie = buildTrie(vocabulary.bytes);
  let compared = 0;
  for (let seed = 0; seed < 3; seed++) {
    const draw = random(seed);
    const constraint = engine.constraint(format);
    const whole = new Machine(grammarOf(format));
    let state = 0;
    for (let i = 0; i < 60; i++) {
      const next = constraint.next();
      if (next.kind === "ended" || next.kind === "any") break;
      let tokens = next.kind === "forced" ? next.tokens : [];
      if (next.kind === "some") {
        const words = trie.allowed(whole, state, new Uint32Array(next.mask.length));
        if (whole.ends(state)) for (const id of vocabulary.stopTokenIds) words[id >> 5] = (words[id >> 5] ?? 0) | (1 << (id & 31));
        expect(next.mask).toEqual(words);
        compared++;
        const allowed = vocabulary.bytes.flatMap((bytes, id) =>
          bytes.length > 0 && ((words[id >> 5] ?? 0) >>> (id & 31)) & 1 ? [id] : [],
        );
        const token = allowed[Math.floor(draw() * allowed.length)];
        if (token === undefined) break;
        tokens = [token];
      }
      for (const token of tokens) {
        constraint.accept(token);
        for (const byte of vocabulary.bytes[token] ?? []) state = whole.after(state, byte);
      }
    }
  }
  expect(compared).toBeGreaterThan(20);
});
