// The syntax tree of a template, as Jinja2's own parser made it when the model was compiled: nodes are lists that begin with
// their kind's name. Its shape is checked here, so that the interpreter can rely on it; `compiler/artifact/template.py` is the twin.

type MaybeNone = Expression | null;
type Named = [string, Expression];
export type Call = readonly [args: Expression[], named: Named[], rest: MaybeNone, restNamed: MaybeNone];
export type Infix = "Add" | "Sub" | "Mul" | "Div" | "FloorDiv" | "Mod" | "Pow";
export type Comparison = "eq" | "ne" | "lt" | "lteq" | "gt" | "gteq" | "in" | "notin";

export type Expression =
  | ["Const", string | number | boolean | null]
  | ["Integer" | "Float", digits: string]
  | ["Data", text: string]
  | ["Name", name: string]
  | ["NSRef", name: string, attribute: string]
  | ["Tuple" | "List" | "Concat", items: Expression[]]
  | ["Dict", [Expression, Expression][]]
  | ["CondExpr", test: Expression, then: Expression, otherwise: Expression | null]
  | ["Filter" | "Test", value: Expression | null, name: string, args: Expression[], named: Named[], rest: MaybeNone, restNamed: MaybeNone]
  | ["Call", callee: Expression, args: Expression[], named: Named[], rest: MaybeNone, restNamed: MaybeNone]
  | ["Getattr", value: Expression, name: string]
  | ["Getitem", value: Expression, key: Expression]
  | ["Slice", start: Expression | null, stop: Expression | null, step: Expression | null]
  | ["Compare", Expression, [Comparison, Expression][]]
  | [Infix | "And" | "Or", Expression, Expression]
  | ["Not" | "Neg" | "Pos", Expression];

export type Statement =
  | ["Output", Expression[]]
  | ["For", target: Expression, items: Expression, body: Statement[], otherwise: Statement[], test: Expression | null, recursive: boolean]
  | ["If", branches: [Expression, Statement[]][], otherwise: Statement[]]
  | ["Macro", name: string, parameters: string[], defaults: Expression[], uses: string[], body: Statement[]]
  | ["CallBlock", call: Expression, parameters: string[], defaults: Expression[], uses: string[], body: Statement[]]
  | ["FilterBlock", filter: Expression, body: Statement[]]
  | ["With", [Expression, Expression][], body: Statement[]]
  | ["Assign", target: Expression, value: Expression]
  | ["AssignBlock", target: Expression, filter: Expression | null, body: Statement[]]
  | ["Block", name: string, scoped: boolean, body: Statement[]]
  | ["Scope" | "Generation", body: Statement[]]
  | ["Break" | "Continue"]
  | ["Fail", reason: string];

/** Parameters, the defaults of the last of them, and which of caller, kwargs and varargs the body speaks of. */
export type Signature = readonly [parameters: string[], defaults: Expression[], uses: string[]];
export type Tree = Statement[];

/** What a field holds: `e` an expression, `s` a text, `b` true or false, `B` statements, `v` a constant; `?`: or null. */
type Field = "e" | "e?" | "e*" | "s" | "s*" | "b" | "B" | "v" | "(s e)*" | "(e e)*" | "(e B)*" | "(op e)*" | "op" | "int" | "float";

const CALL: Field[] = ["e*", "(s e)*", "e?", "e?"];
const SIGNATURE: Field[] = ["s*", "e*", "s*"];

const EXPRESSIONS: Record<Expression[0], Field[]> = {
  Const: ["v"],
  Integer: ["int"],
  Float: ["float"],
  Data: ["s"],
  Name: ["s"],
  NSRef: ["s", "s"],
  Tuple: ["e*"],
  List: ["e*"],
  Concat: ["e*"],
  Dict: ["(e e)*"],
  CondExpr: ["e", "e", "e?"],
  Filter: ["e?", "s", ...CALL],
  Test: ["e", "s", ...CALL],
  Call: ["e", ...CALL],
  Getattr: ["e", "s"],
  Getitem: ["e", "e"],
  Slice: ["e?", "e?", "e?"],
  Compare: ["e", "(op e)*"],
  And: ["e", "e"],
  Or: ["e", "e"],
  Add: ["e", "e"],
  Sub: ["e", "e"],
  Mul: ["e", "e"],
  Div: ["e", "e"],
  FloorDiv: ["e", "e"],
  Mod: ["e", "e"],
  Pow: ["e", "e"],
  Not: ["e"],
  Neg: ["e"],
  Pos: ["e"],
};

const STATEMENTS: Record<Statement[0], Field[]> = {
  Output: ["e*"],
  For: ["e", "e", "B", "B", "e?", "b"],
  If: ["(e B)*", "B"],
  Macro: ["s", ...SIGNATURE, "B"],
  CallBlock: ["e", ...SIGNATURE, "B"],
  FilterBlock: ["e", "B"],
  With: ["(e e)*", "B"],
  Assign: ["e", "e"],
  AssignBlock: ["e", "e?", "B"],
  Block: ["s", "b", "B"],
  Scope: ["B"],
  Generation: ["B"],
  Break: [],
  Continue: [],
  Fail: ["s"],
};
const COMPARISONS = ["eq", "ne", "lt", "lteq", "gt", "gteq", "in", "notin"];
const MOST_NODES = 200_000;
const MOST_DEPTH = 200;

/** Fields that hold no nodes: what is right there, and that in words. */
const LEAVES: Record<"s" | "b" | "v" | "int" | "float" | "op", [(item: unknown) => boolean, string]> = {
  s: [(item) => typeof item === "string", "a text"],
  b: [(item) => typeof item === "boolean", "true or false"],
  v: [
    (item) => item === null || ["string", "boolean"].includes(typeof item) || Number.isSafeInteger(item),
    "a text, an integer, true, false or null",
  ],
  int: [(item) => typeof item === "string" && /^-?\d{1,5000}$/.test(item), "an integer's digits"],
  float: [(item) => typeof item === "string" && /^-?(?:inf|nan|[\d.]+(?:e[+-]?\d+)?)$/.test(item), "a float's digits"],
  op: [(item) => COMPARISONS.includes(item as string), COMPARISONS.join(", ")],
};

/** Says where a tree is none: `chat_template_tree[2][1]`, what is there and what should be. */
export type Refuse = (path: string, got: unknown, expected: string) => never;

/** @returns the tree, which is of that shape through and through */
export function checkTree(value: unknown, where: string, refuse: Refuse): Tree {
  new TreeChecker(where, refuse).field("B", value, where, 0);
  return value as Tree;
}

class TreeChecker {
  private nodes = 0;

  constructor(
    private readonly where: string,
    private readonly refuse: Refuse,
  ) {}

  field(kind: Field, item: unknown, path: string, depth: number): void {
    switch (kind) {
      case "e":
      case "e?":
        if (kind === "e" || item !== null) this.node(EXPRESSIONS, item, path, depth);
        break;
      case "e*":
        this.each(item, path, (part, place) => this.node(EXPRESSIONS, part, place, depth));
        break;
      case "B":
        this.each(item, path, (part, place) => this.node(STATEMENTS, part, place, depth));
        break;
      case "s*":
        this.each(item, path, (part, place) => this.field("s", part, place, depth));
        break;
      case "(s e)*":
        this.pairs(item, path, "s", "e", depth);
        break;
      case "(e e)*":
        this.pairs(item, path, "e", "e", depth);
        break;
      case "(e B)*":
        this.pairs(item, path, "e", "B", depth);
        break;
      case "(op e)*":
        this.pairs(item, path, "op", "e", depth);
        break;
      case "s":
      case "b":
      case "v":
      case "int":
      case "float":
      case "op": {
        const [isRight, expected] = LEAVES[kind];
        if (!isRight(item)) this.refuse(path, item, expected);
      }
    }
  }

  private node(kinds: Record<string, Field[]>, item: unknown, path: string, depth: number): void {
    const [kind, ...fields] = this.list(item, path);
    const expected = typeof kind === "string" && Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
    if (expected === undefined)
      return this.refuse(`${path}[0]`, kind, kinds === STATEMENTS ? "a statement of Jinja2" : "an expression of Jinja2");
    if (fields.length !== expected.length) this.refuse(path, item, `${expected.length} fields after ${JSON.stringify(kind)}`);
    this.nodes += 1;
    if (this.nodes > MOST_NODES) this.refuse(this.where, `more than ${MOST_NODES} nodes`, `at most ${MOST_NODES}`);
    if (depth > MOST_DEPTH) this.refuse(path, `${depth} levels`, `at most ${MOST_DEPTH} levels`);
    expected.forEach((kindOfField, i) => {
      this.field(kindOfField, fields[i], `${path}[${i + 1}]`, depth + 1);
    });
  }

  private pairs(item: unknown, path: string, first: Field, second: Field, depth: number): void {
    this.each(item, path, (part, place) => {
      const pair = this.list(part, place);
      if (pair.length !== 2) this.refuse(place, part, "a pair");
      this.field(first, pair[0], `${place}[0]`, depth);
      this.field(second, pair[1], `${place}[1]`, depth);
    });
  }

  private each(item: unknown, path: string, check: (part: unknown, place: string) => void): void {
    this.list(item, path).forEach((part, i) => check(part, `${path}[${i}]`));
  }

  private list(item: unknown, path: string): unknown[] {
    return Array.isArray(item) ? item : this.refuse(path, item, "a list");
  }
}
