// What Python's str can do, on texts by their characters, not by JavaScript's units. Texts in, values out.

import { spend, spendText, TemplateError } from "./budget";
import { characters, lengthOf } from "./values";

const SPACES = "\t-\r\\x1c-\\x1f \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACE = new RegExp(`^[${SPACES}]$`);
export const isSpace = (character: string): boolean => SPACE.test(character);

/** Python's `strip`, `lstrip` and `rstrip`; without `chars`, of white space, to which U+FEFF does not belong. */
export function strip(text: string, chars: string | undefined, left: boolean, right: boolean): string {
  const all = characters(text);
  const set = chars === undefined ? undefined : new Set(characters(chars));
  const drops = (character: string | undefined) => character !== undefined && (set?.has(character) ?? isSpace(character));
  let [start, end] = [0, all.length];
  if (left) while (start < end && drops(all[start])) start += 1;
  if (right) while (end > start && drops(all[end - 1])) end -= 1;
  return all.slice(start, end).join("");
}

/** Runs of white space separate where there is no separator. */
export function split(text: string, separator: string | undefined, most: number, fromRight: boolean): string[] {
  spend(text.length / 4);
  if (separator === "") throw new TemplateError("empty separator");
  if (separator === undefined) return splitSpaces(text, most, fromRight);
  const parts = text.split(separator);
  if (most < 0 || parts.length <= most + 1) return parts;
  if (fromRight) return [parts.slice(0, parts.length - most).join(separator), ...parts.slice(parts.length - most)];
  return [...parts.slice(0, most), parts.slice(most).join(separator)];
}

function splitSpaces(text: string, most: number, fromRight: boolean): string[] {
  const words = Array.from(text.matchAll(new RegExp(`[^${SPACES}]+`, "g")), (match) => ({
    start: match.index,
    end: match.index + match[0].length,
  }));
  const cut = (from: { start: number }[], to: { end: number }[]) =>
    from.map(({ start }, i) => text.slice(start, to[i]?.end ?? text.length));
  if (most < 0 || words.length <= most) return cut(words, words);
  if (!fromRight) {
    const rest = words[most];
    const last = rest === undefined ? [] : [strip(text.slice(rest.start), undefined, false, false)];
    return [...cut(words.slice(0, most), words), ...last];
  }
  const kept = words.slice(words.length - most);
  const before = words[words.length - most - 1];
  const first = before === undefined ? [] : [text.slice(0, before.end)];
  return [...first, ...kept.map(({ start, end }) => text.slice(start, end))];
}

const LINE_ENDS = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const LINES = new RegExp(`[^${LINE_ENDS}]*(?:\\r\\n|[${LINE_ENDS}])|[^${LINE_ENDS}]+$`, "g");
const LINE_END = new RegExp(`(?:\\r\\n|[${LINE_ENDS}])$`);

export function splitLines(text: string, keepEnds: boolean): string[] {
  spend(text.length / 4);
  return (text.match(LINES) ?? []).map((line) => (keepEnds ? line : line.replace(LINE_END, "")));
}

/** @param most negative: all */
export function replace(text: string, old: string, next: string, most: number): string {
  const pieces = old === "" ? ["", ...characters(text), ""] : text.split(old);
  const count = most < 0 ? pieces.length - 1 : Math.min(most, pieces.length - 1);
  spendText(text.length + count * next.length);
  const head = pieces.slice(0, count + 1).join(next);
  return [head, ...pieces.slice(count + 1)].join(old);
}

export function repeat(text: string, count: number): string {
  if (count <= 0 || text === "") return "";
  spendText(text.length * count);
  return text.repeat(count);
}

export function pad(text: string, width: number, left: number | "center" | "all", fill = " "): string {
  const length = lengthOf(text);
  if (lengthOf(fill) !== 1) throw new TemplateError("The fill character must be exactly one character long");
  if (width <= length) return text;
  const missing = width - length;
  // Where the halves differ, Python puts the larger one to the left if the width is odd.
  const before = left === "center" ? Math.floor(missing / 2) + (missing & width & 1) : left === "all" ? missing : left;
  return repeat(fill, before) + text + repeat(fill, missing - before);
}

/** Where `part` is, between two places that are counted as slices count; -1: nowhere. */
export function find(text: string, part: string, start: number | undefined, end: number | undefined, last: boolean): number {
  const all = characters(text);
  const [from, to] = bounds(all.length, start, end);
  const needle = characters(part);
  if (from > to || from > all.length) return -1;
  const within = all.slice(from, to).join("");
  const at = last ? within.lastIndexOf(part) : within.indexOf(part);
  if (at < 0 || needle.length > to - from) return -1;
  return from + lengthOf(within.slice(0, at));
}

export function count(text: string, part: string, start: number | undefined, end: number | undefined): number {
  const all = characters(text);
  const [from, to] = bounds(all.length, start, end);
  if (from > to || from > all.length) return 0;
  const within = all.slice(from, to);
  return part === "" ? within.length + 1 : within.join("").split(part).length - 1;
}

/** Start and end as Python reads them: negative ones from the end, none beyond the ends. */
export function bounds(length: number, start: number | undefined, end: number | undefined): [number, number] {
  const from = start === undefined ? 0 : start < 0 ? Math.max(0, start + length) : start;
  const to = end === undefined ? length : end < 0 ? Math.max(0, end + length) : Math.min(end, length);
  return [from, to];
}

export function partition(text: string, separator: string, fromRight: boolean): [string, string, string] {
  if (separator === "") throw new TemplateError("empty separator");
  const at = fromRight ? text.lastIndexOf(separator) : text.indexOf(separator);
  if (at < 0) return fromRight ? ["", "", text] : [text, "", ""];
  return [text.slice(0, at), separator, text.slice(at + separator.length)];
}

// -------------------------------------------------------------------------------------------------------------- cases

const CASED = /[\p{Uppercase}\p{Lowercase}\p{Lt}]/u;
/** Letters that are two in one have a third case, for the beginning of a word. */
const TITLE: Record<string, string> = { ŉ: "ʼN" };
for (const title of "ǅǈǋǲ") for (const each of [title, title.toLowerCase(), title.toUpperCase()]) TITLE[each] = title;

function titled(character: string): string {
  const known = TITLE[character];
  if (known !== undefined) return known;
  const code = character.codePointAt(0) ?? 0;
  if (code >= 0x10d0 && code <= 0x10ff) return character; // Georgian has capitals for whole words alone
  if (code >= 0x1f80 && code <= 0x1ffc) {
    if (/\p{Lt}/u.test(character)) return character;
    const capital = String.fromCodePoint(code + (code < 0x1fb0 ? 8 : 9));
    if (/\p{Lt}/u.test(capital) && capital.toLowerCase() === character) return capital;
  }
  const [first = "", ...rest] = Array.from(character.toUpperCase());
  return first + rest.join("").toLowerCase();
}

export function title(text: string): string {
  let previous = false;
  let result = "";
  const all = characters(text);
  for (const [i, character] of all.entries()) {
    result += !previous ? titled(character) : character === "Σ" ? lowerSigma(all, i) : character.toLowerCase();
    previous = CASED.test(character);
  }
  return result;
}

/** A sigma at the end of a word has another form. */
const lowerSigma = (all: readonly string[], i: number) =>
  `${all.slice(0, i).join("")}Σ${all.slice(i + 1).join("")}`.toLowerCase().charAt(all.slice(0, i).join("").toLowerCase().length);

export function capitalize(text: string): string {
  const [first = "", ...rest] = characters(text);
  return titled(first) + (rest.length > 0 ? `${first}${rest.join("")}`.toLowerCase().slice(first.toLowerCase().length) : "");
}

export function swapCase(text: string): string {
  const all = characters(text);
  return all
    .map((character, i) => {
      if (/\p{Uppercase}/u.test(character)) return character === "Σ" ? lowerSigma(all, i) : character.toLowerCase();
      return /\p{Lowercase}/u.test(character) ? character.toUpperCase() : character;
    })
    .join("");
}

/** Equal for texts that differ in case alone. */
export function caseFold(text: string): string {
  return characters(text)
    .map((character) => {
      if (character === "ı") return character;
      if (/[\u13a0-\u13f5\u{ab70}-\u{abbf}\u13f8-\u13fd]/u.test(character)) return character.toUpperCase(); // Cherokee
      return character.toUpperCase().toLowerCase().replace(/ς/g, "σ");
    })
    .join("");
}

const DIGIT =
  /^[\p{Nd}²³¹\u1369-\u1371\u19da\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490\u24ea\u24f5-\u24fd\u24ff\u2776-\u277e\u2780-\u2788\u278a-\u2792]+$/u;
const CJK_NUMBERS = "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬贰貮貳陆陌陸零仚";
const kinds = (pattern: RegExp) => (text: string) => pattern.test(text);

/** `isalpha` and its like; what they say of an empty text is no, but for two of them. */
export const IS: Record<string, (text: string) => boolean> = {
  isalpha: kinds(/^\p{L}+$/u),
  isdecimal: kinds(/^\p{Nd}+$/u),
  isdigit: kinds(DIGIT),
  isnumeric: (text) => text !== "" && Array.from(text).every((each) => /\p{N}/u.test(each) || CJK_NUMBERS.includes(each)),
  isalnum: (text) => text !== "" && Array.from(text).every((each) => /[\p{L}\p{N}]/u.test(each)),
  isspace: (text) => text !== "" && Array.from(text).every(isSpace),
  isascii: (text) => Array.from(text).every((each) => each < "\x80"),
  islower: (text) => /\p{Lowercase}/u.test(text) && !/[\p{Uppercase}\p{Lt}]/u.test(text),
  isupper: (text) => /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text),
  isidentifier: kinds(/^[\p{XID_Start}_]\p{XID_Continue}*$/u),
  istitle(text) {
    let [found, previous] = [false, false];
    for (const character of text) {
      const upper = /[\p{Uppercase}\p{Lt}]/u.test(character);
      const cased = upper || /\p{Lowercase}/u.test(character);
      if (cased && upper === previous) return false;
      found ||= upper;
      previous = cased;
    }
    return found;
  },
};

export function expandTabs(text: string, size: number): string {
  let [column, result] = [0, ""];
  for (const character of characters(text)) {
    if (character === "\t") {
      const width = size > 0 ? size - (column % size) : 0;
      result += repeat(" ", width);
      column += width;
    } else {
      result += character;
      column = character === "\n" || character === "\r" ? 0 : column + 1;
    }
  }
  return result;
}
