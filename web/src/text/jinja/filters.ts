// Jinja2's filters that go through several values, and the table of all: `value | name(arguments)`.

import { bind, flag, given, intArgument, textArgument } from "./arguments";
import { operate } from "./arithmetic";
import { item, onlyAttribute } from "./attributes";
import { spend, TemplateError } from "./budget";
import { type Row, TEXT_FILTERS } from "./filters-text";
import { formatPercent } from "./format";
import { joinTexts } from "./methods";
import { isTest, runTest } from "./tests";
import { IS } from "./text";
import {
  characters,
  compare,
  Dict,
  Group,
  hashOf,
  equal,
  Iterator,
  iterate,
  listOf,
  or,
  sizeOf,
  sorted,
  str,
  textOf,
  truthy,
  Tuple,
  typeName,
  Undefined,
  View,
  type Named,
  type Value,
} from "./values";

type Getter = (value: Value) => Value;
type Free = (value: Value, args: readonly Value[], named: Named) => Value;

const itself: Getter = (value) => value;
const ignoringCase: Getter = (value) => textOf(value)?.toLowerCase() ?? value;

/** What `attribute="a.0.b"` picks out of a value. */
function getter(path: Value | undefined, otherwise?: Value): Getter {
  const wanted = path === undefined || path === null ? [] : partsOf(path);
  return (value) =>
    wanted.reduce((found, part) => {
      const next = item(found, part);
      return next instanceof Undefined && otherwise !== undefined && otherwise !== null ? otherwise : next;
    }, value);
}

const partsOf = (path: Value): Value[] => {
  const text = textOf(path);
  return text === undefined ? [path] : text.split(".").map((part) => (IS.isdigit?.(part) === true ? BigInt(part) : part));
};

const cased = (caseSensitive: Value | undefined): Getter => (flag(caseSensitive) ? itself : ignoringCase);
const then =
  (first: Getter, second: Getter): Getter =>
  (value) =>
    second(first(value));

/** A generator of Python's: lazy, gone through once. */
const generator = (items: () => Iterable<Value>): Iterator =>
  new Iterator(
    "generator",
    (function* () {
      yield* items();
    })(),
  );

function extreme(value: Value, caseSensitive: Value | undefined, path: Value | undefined, sign: number): Value {
  const key = then(getter(path), cased(caseSensitive));
  const items = listOf(value);
  const [first, ...rest] = items;
  if (first === undefined) return new Undefined("No aggregated item, sequence was empty.");
  let [best, bestKey] = [first, key(first)];
  for (const other of rest) {
    const otherKey = key(other);
    if (compare(otherKey, bestKey) * sign > 0) [best, bestKey] = [other, otherKey];
  }
  return best;
}

function first(value: Value): Value {
  for (const found of iterate(value)) return found;
  return new Undefined("No first item, sequence was empty.");
}

/** Backwards, which not everything that can be gone through can be. */
function reversible(value: Value): Value[] | undefined {
  const knows = textOf(value) !== undefined || Array.isArray(value) || value instanceof Tuple || value instanceof Dict;
  return knows || value instanceof View || (typeof value === "object" && typeName(value) === "range") ? listOf(value).reverse() : undefined;
}

function last(value: Value): Value {
  if (value instanceof Undefined) throw new TemplateError("'Undefined' object is not reversible");
  const items = reversible(value);
  if (items === undefined) throw new TemplateError(`'${typeName(value)}' object is not reversible`);
  return or(items[0], () => new Undefined("No last item, sequence was empty."));
}

function reverse(value: Value): Value {
  const text = textOf(value);
  if (text !== undefined) return characters(text).reverse().join("");
  const items = value instanceof Undefined ? undefined : reversible(value);
  return items === undefined ? listOf(value).reverse() : new Iterator("list_reverseiterator", items);
}

function join(value: Value, separator: Value | undefined, path: Value | undefined): Value {
  const pick = path === undefined || path === null ? itself : getter(path);
  return joinTexts(
    separator === undefined ? "" : str(separator),
    Array.from(listOf(value), (part) => str(pick(part))),
  );
}

function* batches(value: Value, size: Value, fill: Value | undefined): Generator<Value> {
  let batch: Value[] = [];
  for (const each of iterate(value)) {
    if (equal(BigInt(batch.length), size)) {
      yield batch;
      batch = [];
    }
    batch.push(each);
  }
  if (batch.length === 0) return;
  const missing = fill === undefined || fill === null ? 0 : intArgument(size) - batch.length;
  spend(Math.max(0, missing));
  yield missing > 0 ? [...batch, ...Array<Value>(missing).fill(fill ?? null)] : batch;
}

function* slices(value: Value, count: number, fill: Value | undefined): Generator<Value> {
  const items = listOf(value);
  if (count === 0) throw new TemplateError("integer division or modulo by zero");
  const [each, extra] = [Math.floor(items.length / count), items.length % count];
  let start = 0;
  for (let i = 0; i < count; i++) {
    spend();
    const end = start + each + (i < extra ? 1 : 0);
    const part = items.slice(start, end);
    start = end;
    yield fill !== undefined && fill !== null && i >= extra ? [...part, fill] : part;
  }
}

function groups(value: Value, path: Value, otherwise: Value | undefined, caseSensitive: Value | undefined): Value {
  const pick = getter(path, otherwise);
  const key = then(pick, cased(caseSensitive));
  const found: Value[][] = [];
  for (const each of sorted(listOf(value), key, false)) {
    const group = found.at(-1);
    if (group?.[0] !== undefined && equal(key(group[0]), key(each))) group.push(each);
    else found.push([each]);
  }
  return found.map((group) => new Group([(flag(caseSensitive) ? key : pick)(group[0] ?? null), group]));
}

function* unique(value: Value, key: Getter): Generator<Value> {
  const seen = new Set<string>();
  for (const each of iterate(value)) {
    const hash = hashOf(key(each));
    if (!seen.has(hash)) yield each;
    seen.add(hash);
  }
}

function dictSort(value: Value, caseSensitive: Value | undefined, by: Value | undefined, backwards: Value | undefined): Value {
  const place = { key: 0, value: 1 }[by === undefined ? "key" : str(by)];
  if (place === undefined) throw new TemplateError('You can only sort by either "key" or "value"');
  if (!(value instanceof Dict)) throw new TemplateError(`'${typeName(value)}' object has no attribute 'items'`);
  const pairs = value.entries().map((pair) => new Tuple(pair));
  return sorted(pairs, (pair) => cased(caseSensitive)((pair as Tuple).items[place] ?? null), flag(backwards));
}

function sort(value: Value, backwards: Value | undefined, caseSensitive: Value | undefined, path: Value | undefined): Value {
  const text = path === undefined ? undefined : textOf(path);
  const getters = (text === undefined ? [path] : text.split(",")).map((each) => then(getter(each), cased(caseSensitive)));
  return sorted(listOf(value), (each) => getters.map((get) => get(each)), flag(backwards));
}

function total(value: Value, path: Value | undefined, start: Value | undefined): Value {
  if (start !== undefined && textOf(start) !== undefined) throw new TemplateError("sum() can't sum strings [use ''.join(seq) instead]");
  const pick = path === undefined || path === null ? itself : getter(path);
  return listOf(value).reduce((sum, each) => operate("Add", sum, pick(each)), start ?? 0n);
}

/** `select`, `reject` and the two with an attribute. */
const choosing =
  (wanted: boolean, byAttribute: boolean): Free =>
  (value, args, named) =>
    generator(function* () {
      if (!truthy(value)) return;
      const [path] = args;
      if (byAttribute && path === undefined) throw new TemplateError("Missing parameter for attribute name");
      const pick = byAttribute ? getter(path) : itself;
      const [name, ...rest] = byAttribute ? args.slice(1) : args;
      for (const each of iterate(value)) {
        const found = pick(each);
        const holds = name === undefined ? truthy(found) : runNamedTest(textArgument(name), found, rest, named);
        if (holds === wanted) yield each;
      }
    });

const map: Free = (value, args, named) =>
  generator(function* () {
    if (!truthy(value)) return;
    const [name, ...rest] = args;
    const path = named.get("attribute");
    let pick: Getter;
    if (name === undefined && path !== undefined) {
      const more = [...named.keys()].find((key) => key !== "attribute" && key !== "default");
      if (more !== undefined) throw new TemplateError(`Unexpected keyword argument '${more}'`);
      pick = getter(path, named.get("default"));
    } else if (name === undefined) throw new TemplateError("map requires a filter argument");
    else pick = (each) => runFilter(textArgument(name), each, rest, named);
    for (const each of iterate(value)) yield pick(each);
  });

const format: Free = (value, args, named) => {
  if (args.length > 0 && named.size > 0) throw new TemplateError("can't handle positional and keyword arguments at the same time");
  return formatPercent(str(value), named.size > 0 ? new Dict(named) : new Tuple(args));
};

const length: Row = ["", (value) => BigInt(sizeOf(value))];
const otherwise: Row = [
  "default_value? boolean?",
  (value, [substitute, boolean]) => (value instanceof Undefined || (flag(boolean) && !truthy(value)) ? or(substitute, () => "") : value),
];

const LIST_FILTERS: Record<string, Row> = {
  attr: ["name", (value, [name]) => onlyAttribute(value, textArgument(name))],
  batch: ["linecount fill_with?", (value, [size, fill]) => generator(() => batches(value, size ?? null, fill))],
  count: length,
  d: otherwise,
  default: otherwise,
  dictsort: ["case_sensitive? by? reverse?", (value, [sensitive, by, backwards]) => dictSort(value, sensitive, by, backwards)],
  first: ["", first],
  groupby: [
    "attribute default? case_sensitive?",
    (value, [path, substitute, sensitive]) => groups(value, path ?? null, substitute, sensitive),
  ],
  items: [
    "",
    (value) =>
      generator(() => {
        if (value instanceof Undefined) return [];
        if (!(value instanceof Dict)) throw new TemplateError("Can only get item pairs from a mapping.");
        return new View("dict_items", value).iterate();
      }),
  ],
  join: ["d? attribute?", (value, [separator, path]) => join(value, separator, path)],
  last: ["", last],
  length,
  list: ["", listOf],
  max: ["case_sensitive? attribute?", (value, [sensitive, path]) => extreme(value, sensitive, path, 1)],
  min: ["case_sensitive? attribute?", (value, [sensitive, path]) => extreme(value, sensitive, path, -1)],
  random: [
    "",
    (value) => {
      const size = sizeOf(value);
      if (size === 0) return new Undefined("No random item, sequence was empty.");
      return item(value, BigInt(Math.floor(Math.random() * size)));
    },
  ],
  reverse: ["", reverse],
  slice: ["slices fill_with?", (value, [count, fill]) => generator(() => slices(value, intArgument(count), fill))],
  sort: [
    "reverse? case_sensitive? attribute?",
    (value, [backwards, sensitive, path]) => sort(value, backwards, sensitive, given(path ?? null)),
  ],
  sum: ["attribute? start?", (value, [path, start]) => total(value, path, start)],
  unique: [
    "case_sensitive? attribute?",
    (value, [sensitive, path]) => generator(() => unique(value, then(getter(path), cased(sensitive)))),
  ],
};

/** Those whose arguments are another filter's or a test's. */
const FREE_FILTERS: Record<string, Free> = {
  format,
  map,
  reject: choosing(false, false),
  rejectattr: choosing(false, true),
  select: choosing(true, false),
  selectattr: choosing(true, true),
};

const ROWS: Record<string, Row> = { ...TEXT_FILTERS, ...LIST_FILTERS };

/** Jinja2 has three more, which no chat template needs: `urlize`, `wordwrap` and the random text `lipsum`. */
export const isFilter = (name: string): boolean => Object.hasOwn(ROWS, name) || Object.hasOwn(FREE_FILTERS, name);

/** @throws TemplateError for a filter that there is not */
export function runFilter(name: string, value: Value, args: readonly Value[], named: Named): Value {
  spend();
  const free = Object.hasOwn(FREE_FILTERS, name) ? FREE_FILTERS[name] : undefined;
  if (free !== undefined) return free(value, args, named);
  const row = Object.hasOwn(ROWS, name) ? ROWS[name] : undefined;
  if (row === undefined) throw new TemplateError(`No filter named '${name}' found.`);
  return row[1](value, bind(name, row[0], args, named));
}

const TEST_NAMES = new Set(["filter", "test"]);

/** Tests, with the two that ask for names of filters and tests. */
export function runNamedTest(name: string, value: Value, args: readonly Value[], named: Named): boolean {
  if (!TEST_NAMES.has(name)) return runTest(name, value, args, named);
  bind(name, "", args, named);
  const asked = textOf(value);
  return asked !== undefined && (name === "filter" ? isFilter(asked) : TEST_NAMES.has(asked) || isTest(asked));
}
