// Jinja2's filters that make a text or a number of one value. `(value, arguments) -> value`, by name, with their parameters.

import { flag, given, intArgument, textArgument, type Arguments } from "./arguments";
import { escapeHtml, operate } from "./arithmetic";
import { TemplateError } from "./budget";
import { toJson } from "./json";
import { fixed, parseFloating, parseInteger, rounded, truncated } from "./numbers";
import * as texts from "./text";
import { joinTexts } from "./methods";
import {
  asNumber,
  characters,
  Dict,
  iterate,
  isNumber,
  lengthOf,
  listOf,
  Markup,
  or,
  PyObject,
  repr,
  sizeOf,
  str,
  textOf,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values";

export type Row = readonly [parameters: string, run: (value: Value, args: Arguments) => Value];

const onText =
  (make: (text: string) => string): Row[1] =>
  (value) =>
    keepMarkup(value, make(str(value)));

/** Filters of texts leave Markup what it is. */
const keepMarkup = (value: Value, text: string): Value => (value instanceof Markup ? new Markup(text) : text);

/** A number, or what Python's int() and float() raise for. */
function toInteger(value: Value, base: number): bigint | undefined {
  const text = textOf(value);
  if (text !== undefined) return parseInteger(text, base);
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value)) return undefined;
  const number = asNumber(value);
  return typeof number === "bigint" ? number : Number.isNaN(number) ? undefined : truncated(number);
}

function toFloat(value: Value): number | undefined {
  const text = textOf(value);
  if (text !== undefined) return parseFloating(text);
  if (value instanceof Undefined) value.fail();
  return isNumber(value) ? Number(value) : undefined;
}

function int(value: Value, [otherwise, base]: Arguments): Value {
  const found = toInteger(value, intArgument(base, 10));
  if (found !== undefined) return found;
  const float = toFloat(value);
  return float === undefined || !Number.isFinite(float) ? or(otherwise, () => 0n) : truncated(float);
}

function round(value: Value, [precision, method]: Arguments): Value {
  const how = method === undefined ? "common" : textArgument(method);
  const places = intArgument(precision, 0);
  if (!["common", "ceil", "floor"].includes(how)) throw new TemplateError("method must be common, ceil or floor");
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value)) throw new TemplateError(`type ${typeName(value)} doesn't define __round__ method`);
  const number = asNumber(value);
  if (how === "common") return rounded(number, places);
  const unit = operate("Pow", 10n, BigInt(places));
  const scaled = operate("Mul", number, unit);
  const whole =
    typeof scaled === "bigint" ? scaled : truncated(how === "ceil" ? Math.ceil(scaled as number) : Math.floor(scaled as number));
  return operate("Div", whole, unit);
}

function fileSize(value: Value, [binary]: Arguments): Value {
  const bytes = toFloat(value);
  if (bytes === undefined) throw new TemplateError("could not convert string to float");
  const base = flag(binary) ? 1024 : 1000;
  if (bytes === 1) return "1 Byte";
  if (bytes < base) return `${truncated(bytes)} Bytes`;
  const letters = Array.from("KMGTPEZY");
  let size = bytes / base;
  let letter = letters.shift() ?? "";
  while (size >= base && letters.length > 0) {
    size /= base;
    letter = letters.shift() ?? "";
  }
  const name = flag(binary) ? `${letter}iB` : letter === "K" ? "kB" : `${letter}B`;
  return `${fixed(size, 1)} ${name}`;
}

function indent(value: Value, [width, first, blank]: Arguments): Value {
  if (value instanceof Undefined) value.fail();
  const text = textArgument(value);
  const name = width === undefined ? undefined : textOf(width);
  const indentation = name ?? texts.repeat(" ", intArgument(width, 4));
  // As in Jinja2, a line feed is added first, so that an empty text has one line.
  const lines = texts.splitLines(`${text}\n`, false);
  const indented = lines.map((line, i) => (i === 0 || (line === "" && !flag(blank)) ? line : indentation + line));
  const [head = "", ...rest] = indented;
  return keepMarkup(value, joinTexts("\n", [(flag(first) ? indentation : "") + head, ...rest]));
}

function truncate(value: Value, [length, killWords, end, leeway]: Arguments): Value {
  const [most, ending, spare] = [intArgument(length, 255), textArgument(end, "..."), intArgument(given(leeway ?? null), 5)];
  if (most < lengthOf(ending) || spare < 0) throw new TemplateError(`expected length >= ${lengthOf(ending)}, got ${most}`);
  if (sizeOf(value) <= most + spare) return value;
  const cut = characters(textArgument(value))
    .slice(0, most - lengthOf(ending))
    .join("");
  return keepMarkup(value, (flag(killWords) ? cut : (texts.split(cut, " ", 1, true)[0] ?? "")) + ending);
}

function titled(text: string): string {
  const parts = text.split(/([-\t-\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000({[<]+)/); // eslint-disable-line no-control-regex -- Python's white space
  return parts
    .map((part) => {
      const [first = "", ...rest] = characters(part);
      return first.toUpperCase() + rest.join("").toLowerCase();
    })
    .join("");
}

function json(value: Value, [ensureAscii, indentation, separators, sortKeys]: Arguments): Value {
  const level = given(indentation ?? null);
  const space = level === undefined ? undefined : (textOf(level) ?? " ".repeat(Math.max(0, Math.min(intArgument(level), 1000))));
  const pair = given(separators ?? null);
  const [item, key] = pair === undefined ? [space === undefined ? ", " : ",", ": "] : listOf(pair).map((each) => textArgument(each));
  if (item === undefined || key === undefined) throw new TemplateError("not enough values to unpack (expected 2)");
  return toJson(value, { ensureAscii: flag(ensureAscii), indent: space, itemSeparator: item, keySeparator: key, sortKeys: flag(sortKeys) });
}

function quote(value: Value, forQuery: boolean): string {
  const bytes = new TextEncoder().encode(str(value));
  const text = Array.from(bytes, (byte) => {
    const character = String.fromCharCode(byte);
    if (/[A-Za-z0-9_.~-]/.test(character) || (character === "/" && !forQuery)) return character;
    return forQuery && character === " " ? "+" : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  });
  return text.join("");
}

function urlEncode(value: Value): Value {
  const isIterable = Array.isArray(value) || (value instanceof PyObject && value.iterate() !== undefined);
  if (textOf(value) !== undefined || !isIterable) return quote(value, false);
  const pairs = value instanceof Dict ? value.entries().map((pair) => new Tuple(pair)) : [...iterate(value)];
  const parts = pairs.map((pair) => {
    const [key, item, ...more] = listOf(pair);
    if (key === undefined || item === undefined || more.length > 0) throw new TemplateError("not enough values to unpack (expected 2)");
    return `${quote(key, true)}=${quote(item, true)}`;
  });
  return joinTexts("&", parts);
}

function stripTags(text: string): string {
  const without = text.replace(/<!--[^]*?-->|<(?!!--)[^>]*>/g, "");
  const named: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\xa0" };
  return texts
    .split(without, undefined, -1, false)
    .join(" ")
    .replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(\w+));/g, (all, decimal?: string, hex?: string, name?: string) => {
      const code = decimal !== undefined ? Number(decimal) : hex !== undefined ? parseInt(hex, 16) : undefined;
      if (code !== undefined) return code > 0 && code < 0x110000 ? String.fromCodePoint(code) : "\ufffd";
      return named[name ?? ""] ?? all;
    });
}

function xmlAttributes(value: Value, [autospace]: Arguments): Value {
  if (!(value instanceof Dict)) throw new TemplateError(`'${typeName(value)}' object has no attribute 'items'`);
  const parts = value.entries().flatMap(([key, item]) => {
    if (item === null || item instanceof Undefined) return [];
    if (/[\t-\r />=]/.test(textArgument(key))) throw new TemplateError(`Invalid character in attribute name: ${repr(key)}`);
    return [`${escapeHtml(str(key))}="${escapeHtml(str(item))}"`];
  });
  const text = joinTexts(" ", parts);
  return (autospace === undefined || flag(autospace)) && text !== "" ? ` ${text}` : text;
}

/** Only what fits a line: how pprint breaks longer ones is not imitated. */
function prettyPrinted(value: Value): Value {
  const ordered = (item: Value): Value => {
    if (Array.isArray(item)) return item.map(ordered);
    if (item instanceof Tuple) return new Tuple(item.items.map(ordered));
    if (!(item instanceof Dict)) return item;
    const keys = item.keys();
    if (!keys.every((key) => typeof key === "string")) return item;
    return new Dict(keys.sort((a, b) => (a < b ? -1 : 1)).map((key) => [key, ordered(item.get(key) ?? null)] as const));
  };
  const text = repr(ordered(value));
  if (lengthOf(text) > 80) throw new TemplateError("pprint of what is longer than a line");
  return text;
}

const escape = (value: Value): Value => (value instanceof Markup ? value : new Markup(escapeHtml(str(value))));

export const TEXT_FILTERS: Record<string, Row> = {
  abs: [
    "",
    (value) => {
      if (value instanceof Undefined) throw new TemplateError("bad operand type for abs(): 'Undefined'");
      if (!isNumber(value)) throw new TemplateError(`bad operand type for abs(): '${typeName(value)}'`);
      const number = asNumber(value);
      return typeof number === "bigint" ? (number < 0n ? -number : number) : Math.abs(number);
    },
  ],
  capitalize: ["", onText(texts.capitalize)],
  center: ["width?", (value, [width]) => keepMarkup(value, texts.pad(str(value), intArgument(width, 80), "center"))],
  escape: ["", escape],
  e: ["", escape],
  filesizeformat: ["binary?", fileSize],
  float: ["default?", (value, [otherwise]) => or(toFloat(value), () => or(otherwise, () => 0))],
  forceescape: ["", (value) => new Markup(escapeHtml(str(value)))],
  indent: ["width? first? blank?", indent],
  int: ["default? base?", int],
  lower: ["", onText((text) => text.toLowerCase())],
  pprint: ["", prettyPrinted],
  replace: [
    "old new count?",
    (value, [old, next, most]) => texts.replace(str(value), str(old ?? null), str(next ?? null), intArgument(given(most ?? null), -1)),
  ],
  round: ["precision? method?", round],
  safe: ["", (value) => new Markup(str(value))],
  string: ["", (value) => (value instanceof Markup ? value : str(value))],
  striptags: ["", (value) => new Markup(stripTags(str(value)))],
  title: ["", (value) => titled(str(value))],
  tojson: ["ensure_ascii? indent? separators? sort_keys?", json],
  trim: [
    "chars?",
    (value, [chars]) => {
      const set = given(chars ?? null);
      return keepMarkup(value, texts.strip(str(value), set === undefined ? undefined : textArgument(set), true, true));
    },
  ],
  truncate: ["length? killwords? end? leeway?", truncate],
  upper: ["", onText((text) => text.toUpperCase())],
  urlencode: ["", urlEncode],
  wordcount: ["", (value) => BigInt(str(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)],
  xmlattr: ["autospace?", xmlAttributes],
};
