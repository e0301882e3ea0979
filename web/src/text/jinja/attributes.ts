// `value.name`, `value[key]` and slices, as Jinja2's sandbox gives them out: the methods of Python's types, but none that change a
// list or a dict, nothing that begins with an underscore, and something undefined where there is nothing.

import { bind, given, intArgument } from "./arguments";
import { TemplateError } from "./budget";
import type { Access } from "./format";
import { stringMethod } from "./methods";
import { bounds } from "./text";
import {
  asNumber,
  Bytes,
  Callable,
  characters,
  Dict,
  equal,
  isNumber,
  Iterator,
  listOf,
  Markup,
  Namespace,
  or,
  PyObject,
  Range,
  repr,
  textOf,
  Tuple,
  typeName,
  Undefined,
  View,
  type Named,
  type Value,
} from "./values";

type Method = readonly [parameters: string, run: (...args: (Value | undefined)[]) => Value];
/** Methods that change what they belong to: they are there, and must not be used. */
const CHANGING: Record<string, readonly string[]> = {
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
};

const method = (name: string, [parameters, run]: Method): Callable =>
  new Callable(name, (args, named) => run(...bind(name, parameters, args, named)), {}, "built-in method");

const DICT: Record<string, (dict: Dict) => Method> = {
  keys: (dict) => ["", () => new View("dict_keys", dict)],
  values: (dict) => ["", () => new View("dict_values", dict)],
  items: (dict) => ["", () => new View("dict_items", dict)],
  get: (dict) => ["key default? /", (key, otherwise) => or(dict.get(key ?? null), () => otherwise ?? null)],
  copy: (dict) => ["", () => new Dict(dict.entries())],
  fromkeys: () => ["iterable value? /", (keys, value) => new Dict(listOf(keys ?? null).map((key) => [key, value ?? null] as const))],
};

const optional = (value: Value | undefined) => (value === undefined ? undefined : intArgument(value));

const SEQUENCE: Record<string, (items: readonly Value[]) => Method> = {
  count: (items) => ["value /", (value) => BigInt(items.filter((item) => equal(item, value ?? null)).length)],
  index: (items) => [
    "value start? stop? /",
    (value, start, stop) => {
      const [from, to] = bounds(items.length, optional(start), optional(stop));
      const at = items.findIndex((item, i) => i >= from && i < to && equal(item, value ?? null));
      if (at < 0) throw new TemplateError("the value is not in the sequence");
      return BigInt(at);
    },
  ],
};

function numberAttribute(value: bigint | number, name: string): Value | undefined {
  if (name === "real") return value;
  if (name === "imag") return typeof value === "bigint" ? 0n : 0;
  if (name === "conjugate") return method(name, ["", () => value]);
  if (name === "is_integer") return typeof value === "number" ? method(name, ["", () => Number.isInteger(value)]) : undefined;
  if (typeof value === "number") return undefined;
  if (name === "numerator") return value;
  if (name === "denominator") return 1n;
  if (name === "bit_length") return method(name, ["", () => BigInt(value === 0n ? 0 : (value < 0n ? -value : value).toString(2).length)]);
  return undefined;
}

/** What Python's getattr gives; undefined where it raises AttributeError. */
function pythonAttribute(value: Value, name: string): Value | undefined {
  if (value instanceof Undefined) return name.startsWith("__") ? undefined : value.fail();
  if (name.startsWith("__") && name.endsWith("__")) return unsafe(value, name);
  if (CHANGING[typeName(value)]?.includes(name)) return unsafe(value, name);
  const text = textOf(value);
  if (text !== undefined) return stringMethod(text, name, value instanceof Markup, access);
  if (isNumber(value)) return numberAttribute(asNumber(value), name);
  if (value instanceof Dict) return own(DICT, name, value);
  if (Array.isArray(value)) return name === "copy" ? method(name, ["", () => [...value]]) : own(SEQUENCE, name, value);
  if (value instanceof Tuple) return or(value.attribute(name), () => own(SEQUENCE, name, value.items));
  if (value instanceof Range) return value.attribute(name) ?? own(SEQUENCE, name, value.iterate());
  if (value instanceof Bytes) return bytesAttribute(value, name);
  if (value instanceof Iterator) return name === "send" || name === "close" || name === "throw" ? unsafe(value, name) : undefined;
  return value instanceof PyObject && !(value instanceof View) ? value.attribute(name) : undefined;
}

function own<T>(table: Record<string, (of: T) => Method>, name: string, of: T): Callable | undefined {
  const found = Object.hasOwn(table, name) ? table[name] : undefined;
  return found && method(name, found(of));
}

function bytesAttribute(value: Bytes, name: string): Value | undefined {
  if (name === "hex") return method(name, ["", () => Array.from(value.bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")]);
  if (name !== "decode") return undefined;
  return method(name, [
    "encoding? errors?",
    (_, errors) => {
      try {
        return new TextDecoder("utf-8", { fatal: errors !== "replace", ignoreBOM: true }).decode(value.bytes);
      } catch {
        throw new TemplateError("'utf-8' codec can't decode the bytes");
      }
    },
  ]);
}

const unsafe = (value: Value, name: string) => new Undefined(`access to attribute '${name}' of '${typeName(value)}' object is unsafe.`);

function missing(value: Value, key: Value): Undefined {
  const name = textOf(key);
  if (name === undefined) return new Undefined(`${typeName(value)} object has no element ${repr(key)}`);
  return new Undefined(`'${typeName(value)} object' has no attribute '${name}'`);
}

/** `value[key]`; undefined where Python raises LookupError or TypeError. */
function pythonItem(value: Value, key: Value): Value | undefined {
  if (value instanceof Undefined) value.fail();
  if (value instanceof Dict) {
    try {
      return value.get(key);
    } catch {
      return undefined; // a key that cannot be one
    }
  }
  if (!isNumber(key) || typeof key === "number") return undefined;
  const text = textOf(value);
  const sequence = text !== undefined ? characters(text) : sequenceOf(value);
  if (sequence === undefined) return undefined;
  const index = Number(key);
  return sequence[index < 0 ? index + sequence.length : index];
}

function sequenceOf(value: Value): readonly Value[] | undefined {
  if (Array.isArray(value)) return value;
  if (value instanceof Tuple) return value.items;
  return value instanceof Range || value instanceof Bytes ? value.iterate() : undefined;
}

const safe = (value: Value, name: string, found: Value | undefined): Value | undefined =>
  found !== undefined && name.startsWith("_") ? unsafe(value, name) : found;

/** `value.name`: the attribute, else the item. */
export function attribute(value: Value, name: string): Value {
  const found = safe(value, name, pythonAttribute(value, name));
  return or(found, () => or(pythonItem(value, name), () => missing(value, name)));
}

/** `value[key]`: the item, else the attribute. */
export function item(value: Value, key: Value): Value {
  const name = textOf(key);
  const found = pythonItem(value, key);
  if (found !== undefined) return found;
  const named = name === undefined ? undefined : safe(value, name, pythonAttribute(value, name));
  return or(named, () => missing(value, key));
}

/** The `attr` filter: the attribute and nothing else. */
export function onlyAttribute(value: Value, name: string): Value {
  const found = value instanceof Undefined ? undefined : pythonAttribute(value, name);
  return or(safe(value, name, found), () => missing(value, name));
}

const access: Access = { attribute, item };

/** `value[start:stop:step]`. @throws TemplateError for what has no slices */
export function slice(value: Value, start: Value, stop: Value, step: Value): Value {
  if (value instanceof Undefined) value.fail();
  const text = textOf(value);
  const all: readonly Value[] | undefined = text !== undefined ? characters(text) : sequenceOf(value);
  if (all === undefined) throw new TemplateError(`'${typeName(value)}' object is not subscriptable with a slice`);
  const stride = intArgument(given(step), 1);
  if (stride === 0) throw new TemplateError("slice step cannot be zero");
  const limit = (given: Value, otherwise: number): number => {
    if (given === null) return otherwise;
    const at = intArgument(given);
    const [least, most] = stride > 0 ? [0, all.length] : [-1, all.length - 1];
    return Math.max(least, Math.min(at < 0 ? at + all.length : at, most));
  };
  const [from, to] = [limit(start, stride > 0 ? 0 : all.length - 1), limit(stop, stride > 0 ? all.length : -1)];
  const picked: Value[] = [];
  for (let i = from; stride > 0 ? i < to : i > to; i += stride) picked.push(all[i] ?? null);
  if (text !== undefined) {
    const part = (picked as string[]).join("");
    return value instanceof Markup ? new Markup(part) : part;
  }
  if (value instanceof Bytes) return new Bytes(Uint8Array.from(picked, Number));
  if (value instanceof Range)
    return new Range(value.at(from), value.at(Math.max(Math.min(to, value.length), -1)), value.step * BigInt(stride));
  return Array.isArray(value) ? picked : new Tuple(picked);
}

/** `dict(...)`, of which `namespace(...)` is made as well. */
export function makeDict(name: string, args: readonly Value[], named: Named): Dict {
  if (args.length > 1) throw new TemplateError(`${name} expected at most 1 argument, got ${args.length}`);
  const [source] = args;
  const dict = new Dict();
  if (source instanceof Dict) for (const [key, value] of source.entries()) dict.set(key, value);
  else if (source instanceof Undefined) source.fail();
  else if (source instanceof Namespace) throw new TemplateError("'Namespace' object is not iterable");
  else if (source !== undefined)
    for (const pair of listOf(source)) {
      const [key, value, ...more] = listOf(pair);
      if (key === undefined || value === undefined || more.length > 0)
        throw new TemplateError("dictionary update sequence element has not 2 elements");
      dict.set(key, value);
    }
  for (const [key, value] of named) dict.set(key, value);
  return dict;
}
