// The methods of Python's str, by name. Knows which arguments each takes; `text.ts` does the work.

import { bind, flag, given, intArgument, textArgument } from "./arguments";
import { spendText, TemplateError } from "./budget";
import { type Access, formatBraces } from "./format";
import * as texts from "./text";
import { Bytes, Callable, Dict, listOf, Markup, printable, str, textOf, Tuple, typeName, type Named, type Value } from "./values";

type Run = (text: string, args: (Value | undefined)[]) => Value;
type Row = readonly [parameters: string, run: Run];

const optionalInt = (value: Value | undefined) => (given(value ?? null) === undefined ? undefined : intArgument(value));
const optionalText = (value: Value | undefined) => (given(value ?? null) === undefined ? undefined : textArgument(value));

const stripping = (left: boolean, right: boolean): Row => [
  "chars? /",
  (text, [chars]) => texts.strip(text, optionalText(chars), left, right),
];
const splitting = (fromRight: boolean): Row => [
  "sep? maxsplit?",
  (text, [separator, most]) => texts.split(text, optionalText(separator), intArgument(most, -1), fromRight),
];
const partitioning = (fromRight: boolean): Row => [
  "sep /",
  (text, [separator]) => new Tuple(texts.partition(text, textArgument(separator), fromRight)),
];
const finding = (last: boolean, fails: boolean): Row => [
  "sub start? end? /",
  (text, [part, start, end]) => {
    const at = texts.find(text, textArgument(part), optionalInt(start), optionalInt(end), last);
    if (at < 0 && fails) throw new TemplateError("substring not found");
    return BigInt(at);
  },
];
const padding = (left: number | "center" | "all"): Row => [
  "width fillchar? /",
  (text, [width, fill]) => texts.pad(text, intArgument(width), left, textArgument(fill, " ")),
];
const beginning = (end: boolean): Row => [
  "prefix start? end? /",
  (text, [wanted, start, stop]) => {
    const [from, to] = [optionalInt(start), optionalInt(stop)];
    let within: string | undefined = text;
    if (from !== undefined || to !== undefined) {
      const all = Array.from(text);
      const [first, last] = texts.bounds(all.length, from, to);
      within = first > all.length || first > last ? undefined : all.slice(first, last).join("");
    }
    const options = wanted instanceof Tuple ? wanted.items : [wanted];
    return options.some((option) => {
      const part = textArgument(option);
      return within !== undefined && (end ? within.endsWith(part) : within.startsWith(part));
    });
  },
];
const simple = (make: (text: string) => Value): Row => ["", make];

const METHODS: Record<string, Row> = {
  capitalize: simple(texts.capitalize),
  casefold: simple(texts.caseFold),
  center: padding("center"),
  count: [
    "sub start? end? /",
    (text, [part, start, end]) => BigInt(texts.count(text, textArgument(part), optionalInt(start), optionalInt(end))),
  ],
  encode: ["encoding? errors?", (text, [encoding]) => encoded(text, textArgument(encoding, "utf-8"))],
  endswith: beginning(true),
  expandtabs: ["tabsize?", (text, [size]) => texts.expandTabs(text, intArgument(size, 8))],
  find: finding(false, false),
  index: finding(false, true),
  isprintable: simple((text) => Array.from(text).every(printable)),
  join: ["iterable /", (text, [items]) => join(text, items ?? null)],
  ljust: padding(0),
  lower: simple((text) => text.toLowerCase()),
  lstrip: stripping(true, false),
  partition: partitioning(false),
  removeprefix: ["prefix /", (text, [part]) => (text.startsWith(textArgument(part)) ? text.slice(textArgument(part).length) : text)],
  removesuffix: [
    "suffix /",
    (text, [part]) => {
      const suffix = textArgument(part);
      return suffix !== "" && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text;
    },
  ],
  replace: [
    "old new count? /",
    (text, [old, next, most]) => texts.replace(text, textArgument(old), textArgument(next), intArgument(most, -1)),
  ],
  rfind: finding(true, false),
  rindex: finding(true, true),
  rjust: padding("all"),
  rpartition: partitioning(true),
  rsplit: splitting(true),
  rstrip: stripping(false, true),
  split: splitting(false),
  splitlines: ["keepends?", (text, [keep]) => texts.splitLines(text, flag(keep))],
  startswith: beginning(false),
  strip: stripping(true, true),
  swapcase: simple(texts.swapCase),
  title: simple(texts.title),
  translate: ["table /", (text, [table]) => translate(text, table ?? null)],
  upper: simple((text) => text.toUpperCase()),
  zfill: ["width /", (text, [width]) => zeroFilled(text, intArgument(width))],
};

function join(separator: string, items: Value): string {
  const parts = listOf(items).map((item, i) => {
    const text = textOf(item);
    if (text === undefined) throw new TemplateError(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
    return text;
  });
  return joinTexts(separator, parts);
}

/** Texts joined, within the budget. */
export function joinTexts(separator: string, parts: readonly string[]): string {
  const length = parts.reduce((sum, part) => sum + part.length + separator.length, 0);
  spendText(length);
  return parts.join(separator);
}

function zeroFilled(text: string, width: number): string {
  const sign = /^[+-]/.exec(text)?.[0] ?? "";
  return sign + texts.pad(text.slice(sign.length), width - sign.length, "all", "0");
}

function encoded(text: string, encoding: string): Bytes {
  const name = encoding.toLowerCase().replace(/_/g, "-");
  if (name === "utf-8" || name === "utf8") return new Bytes(new TextEncoder().encode(text));
  const most = { ascii: 0x7f, "us-ascii": 0x7f, "latin-1": 0xff, "iso-8859-1": 0xff }[name];
  const codes = Array.from(text, (character) => character.codePointAt(0) ?? 0);
  if (most === undefined || codes.some((code) => code > most)) throw new TemplateError(`'${encoding}' codec can't encode the text`);
  return new Bytes(Uint8Array.from(codes));
}

function translate(text: string, table: Value): string {
  if (!(table instanceof Dict)) throw new TemplateError("translate() needs a dict");
  const made = Array.from(text, (character) => {
    const found = table.get(BigInt(character.codePointAt(0) ?? 0));
    if (found === undefined) return character;
    return typeof found === "bigint" ? String.fromCodePoint(Number(found)) : found === null ? "" : textArgument(found);
  });
  return joinTexts("", made);
}

/** A method of a text; undefined where there is none of that name. */
export function stringMethod(text: string, name: string, markup: boolean, access: Access): Callable | undefined {
  const wrap = (value: Value): Value => (markup && typeof value === "string" ? new Markup(value) : value);
  const make = (call: (args: readonly Value[], named: Named) => Value) =>
    new Callable(name, (args, named) => wrap(call(args, named)), {}, "built-in method");
  if (name === "format") return make((args, named) => formatBraces(text, args, named, access));
  if (name === "format_map")
    return make((args, named) => {
      const [mapping] = bind(name, "mapping /", args, named);
      if (!(mapping instanceof Dict)) throw new TemplateError("format_map() needs a mapping");
      return formatBraces(text, [], new Map(mapping.entries().map(([key, value]) => [str(key), value])), access);
    });
  const test = Object.hasOwn(texts.IS, name) ? texts.IS[name] : undefined;
  if (test !== undefined) return make((args, named) => (bind(name, "", args, named), test(text)));
  const row = Object.hasOwn(METHODS, name) ? METHODS[name] : undefined;
  if (row === undefined) return undefined;
  return make((args, named) => row[1](text, [...bind(name, row[0], args, named)]));
}
