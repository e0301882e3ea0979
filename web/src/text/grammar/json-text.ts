// How JSON is written: strings, white space and numbers as expressions. Knows no schema.

import { automatonOf, type Automaton, intersect } from "./automaton";
import {
  ANY,
  characterClass,
  characters,
  choice,
  complement,
  EMPTY,
  type Expression,
  intersection,
  NEVER,
  optional,
  type Range,
  repeat,
  sequence,
  text,
} from "./expression";

const PLAIN = complement([[0, 0x1f], ...characters('"\\')]);
const SHORT: Record<number, string> = { 8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\" };
const HEX = characters("0123456789abcdefABCDEF");

/** One of these code points inside a JSON string, each in one spelling. */
export function spelled(parts: readonly Range[]): Expression {
  const plain = characterClass(intersection(parts, PLAIN));
  const others = intersection(parts, complement(PLAIN)).flatMap(([first, last]) =>
    Array.from({ length: last - first + 1 }, (_, i) => first + i),
  );
  const escapes = others.map((code) => {
    const short = SHORT[code];
    return text(short === undefined ? `\\u${code.toString(16).padStart(4, "0")}` : `\\${short}`);
  });
  return choice(plain, ...escapes);
}

/** Any code point inside a JSON string, with the spellings that JSON has for it, but none for half a character. */
export const CHARACTER: Expression = choice(
  characterClass(PLAIN),
  sequence(
    text("\\"),
    choice(
      characterClass(characters('"\\/bfnrt')),
      sequence(
        text("u"),
        choice(
          sequence(characterClass(intersection(HEX, complement(characters("dD")))), repeat(characterClass(HEX), 3, 3)),
          sequence(characterClass(characters("dD")), characterClass(characters("01234567")), repeat(characterClass(HEX), 2, 2)),
        ),
      ),
    ),
  ),
);

export const ANY_CHARACTER = ANY;
const DIGIT: Range = [0x30, 0x39];
const DIGITS = characterClass([DIGIT]);
/** Every integer of so many digits is exact as a number of JavaScript, and apart from its neighbours. */
const EXACT_DIGITS = 15;
const LARGEST = 10n ** BigInt(EXACT_DIGITS) - 1n;

/** Between brackets and members: nothing, a space, or a new line with its indentation. */
export const SPACE: Expression = optional(choice(text(" "), sequence(text("\n"), repeat(text(" "), 0, 16))));
export const AFTER_COLON: Expression = optional(text(" "));

export interface NumberBounds {
  /** Undefined: none. */
  least: number | undefined;
  most: number | undefined;
  /** The bound itself is not allowed. */
  aboveLeast: boolean;
  belowMost: boolean;
}

export function integers({ least, most, aboveLeast, belowMost }: NumberBounds): Expression {
  let low = least === undefined ? -LARGEST : bigint(Math.ceil(least), -LARGEST);
  let high = most === undefined ? LARGEST : bigint(Math.floor(most), LARGEST);
  if (aboveLeast && least !== undefined && Number(low) === least) low += 1n;
  if (belowMost && most !== undefined && Number(high) === most) high -= 1n;
  return integerRange(low, high);
}

/** Of a bound beyond the exact integers, the last of those. */
function bigint(value: number, otherwise: bigint): bigint {
  if (Math.abs(value) > Number(LARGEST)) return value > 0 === otherwise > 0n ? otherwise : value > 0 ? LARGEST + 1n : -LARGEST - 1n;
  return BigInt(value);
}

function integerRange(low: bigint, high: bigint): Expression {
  if (low > high) return NEVER;
  const parts: Expression[] = [];
  if (low < 0n) parts.push(sequence(text("-"), integerRange(high < 0n ? -high : 1n, -low)));
  if (high >= 0n) {
    const from = low > 0n ? low : 0n;
    for (let digits = String(from).length; digits <= String(high).length; digits++) {
      const smallest = digits === 1 ? 0n : 10n ** BigInt(digits - 1);
      const largest = 10n ** BigInt(digits) - 1n;
      parts.push(sameWidth(String(from > smallest ? from : smallest), String(high < largest ? high : largest)));
    }
  }
  return choice(...parts);
}

const digitRange = (first: number, last: number): Expression => characterClass(first > last ? [] : [[0x30 + first, 0x30 + last]]);

/** Digits from `low` to `high`, which are as long. */
function sameWidth(low: string, high: string): Expression {
  const rest = low.length - 1;
  if (low === "") return EMPTY;
  if (/^0*$/.test(low) && /^9*$/.test(high)) return repeat(DIGITS, low.length, low.length);
  const [a, b] = [Number(low[0]), Number(high[0])];
  if (a === b) return sequence(digitRange(a, a), sameWidth(low.slice(1), high.slice(1)));
  return choice(
    sequence(digitRange(a, a), sameWidth(low.slice(1), "9".repeat(rest))),
    sequence(digitRange(a + 1, b - 1), repeat(DIGITS, rest, rest)),
    sequence(digitRange(b, b), sameWidth("0".repeat(rest), high.slice(1))),
  );
}

const MOST_FRACTION = 12;

/** Numbers with decimals; with bounds none with exponents, and only as many digits as keep them apart from a bound. */
export function numbers(bounds: NumberBounds, exponents = true): Expression {
  const { least, most, aboveLeast, belowMost } = bounds;
  if (least === undefined && most === undefined) {
    const whole = choice(text("0"), sequence(digitRange(1, 9), repeat(DIGITS, 0, EXACT_DIGITS - 1)));
    const exponent = sequence(characterClass(characters("eE")), optional(characterClass(characters("+-"))), repeat(DIGITS, 1, 2));
    return sequence(
      optional(text("-")),
      whole,
      optional(sequence(text("."), repeat(DIGITS, 1, MOST_FRACTION))),
      exponents ? optional(exponent) : EMPTY,
    );
  }
  const low: Edge | undefined = least === undefined ? undefined : { ...decimal(Math.abs(least)), open: aboveLeast };
  const high: Edge | undefined = most === undefined ? undefined : { ...decimal(Math.abs(most)), open: belowMost };
  const parts: Expression[] = [];
  if (least === undefined || least < 0) {
    // What is below zero, without its sign: from |most|, or what is above 0, to |least|.
    const from: Edge = most !== undefined && most < 0 && high !== undefined ? high : { whole: "0", fraction: "", open: true };
    parts.push(sequence(text("-"), positives(from, low)));
  }
  if (most === undefined || most >= 0) {
    const from: Edge = least !== undefined && least >= 0 && low !== undefined ? low : { whole: "0", fraction: "", open: false };
    parts.push(positives(from, high));
  }
  return choice(...parts);
}

/** A bound as decimals; `open`: itself not in. */
interface Edge {
  whole: string;
  fraction: string;
  open: boolean;
}

/** A finite number that is not negative, without an exponent. */
function decimal(value: number): { whole: string; fraction: string } {
  const found = /^(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value));
  if (found === null) throw new Error(`${value} is no finite number`);
  const [, whole = "0", fraction = "", exponent = "0"] = found;
  const shift = Number(exponent);
  const digits = whole + fraction;
  const point = whole.length + shift;
  const padded = point < 1 ? "0".repeat(1 - point) + digits : digits.padEnd(point, "0");
  const at = Math.max(1, point);
  return { whole: padded.slice(0, at).replace(/^0+(?=\d)/, ""), fraction: padded.slice(at).replace(/0+$/, "") };
}

/** Numbers without a sign from one edge to another, or without an end. */
function positives(low: Edge, high: Edge | undefined): Expression {
  const longest = Math.max(low.whole.length, high?.whole.length ?? 0);
  const places = Math.max(low.fraction.length + 1, (high?.fraction.length ?? 0) + 1, Math.min(MOST_FRACTION, EXACT_DIGITS - longest));
  const from = BigInt(low.whole);
  const to = high === undefined ? LARGEST : BigInt(high.whole);
  if (from > to) return NEVER;
  const whole = (expression: Expression) => sequence(expression, optional(sequence(text("."), repeat(DIGITS, 1, places))));
  if (high !== undefined && from === to) return sequence(text(low.whole), fractions(low, high, places));
  const parts = [
    sequence(text(low.whole), fractions(low, undefined, places)),
    whole(integerRange(from + 1n, high === undefined ? to : to - 1n)),
  ];
  if (high !== undefined) parts.push(sequence(text(high.whole), fractions(undefined, high, places)));
  return choice(...parts);
}

/** What may stand behind a whole number, the point with it, so that the fraction is between those of the edges. */
function fractions(low: Edge | undefined, high: Edge | undefined, places: number): Expression {
  const least = (low?.fraction ?? "").padEnd(places, "0");
  const most = high === undefined ? "9".repeat(places) : high.fraction.padEnd(places, "0");
  let [from, to] = [BigInt(least), BigInt(most)];
  if (low?.open === true) from += 1n;
  if (high?.open === true) to -= 1n;
  if (from > to) return NEVER;
  const written = sequence(text("."), sameWidthShortened(String(from).padStart(places, "0"), String(to).padStart(places, "0")));
  return from === 0n ? choice(EMPTY, written) : written;
}

/** Digits from `low` to `high`, where zeros at the end may be left out, but not all digits. */
function sameWidthShortened(low: string, high: string): Expression {
  const rest = low.length - 1;
  const [a, b] = [Number(low[0]), Number(high[0])];
  const behind = (from: string, to: string): Expression => {
    if (rest === 0) return EMPTY;
    const more = sameWidthShortened(from, to);
    return /^0*$/.test(from) ? choice(EMPTY, more) : more;
  };
  const [none, all] = ["0".repeat(rest), "9".repeat(rest)];
  if (/^0*$/.test(low) && /^9*$/.test(high)) return repeat(DIGITS, 1, low.length);
  if (a === b) return sequence(digitRange(a, a), behind(low.slice(1), high.slice(1)));
  return choice(
    sequence(digitRange(a, a), behind(low.slice(1), all)),
    sequence(digitRange(a + 1, b - 1), repeat(DIGITS, 0, rest)),
    sequence(digitRange(b, b), behind(none, high.slice(1))),
  );
}

/** Of the numerals that `expression` writes, those of multiples of `factor`. */
export function multiples(expression: Expression, factor: number): Automaton {
  const bounds = [0, 0x2d, 0x2e, ...Array.from({ length: 11 }, (_, digit) => 0x30 + digit)];
  const row = (remainder: number): Int32Array => {
    const to = new Int32Array(bounds.length).fill(-1);
    for (let digit = 0; digit < 10; digit++) to[3 + digit] = 1 + ((10 * remainder + digit) % factor);
    return to;
  };
  const first = row(0);
  first[1] = 0;
  const next = [first, ...Array.from({ length: factor }, (_, remainder) => row(remainder))];
  return intersect(automatonOf(expression, false), { bounds, next, accepts: next.map((_, i) => i === 1) });
}

/** Of the numerals that `expression` writes, which have no exponents, those that are no integers: a digit behind the point is not 0. */
export function fractional(expression: Expression): Automaton {
  const wanted = sequence(
    optional(text("-")),
    repeat(DIGITS, 1, Infinity),
    text("."),
    repeat(DIGITS, 0, Infinity),
    digitRange(1, 9),
    repeat(DIGITS, 0, Infinity),
  );
  return intersect(automatonOf(expression, false), automatonOf(wanted, false));
}
