// The values that a template computes with, as Python has them: what is true, equal, less, iterable, and how each is written.
// str is a string, int a bigint, float a number, list an array; everything else is an object of a class below.

import { spend, spendItems, spendText, TemplateError } from "./budget";
import { floatRepr } from "./numbers";

export type Value = null | boolean | bigint | number | string | Value[] | PyObject;

export abstract class PyObject {
  /** Python's name of its type. */
  abstract readonly type: string;

  /** Undefined where Python raises AttributeError. */
  attribute(name: string): Value | undefined;
  attribute(): Value | undefined {
    return undefined;
  }

  /** Undefined where Python says that it is not iterable. */
  iterate(): Iterable<Value> | undefined {
    return undefined;
  }

  /** Undefined where it has no len(). */
  size(): number | undefined {
    return undefined;
  }

  repr(): string {
    return `<${this.type} object>`;
  }
}

export class Tuple extends PyObject {
  readonly type = "tuple";
  constructor(readonly items: readonly Value[]) {
    super();
  }
  override iterate = () => this.items;
  override size = () => this.items.length;
  override repr(): string {
    const [first] = this.items;
    return this.items.length === 1 && first !== undefined ? `(${repr(first)},)` : `(${joined(this.items.map(repr))})`;
  }
}

/** Of `groupby`: a tuple whose parts have names as well. */
export class Group extends Tuple {
  override attribute(name: string): Value | undefined {
    return name === "grouper" ? this.items[0] : name === "list" ? this.items[1] : undefined;
  }
}

export class Dict extends PyObject {
  readonly type = "dict";
  private readonly map = new Map<string, [Value, Value]>();

  constructor(pairs: Iterable<readonly [Value, Value]> = []) {
    super();
    for (const [key, value] of pairs) this.set(key, value);
  }
  /** For those who build one; templates cannot change any. */
  set(key: Value, value: Value): void {
    spend();
    const hash = hashOf(key);
    this.map.set(hash, [this.map.get(hash)?.[0] ?? key, value]);
  }
  get(key: Value): Value | undefined {
    return this.map.get(hashOf(key))?.[1];
  }
  has(key: Value): boolean {
    return this.map.has(hashOf(key));
  }
  keys = (): Value[] => [...this.map.values()].map(([key]) => key);
  entries = (): [Value, Value][] => [...this.map.values()];
  override iterate = () => this.keys();
  override size = () => this.map.size;
  override repr = (): string => `{${joined(this.entries().map(([key, value]) => `${repr(key)}: ${repr(value)}`))}}`;
}

/** `dict.keys()` and its like. */
export class View extends PyObject {
  constructor(
    readonly type: "dict_keys" | "dict_values" | "dict_items",
    readonly dict: Dict,
  ) {
    super();
  }
  override iterate(): Value[] {
    if (this.type === "dict_keys") return this.dict.keys();
    return this.dict.entries().map(([key, value]) => (this.type === "dict_items" ? new Tuple([key, value]) : value));
  }
  override size = () => this.dict.size();
  override repr = () => `${this.type}(${repr(this.iterate())})`;
}

/** What generators and `reversed` give: it can be gone through once. */
export class Iterator extends PyObject {
  private readonly iterator: IterableIterator<Value>;
  constructor(
    readonly type: string,
    items: Iterable<Value>,
  ) {
    super();
    const source = items[Symbol.iterator]();
    this.iterator = { [Symbol.iterator]: () => this.iterator, next: () => source.next() };
  }
  override iterate = () => this.iterator;
}

export class Range extends PyObject {
  readonly type = "range";
  readonly length: number;
  constructor(
    readonly start: bigint,
    readonly stop: bigint,
    readonly step: bigint,
  ) {
    super();
    const span = step > 0n ? stop - start : start - stop;
    const stride = step > 0n ? step : -step;
    this.length = span <= 0n ? 0 : Number((span + stride - 1n) / stride);
  }
  at = (index: number): bigint => this.start + BigInt(index) * this.step;
  override iterate = (): bigint[] => Array.from({ length: this.length }, (_, i) => this.at(i));
  override size = () => this.length;
  override attribute = (name: string) => ({ start: this.start, stop: this.stop, step: this.step })[name];
  override repr = () => `range(${this.start}, ${this.stop}${this.step === 1n ? "" : `, ${this.step}`})`;
}

export class Bytes extends PyObject {
  readonly type = "bytes";
  constructor(readonly bytes: Uint8Array) {
    super();
  }
  override iterate = () => Array.from(this.bytes, BigInt);
  override size = () => this.bytes.length;
  override repr(): string {
    const text = String.fromCharCode(...this.bytes);
    const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
    const escaped = Array.from(this.bytes, (byte) => {
      const character = String.fromCharCode(byte);
      if (character === quote || character === "\\") return `\\${character}`;
      return ESCAPES[character] ?? (byte < 32 || byte > 126 ? `\\x${hex(byte, 2)}` : character);
    });
    return `b${quote}${escaped.join("")}${quote}`;
  }
}

/** A text that `safe` or `escape` made: other texts are escaped when they are added to it. */
export class Markup extends PyObject {
  readonly type = "Markup";
  constructor(readonly text: string) {
    super();
  }
  override repr = () => `Markup(${repr(this.text)})`;
}

/** What is not there. It is empty and false, and any other use of it fails. */
export class Undefined extends PyObject {
  readonly type = "Undefined";
  constructor(readonly message: string) {
    super();
  }
  fail(): never {
    throw new TemplateError(this.message);
  }
  override iterate = (): Value[] => [];
  override size = () => 0;
  override repr = () => "Undefined";
}

/** `namespace()`, the one thing that a template can change. */
export class Namespace extends PyObject {
  readonly type = "Namespace";
  constructor(readonly attributes: Dict) {
    super();
  }
  override attribute = (name: string) => this.attributes.get(name);
  override repr = () => `<Namespace ${this.attributes.repr()}>`;
}

export type Named = ReadonlyMap<string, Value>;

/** A function, a method, a macro; `attributes` are what else it has. */
export class Callable extends PyObject {
  constructor(
    readonly name: string,
    readonly call: (args: readonly Value[], named: Named) => Value,
    readonly attributes: Readonly<Record<string, Value | (() => Value)>> = {},
    readonly type = "function",
  ) {
    super();
  }
  override attribute(name: string): Value | undefined {
    const found = Object.hasOwn(this.attributes, name) ? this.attributes[name] : undefined;
    return typeof found === "function" ? found() : found;
  }
  override repr = () => `<${this.type} ${this.name}>`;
}

// ------------------------------------------------------------------------------------------------------------- kinds

/** `found`, else what comes in its place. Python's None is something that was found, which `??` would take for nothing. */
export function or<T extends Value | undefined>(found: Value | undefined, otherwise: () => T): Value | T {
  return found === undefined ? otherwise() : found;
}

export const isNumber = (value: Value): value is bigint | number | boolean =>
  typeof value === "bigint" || typeof value === "number" || typeof value === "boolean";

/** The characters of a str, of which Markup is one. */
export function textOf(value: Value): string | undefined {
  return typeof value === "string" ? value : value instanceof Markup ? value.text : undefined;
}

export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (Array.isArray(value)) return "list";
  if (value instanceof PyObject) return value.type;
  return { string: "str", boolean: "bool", bigint: "int", number: "float" }[typeof value as "string" | "boolean" | "bigint" | "number"];
}

export function truthy(value: Value): boolean {
  if (value === null || value === "" || value === false) return false;
  if (typeof value === "bigint") return value !== 0n;
  if (typeof value === "number") return value !== 0;
  if (Array.isArray(value)) return value.length > 0;
  if (value instanceof Markup) return value.text !== "";
  return !(value instanceof PyObject) || value.size() !== 0;
}

/** A str by its characters, which may be two units of JavaScript's each. */
export function characters(text: string): string[] {
  spendItems(text.length);
  return Array.from(text);
}

/** @throws TemplateError for what cannot be gone through */
export function iterate(value: Value): Iterable<Value> {
  const text = textOf(value);
  if (text !== undefined) return characters(text);
  const items = Array.isArray(value) ? value : value instanceof PyObject ? value.iterate() : undefined;
  if (items === undefined) throw new TemplateError(`'${typeName(value)}' object is not iterable`);
  return items;
}

export function listOf(value: Value): Value[] {
  const items: Value[] = [];
  for (const item of iterate(value)) {
    spend();
    items.push(item);
  }
  return items;
}

/** @throws TemplateError for what has no length */
export function sizeOf(value: Value): number {
  const text = textOf(value);
  if (text !== undefined) return lengthOf(text);
  const size = Array.isArray(value) ? value.length : value instanceof PyObject ? value.size() : undefined;
  if (size === undefined) throw new TemplateError(`object of type '${typeName(value)}' has no len()`);
  return size;
}

/** In characters. */
export function lengthOf(text: string): number {
  spend(text.length / 16);
  return text.length - (text.match(/[\ud800-\udbff][\udc00-\udfff]/g)?.length ?? 0);
}

// --------------------------------------------------------------------------------------------------------- comparing

/** Equal values have equal ones, of whatever type. @throws TemplateError for what cannot be a key */
export function hashOf(value: Value): string {
  const text = textOf(value);
  if (text !== undefined) return `s${text}`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "n1" : "n0";
  if (typeof value === "bigint") return `n${value}`;
  if (typeof value === "number") return Number.isInteger(value) ? `n${BigInt(value)}` : `n${value}`;
  if (value instanceof Tuple)
    return `t${value.items
      .map(hashOf)
      .map((hash) => `${hash.length}:${hash}`)
      .join("")}`;
  if (value instanceof Undefined) return "undefined";
  throw new TemplateError(`unhashable type: '${typeName(value)}'`);
}

const itemsOf = (value: Value): readonly Value[] | undefined =>
  Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined;

export function equal(a: Value, b: Value): boolean {
  spend();
  if (isNumber(a) && isNumber(b)) return a == b || asNumber(a) == asNumber(b); // 1 == 1n == true, as in Python
  const text = textOf(a);
  if (text !== undefined) return text === textOf(b);
  if (a instanceof Undefined) return b instanceof Undefined;
  if (a instanceof Dict && b instanceof Dict)
    return a.size() === b.size() && a.entries().every(([key, value]) => b.has(key) && equal(value, b.get(key) ?? null));
  const [left, right] = [itemsOf(a), itemsOf(b)];
  if (left !== undefined && right !== undefined)
    return Array.isArray(a) === Array.isArray(b) && left.length === right.length && left.every((item, i) => equal(item, right[i] ?? null));
  if (a instanceof Bytes && b instanceof Bytes) return String(a.bytes) === String(b.bytes);
  if (a instanceof Range && b instanceof Range) return equal(a.iterate(), b.iterate());
  if (a instanceof View && b instanceof View && a.type === b.type && a.type !== "dict_values")
    return a.size() === b.size() && a.iterate().every((item) => contains(b, item));
  return a === b;
}

export const asNumber = (value: bigint | number | boolean): bigint | number => (typeof value === "boolean" ? BigInt(value) : value);

/** By code points; JavaScript compares units, in which those beyond U+FFFF come too early. */
function compareText(a: string, b: string): number {
  let i = 0;
  while (i < a.length && i < b.length && a[i] === b[i]) i += 1;
  spend(i / 16);
  if (i === a.length || i === b.length) return a.length - b.length;
  const shift = (unit: number) => (unit >= 0xe000 ? unit - 0x2000 : unit >= 0xd800 ? unit + 0x800 : unit);
  return shift(a.charCodeAt(i)) - shift(b.charCodeAt(i));
}

/** Negative, zero or positive; NaN where floats have no order. @throws TemplateError for what Python does not order */
export function compare(a: Value, b: Value): number {
  spend();
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  if (isNumber(a) && isNumber(b)) {
    const [left, right] = [asNumber(a), asNumber(b)];
    return left < right ? -1 : left > right ? 1 : left == right ? 0 : NaN;
  }
  const [first, second] = [textOf(a), textOf(b)];
  if (first !== undefined && second !== undefined) return compareText(first, second);
  const [left, right] = [itemsOf(a), itemsOf(b)];
  if (left === undefined || right === undefined || Array.isArray(a) !== Array.isArray(b))
    throw new TemplateError(`'<' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
  for (const [i, item] of left.entries()) {
    const other = right[i];
    if (other === undefined) return 1;
    if (!equal(item, other)) return compare(item, other);
  }
  return left.length - right.length;
}

/** `item in container`. */
export function contains(container: Value, item: Value): boolean {
  const text = textOf(container);
  if (text !== undefined) {
    const part = textOf(item);
    if (part === undefined) throw new TemplateError(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    spend(text.length / 16);
    return text.includes(part);
  }
  if (container instanceof Dict) return container.has(item);
  if (container instanceof View && container.type === "dict_keys") return container.dict.has(item);
  if (!Array.isArray(container) && !(container instanceof PyObject && container.iterate() !== undefined))
    throw new TemplateError(`argument of type '${typeName(container)}' is not iterable`);
  for (const other of iterate(container)) if (other === item || equal(other, item)) return true;
  return false;
}

export function sorted(values: readonly Value[], keyOf: (value: Value) => Value, reverse: boolean): Value[] {
  const keyed = values.map((value) => ({ value, key: keyOf(value) }));
  const sign = reverse ? -1 : 1;
  return keyed.sort((a, b) => sign * compare(a.key, b.key) || 0).map(({ value }) => value);
}

// ----------------------------------------------------------------------------------------------------------- writing

/** `str(value)`. */
export function str(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof Markup) return value.text;
  if (value instanceof Undefined) return "";
  return repr(value);
}

let depth = 0;

/** @throws TemplateError when it is nested too deeply */
export function repr(value: Value): string {
  spend();
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") return floatRepr(value);
  if (typeof value === "string") return textRepr(value);
  if (depth > 200) throw new TemplateError("maximum recursion depth exceeded while getting the repr of an object");
  depth += 1;
  try {
    return Array.isArray(value) ? `[${joined(value.map(repr))}]` : value.repr();
  } finally {
    depth -= 1;
  }
}

function joined(parts: readonly string[]): string {
  spendText(parts.reduce((sum, part) => sum + part.length + 2, 0));
  return parts.join(", ");
}

const ESCAPES: Record<string, string> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const hex = (code: number, digits: number) => code.toString(16).padStart(digits, "0");

/** Other separators, controls, surrogates and what is not assigned are written as numbers. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Zs}]/u;
export const printable = (character: string): boolean => character === " " || !UNPRINTABLE.test(character);

function textRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  spendText(text.length + 2);
  let escaped = "";
  for (const character of text) {
    if (character === quote || character === "\\") escaped += `\\${character}`;
    else if (printable(character)) escaped += character;
    else escaped += ESCAPES[character] ?? numbered(character);
  }
  return quote + escaped + quote;
}

function numbered(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  return code < 0x100 ? `\\x${hex(code, 2)}` : code < 0x10000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
}

/** JSON as Python's json module reads it; a whole number is an int, as JavaScript does not tell it from a float. */
export function fromJson(value: unknown): Value {
  spend();
  if (value === null || value === undefined) return null;
  if (typeof value === "string" || typeof value === "boolean" || typeof value === "bigint") return value;
  if (typeof value === "number") return Number.isSafeInteger(value) && !Object.is(value, -0) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value === "object")
    return new Dict(
      Object.entries(value)
        .filter(([, item]) => item !== undefined)
        .map(([key, item]) => [key, fromJson(item)]),
    );
  throw new TemplateError(`a ${typeof value} is no JSON`);
}
