// Python's numbers: an int is a bigint, a float a number. Knows how they are read and written; no other value.

import { TemplateError } from "./budget";

/** `repr` of a float: the fewest digits that say it, as JavaScript's, with an exponent from 1e16 on and below 1e-4. */
export function floatRepr(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const size = Math.abs(value);
  if (size >= 1e16 || size < 1e-4) return withTwoDigits(value.toExponential());
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** Python writes at least two digits of an exponent. */
export function withTwoDigits(text: string): string {
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}

/** A finite float as numerator / 2 ** shift. */
function fraction(value: number): { numerator: bigint; shift: bigint } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const bits = view.getBigUint64(0);
  const exponent = Number((bits >> 52n) & 0x7ffn);
  const mantissa = (bits & ((1n << 52n) - 1n)) | (exponent === 0 ? 0n : 1n << 52n);
  const shift = 1075 - Math.max(exponent, 1);
  const numerator = value < 0 ? -mantissa : mantissa;
  return shift >= 0 ? { numerator, shift: BigInt(shift) } : { numerator: numerator << BigInt(-shift), shift: 0n };
}

/** numerator / denominator to the nearest integer, halves to the even one. */
function nearest(numerator: bigint, denominator: bigint): bigint {
  const size = numerator < 0n ? -numerator : numerator;
  let quotient = size / denominator;
  const twice = (size % denominator) * 2n;
  if (twice > denominator || (twice === denominator && quotient % 2n === 1n)) quotient += 1n;
  return numerator < 0n ? -quotient : quotient;
}

/** `'%.*f'`: exact, halves to the even digit, where toFixed rounds them up. */
export function fixed(value: number, places: number): string {
  const { numerator, shift } = fraction(value);
  const scaled = nearest(numerator * 10n ** BigInt(places), 1n << shift);
  const digits = (scaled < 0n ? -scaled : scaled).toString().padStart(places + 1, "0");
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  return places === 0 ? sign + digits : `${sign}${digits.slice(0, -places)}.${digits.slice(-places)}`;
}

/** `round(value, places)`. */
export function rounded(value: bigint | number, places: number): bigint | number {
  if (typeof value === "bigint") {
    if (places >= 0) return value;
    const unit = 10n ** BigInt(-places);
    return nearest(value, unit) * unit;
  }
  if (!Number.isFinite(value) || places > 340) return value;
  if (places >= 0) return Number(fixed(value, places));
  if (places < -400) return value < 0 ? -0 : 0;
  const { numerator, shift } = fraction(value);
  const unit = 10n ** BigInt(-places);
  return Number(nearest(numerator, (1n << shift) * unit) * unit);
}

const SPACE =
  /^[\t-\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+|[\t-\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/g; // eslint-disable-line no-control-regex -- Python's white space

/** The decimal digits of every script are digits to Python. */
function asciiDigits(text: string): string {
  return text.replace(/\p{Nd}/gu, (digit) => {
    if (digit <= "9") return digit;
    let zero = digit.codePointAt(0) ?? 0;
    const code = zero;
    while (/^\p{Nd}$/u.test(String.fromCodePoint(zero - 1)) && code - zero < 9) zero -= 1;
    return String(code - zero);
  });
}

/** `int(text, base)`; undefined where Python raises ValueError. */
export function parseInteger(text: string, base = 10): bigint | undefined {
  if (base !== 0 && (base < 2 || base > 36)) return undefined;
  const match = /^([+-]?)(0[xX]_?|0[oO]_?|0[bB]_?)?([0-9a-zA-Z]+(?:_[0-9a-zA-Z]+)*)$/.exec(asciiDigits(text.replace(SPACE, "")));
  if (match === null) return undefined;
  const [, sign = "", prefix = "", digits = ""] = match;
  const named = { x: 16, o: 8, b: 2 }[prefix.charAt(1).toLowerCase()];
  let body = digits.replace(/_/g, "");
  let used = base;
  if (prefix !== "" && (base === 0 || base === named)) used = named ?? 10;
  else {
    body = prefix.replace("_", "") + body;
    if (prefix.endsWith("_") || (base === 0 && /^0+[1-9]/.test(body))) return undefined;
    if (base === 0) used = 10;
  }
  let value = 0n;
  for (const character of body.toLowerCase()) {
    const digit = parseInt(character, 36);
    if (digit >= used) return undefined;
    value = value * BigInt(used) + BigInt(digit);
  }
  return sign === "-" ? -value : value;
}

/** `float(text)`; undefined where Python raises ValueError. */
export function parseFloating(text: string): number | undefined {
  const plain = asciiDigits(text.replace(SPACE, ""));
  const named = /^([+-]?)(inf|infinity|nan)$/i.exec(plain);
  if (named !== null) {
    if (named[2]?.toLowerCase() === "nan") return NaN;
    return named[1] === "-" ? -Infinity : Infinity;
  }
  if (!/^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:[eE][+-]?\d+(?:_\d+)*)?$/.test(plain)) return undefined;
  return Number(plain.replace(/_/g, ""));
}

/** `int(value)` of a float. */
export function truncated(value: number): bigint {
  if (!Number.isFinite(value)) throw new TemplateError("cannot convert float infinity or NaN to integer");
  return BigInt(Math.trunc(value));
}
