// Runs a template's syntax tree as Jinja2 runs the template: its scopes, loops, macros and what it writes. Knows the tree and
// the values; nothing of messages or models.

import { negate, operate } from "./arithmetic";
import { attribute, item, slice } from "./attributes";
import { MOST_CHARACTERS_AT_ONCE, spend, spendText, TemplateError } from "./budget";
import { runFilter, runNamedTest } from "./filters";
import { Loop } from "./loop";
import { joinTexts } from "./methods";
import { parseFloating } from "./numbers";
import type { Call, Comparison, Expression, Signature, Statement, Tree } from "../../artifact/template-tree";
import {
  Callable,
  compare,
  contains,
  Dict,
  equal,
  iterate,
  listOf,
  Namespace,
  or,
  str,
  textOf,
  truthy,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values";

/** Hears which branch of which `if` or loop is taken, for those who want to know whether all were. */
export type BranchListener = (place: Statement | Expression, branch: number) => void;

class Scope {
  private readonly variables = new Map<string, Value>();
  constructor(private readonly outer?: Scope) {}

  get(name: string): Value | undefined {
    const found = this.variables.get(name);
    return found === undefined ? this.outer?.get(name) : found; // None is a value
  }
  set(name: string, value: Value): void {
    this.variables.set(name, value);
  }
}

type Flow = "on" | "break" | "continue";
const MOST_CALLS = 150; // of macros, within one another; Python allows a few hundred

export class Interpreter {
  private out: string[] = [];
  private written = 0;
  private calls = 0;
  private readonly blocks = new Map<string, Statement[]>();
  private root: Scope;

  private constructor(
    tree: Tree,
    globals: Readonly<Record<string, Value>>,
    private readonly onBranch: BranchListener,
  ) {
    const outermost = new Scope();
    for (const [name, value] of Object.entries(globals)) outermost.set(name, value);
    this.root = new Scope(outermost);
    this.findBlocks(tree);
    const self = Object.fromEntries([...this.blocks].map(([name, body]) => [name, new Callable(name, () => this.block(body))]));
    outermost.set("self", new Callable("self", () => null, self, "TemplateReference"));
  }

  /** @throws TemplateError, within the budget that was started, for what Python or Jinja2 would raise and for a template that is over its budget */
  static render(tree: Tree, globals: Readonly<Record<string, Value>>, onBranch: BranchListener = () => undefined): string {
    const interpreter = new Interpreter(tree, globals, onBranch);
    interpreter.body(tree, interpreter.root);
    return joinTexts("", interpreter.out);
  }

  private findBlocks(body: readonly unknown[]): void {
    for (const node of body) {
      if (!Array.isArray(node)) continue;
      if (node[0] === "Block" && typeof node[1] === "string" && Array.isArray(node[3])) this.blocks.set(node[1], node[3] as Statement[]);
      this.findBlocks(node);
    }
  }

  // -------------------------------------------------------------------------------------------------------- statements

  private body(statements: readonly Statement[], scope: Scope): Flow {
    for (const statement of statements) {
      const flow = this.statement(statement, scope);
      if (flow !== "on") return flow;
    }
    return "on";
  }

  private statement(node: Statement, scope: Scope): Flow {
    spend();
    switch (node[0]) {
      case "Output":
        for (const expression of node[1]) this.write(str(this.value(expression, scope)));
        return "on";
      case "If":
        return this.choose(node, scope);
      case "For":
        this.write(this.loop(node, scope));
        return "on";
      case "Assign":
        this.assign(node[1], this.value(node[2], scope), scope);
        return "on";
      case "AssignBlock": {
        const text = this.captured(node[3], new Scope(scope));
        this.assign(node[1], node[2] === null ? text : this.value(node[2], scope, text), scope);
        return "on";
      }
      case "Macro":
        scope.set(node[1], this.macro(node[1], [node[2], node[3], node[4]], node[5], scope));
        return "on";
      case "CallBlock": {
        const caller = this.macro("caller", [node[2], node[3], node[4]], node[5], scope);
        this.write(str(this.call(node[1], scope, caller)));
        return "on";
      }
      case "FilterBlock":
        this.write(str(this.value(node[1], scope, this.captured(node[2], new Scope(scope)))));
        return "on";
      case "With": {
        const inner = new Scope(scope);
        for (const [target, value] of node[1]) this.assign(target, this.value(value, scope), inner);
        return this.body(node[2], inner);
      }
      case "Scope":
        return this.body(node[1], new Scope(scope));
      case "Generation":
        this.write(this.captured(node[1], new Scope(scope)));
        return "on";
      case "Block":
        this.write(this.block(node[3], node[2] ? scope : this.root));
        return "on";
      case "Break":
        return "break";
      case "Continue":
        return "continue";
      case "Fail":
        throw new TemplateError(node[1]);
    }
  }

  private write(text: string): void {
    if (text === "") return;
    this.written += text.length;
    if (this.written > MOST_CHARACTERS_AT_ONCE) spendText(this.written);
    this.out.push(text);
  }

  /** What `body` writes, instead of writing it. */
  private captured(body: readonly Statement[], scope: Scope): string {
    const [out, written] = [this.out, this.written];
    [this.out, this.written] = [[], 0];
    try {
      this.body(body, scope);
      return joinTexts("", this.out);
    } finally {
      [this.out, this.written] = [out, written];
    }
  }

  private block(body: readonly Statement[], scope: Scope = this.root): string {
    return this.deeper(() => this.captured(body, new Scope(scope)));
  }

  private deeper<T>(run: () => T): T {
    this.calls += 1;
    if (this.calls > MOST_CALLS) throw new TemplateError("maximum recursion depth exceeded");
    try {
      return run();
    } finally {
      this.calls -= 1;
    }
  }

  private choose(node: Extract<Statement, ["If", ...unknown[]]>, scope: Scope): Flow {
    for (const [i, [test, body]] of node[1].entries())
      if (truthy(this.value(test, scope))) {
        this.onBranch(node, i);
        return this.body(body, scope);
      }
    this.onBranch(node, node[1].length);
    return this.body(node[2], scope);
  }

  private loop(node: Extract<Statement, ["For", ...unknown[]]>, scope: Scope): string {
    const [, target, source, body, otherwise, test] = node;
    const run = (items: Value, depth: number): string => {
      const [out, written] = [this.out, this.written];
      [this.out, this.written] = [[], 0];
      try {
        const chosen = test === null ? listOf(items) : listOf(items).filter((each) => this.holds(test, target, each, scope));
        const again = node[6] ? (inner: Value) => this.deeper(() => run(inner, depth + 1)) : undefined;
        const loop = new Loop(chosen, depth, again);
        this.onBranch(node, chosen.length === 0 ? 1 : 0);
        if (chosen.length === 0) this.body(otherwise, new Scope(scope));
        for (const each of loop) {
          const inner = new Scope(scope);
          inner.set("loop", loop);
          this.assign(target, each, inner);
          if (this.body(body, inner) === "break") break;
        }
        return joinTexts("", this.out);
      } finally {
        [this.out, this.written] = [out, written];
      }
    };
    return run(this.value(source, scope), 0);
  }

  private holds(test: Expression, target: Expression, each: Value, scope: Scope): boolean {
    const inner = new Scope(scope);
    this.assign(target, each, inner);
    return truthy(this.value(test, inner));
  }

  private assign(target: Expression, value: Value, scope: Scope): void {
    if (target[0] === "Name") scope.set(target[1], value);
    else if (target[0] === "NSRef") {
      const [, name, key] = target;
      const space = scope.get(name);
      if (!(space instanceof Namespace)) throw new TemplateError("cannot assign attribute on non-namespace object");
      if (key.startsWith("_")) throw new TemplateError("Chat templates cannot store underscore-prefixed attributes on a namespace");
      space.attributes.set(key, value);
    } else if (target[0] === "Tuple") {
      const items = [...iterate(value)];
      if (items.length !== target[1].length) throw new TemplateError(`${items.length} values to unpack, expected ${target[1].length}`);
      target[1].forEach((part, i) => this.assign(part, items[i] ?? null, scope));
    } else throw new TemplateError(`cannot assign to ${target[0]}`);
  }

  private macro(name: string, [parameters, defaults, uses]: Signature, body: readonly Statement[], scope: Scope): Callable {
    const call = (args: readonly Value[], named: ReadonlyMap<string, Value>): string => {
      const rest = new Map(named);
      const inner = new Scope(scope);
      const take = (key: string): Value | undefined => {
        const value = rest.get(key);
        rest.delete(key);
        return value;
      };
      const given = parameters.map((parameter, i) => or(args[i], () => take(parameter)));
      if (uses.includes("caller") && !parameters.includes("caller"))
        inner.set("caller", take("caller") ?? new Undefined("No caller defined"));
      if (uses.includes("kwargs")) inner.set("kwargs", new Dict(rest));
      else if (rest.size > 0) throw new TemplateError(`macro '${name}' takes no keyword argument '${[...rest.keys()].join(", ")}'`);
      if (uses.includes("varargs")) inner.set("varargs", new Tuple(args.slice(parameters.length)));
      else if (args.length > parameters.length)
        throw new TemplateError(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
      return this.deeper(() => {
        parameters.forEach((parameter, i) => {
          const preset = defaults[i - parameters.length + defaults.length];
          const missing = () => new Undefined(`parameter '${parameter}' was not provided`);
          inner.set(
            parameter,
            or(given[i], () => (preset === undefined ? missing() : this.value(preset, inner))),
          );
        });
        return this.captured(body, inner);
      });
    };
    const attributes = {
      name,
      arguments: new Tuple(parameters),
      catch_kwargs: uses.includes("kwargs"),
      catch_varargs: uses.includes("varargs"),
      caller: uses.includes("caller"),
    };
    return new Callable(name, call, attributes, "Macro");
  }

  // ------------------------------------------------------------------------------------------------------- expressions

  /** @param filtered what a filter without a value of its own filters: the text of its block */
  private value(node: Expression, scope: Scope, filtered?: string): Value {
    spend();
    switch (node[0]) {
      case "Const":
        return typeof node[1] === "number" ? BigInt(node[1]) : node[1];
      case "Integer":
        return BigInt(node[1]);
      case "Float":
        return parseFloating(node[1]) ?? NaN;
      case "Data":
        return node[1];
      case "Name":
        return or(scope.get(node[1]), () => new Undefined(`'${node[1]}' is undefined`));
      case "NSRef":
        throw new TemplateError("a namespace's attribute is read with a point");
      case "Tuple":
        return new Tuple(node[1].map((part) => this.value(part, scope)));
      case "List":
        return node[1].map((part) => this.value(part, scope));
      case "Concat":
        return this.concatenated(node[1], scope);
      case "Dict":
        return new Dict(node[1].map(([key, value]) => [this.value(key, scope), this.value(value, scope)] as const));
      case "CondExpr":
        return this.chosen(node, scope);
      case "Filter":
      case "Test":
        return this.filtered(node, scope, filtered);
      case "Call":
        return this.call(node, scope);
      case "Getattr":
        return attribute(this.value(node[1], scope), node[2]);
      case "Getitem":
        return this.subscript(this.value(node[1], scope), node[2], scope);
      case "Slice":
        throw new TemplateError("a slice stands between brackets");
      case "Compare":
        return this.compared(node[1], node[2], scope);
      case "And":
      case "Or": {
        const left = this.value(node[1], scope);
        return truthy(left) === (node[0] === "And") ? this.value(node[2], scope) : left;
      }
      case "Not":
        return !truthy(this.value(node[1], scope));
      case "Neg":
      case "Pos":
        return negate(node[0], this.value(node[1], scope));
      case "Add":
      case "Sub":
      case "Mul":
      case "Div":
      case "FloorDiv":
      case "Mod":
      case "Pow":
        return operate(node[0], this.value(node[1], scope), this.value(node[2], scope));
    }
  }

  private concatenated(parts: readonly Expression[], scope: Scope): Value {
    return joinTexts(
      "",
      parts.map((part) => str(this.value(part, scope))),
    );
  }

  private chosen(node: Extract<Expression, ["CondExpr", ...unknown[]]>, scope: Scope): Value {
    const [, test, then, otherwise] = node;
    const holds = truthy(this.value(test, scope));
    this.onBranch(node, holds ? 0 : 1);
    if (holds) return this.value(then, scope);
    if (otherwise === null) return new Undefined("the inline if-expression evaluated to false and no else section was defined.");
    return this.value(otherwise, scope);
  }

  private filtered(node: Extract<Expression, ["Filter" | "Test", ...unknown[]]>, scope: Scope, filtered: string | undefined): Value {
    const [kind, inner, name, ...call] = node;
    const value = inner === null ? (filtered ?? "") : this.value(inner, scope, filtered);
    const { args, named } = this.arguments(call, scope);
    return kind === "Filter" ? runFilter(name, value, args, named) : runNamedTest(name, value, args, named);
  }

  private subscript(value: Value, key: Expression, scope: Scope): Value {
    if (key[0] !== "Slice") return item(value, this.value(key, scope));
    const [start, stop, step] = key.slice(1).map((part) => (part === null ? null : this.value(part as Expression, scope)));
    return slice(value, start ?? null, stop ?? null, step ?? null);
  }

  /** `a < b < c`: each with the next, until one does not hold. */
  private compared(first: Expression, rest: readonly [Comparison, Expression][], scope: Scope): boolean {
    let left = this.value(first, scope);
    for (const [operator, expression] of rest) {
      const right = this.value(expression, scope);
      if (!holds(operator, left, right)) return false;
      left = right;
    }
    return true;
  }

  private arguments([positional, pairs, rest, restNamed]: Call, scope: Scope) {
    const args = positional.map((each) => this.value(each, scope));
    const named = new Map(pairs.map(([key, each]) => [key, this.value(each, scope)]));
    if (rest !== null) args.push(...listOf(this.value(rest, scope)));
    const more = restNamed === null ? undefined : this.value(restNamed, scope);
    if (more !== undefined && !(more instanceof Dict))
      throw new TemplateError(`argument after ** must be a mapping, not ${typeName(more)}`);
    for (const [key, value] of more?.entries() ?? []) {
      const name = textOf(key);
      if (name === undefined) throw new TemplateError("keywords must be strings");
      if (named.has(name)) throw new TemplateError(`got multiple values for keyword argument '${name}'`);
      named.set(name, value);
    }
    return { args, named };
  }

  private call(node: Expression, scope: Scope, caller?: Callable): Value {
    if (node[0] !== "Call") throw new TemplateError("a call block needs a call");
    const [, callee, ...call] = node;
    const target = this.value(callee, scope);
    const { args, named } = this.arguments(call, scope);
    if (caller !== undefined) named.set("caller", caller);
    if (target instanceof Undefined) target.fail();
    if (target instanceof Loop) return target.again(args, named);
    if (!(target instanceof Callable)) throw new TemplateError(`'${typeName(target)}' object is not callable`);
    return target.call(args, named);
  }
}

function holds(operator: Comparison, left: Value, right: Value): boolean {
  switch (operator) {
    case "eq":
      return equal(left, right);
    case "ne":
      return !equal(left, right);
    case "lt":
      return compare(left, right) < 0;
    case "lteq":
      return compare(left, right) <= 0;
    case "gt":
      return compare(left, right) > 0;
    case "gteq":
      return compare(left, right) >= 0;
    case "in":
      return contains(right, left);
    case "notin":
      return !contains(right, left);
  }
}
