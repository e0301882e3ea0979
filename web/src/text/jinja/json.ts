// Python's `json.dumps`, as the `tojson` filter of transformers calls it.

import { spend, spendText, TemplateError } from "./budget";
import { floatRepr } from "./numbers";
import { isNumber, Dict, sorted, textOf, Tuple, typeName, type Value } from "./values";

export interface JsonOptions {
  ensureAscii: boolean;
  /** What a level is indented by; undefined: all in one line. */
  indent: string | undefined;
  itemSeparator: string;
  keySeparator: string;
  sortKeys: boolean;
}

const MOST_DEPTH = 500;

export function toJson(value: Value, options: JsonOptions): string {
  const text = write(value, options, 0);
  spendText(text.length);
  return text;
}

function write(value: Value, options: JsonOptions, depth: number): string {
  spend();
  if (depth > MOST_DEPTH) throw new TemplateError("maximum recursion depth exceeded while encoding a JSON object");
  const text = textOf(value);
  if (text !== undefined) return quoted(text, options.ensureAscii);
  if (value === null) return "null";
  if (isNumber(value)) return plain(value);
  if (value instanceof Dict) {
    let entries = value.entries();
    if (options.sortKeys)
      entries = sorted(
        entries.map((pair) => new Tuple(pair)),
        (pair) => (pair as Tuple).items[0] ?? null,
        false,
      ).map((pair) => (pair as Tuple).items as [Value, Value]);
    const parts = entries.map(
      ([key, item]) => quoted(keyText(key), options.ensureAscii) + options.keySeparator + write(item, options, depth + 1),
    );
    return bracketed("{", parts, "}", options, depth);
  }
  const items = Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined;
  if (items === undefined) throw new TemplateError(`Object of type ${typeName(value)} is not JSON serializable`);
  return bracketed(
    "[",
    items.map((item) => write(item, options, depth + 1)),
    "]",
    options,
    depth,
  );
}

function plain(value: bigint | number | boolean): string {
  if (typeof value !== "number") return String(value);
  if (Number.isFinite(value)) return floatRepr(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

function keyText(key: Value): string {
  const text = textOf(key);
  if (text !== undefined) return text;
  if (key === null) return "null";
  if (isNumber(key)) return plain(key);
  throw new TemplateError(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

function bracketed(open: string, parts: string[], close: string, options: JsonOptions, depth: number): string {
  if (parts.length === 0) return open + close;
  const { indent, itemSeparator } = options;
  if (indent === undefined) return open + parts.join(itemSeparator) + close;
  spendText(indent.length * depth * parts.length);
  const line = `\n${indent.repeat(depth + 1)}`;
  return `${open}${line}${parts.join(itemSeparator + line)}\n${indent.repeat(depth)}${close}`;
}

const SHORT: Record<string, string> = { '"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f", "\b": "\\b" };

function quoted(text: string, ensureAscii: boolean): string {
  spend(text.length / 16);
  const pattern = ensureAscii ? /["\\]|[^ -~]/g : /["\\\0-\x1f]/g; // eslint-disable-line no-control-regex -- what JSON escapes
  return `"${text.replace(pattern, (unit) => SHORT[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)}"`;
}
