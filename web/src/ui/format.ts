// Numbers as people read them, in the language of the page. Knows nothing else of it.

import { language } from "./language";

const formats = new Map<string, Intl.NumberFormat>();

/** With exactly this many digits after the point; none without. */
export function rounded(n: number, digits = 0): string {
  const key = `${language.value} ${digits}`;
  const made = formats.get(key) ?? new Intl.NumberFormat(language.value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  formats.set(key, made);
  return made.format(n);
}

export const count = (n: number): string => rounded(n);

/** Decimal units, as download sizes are given: 2.9 MB. */
export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = n;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${rounded(value, unit === 0 || value >= 99.5 ? 0 : 1)} ${units[unit] ?? ""}`;
}

/** Powers of two, as memory and GPU limits are given: 128 MiB. */
export function binaryBytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = n;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${rounded(value, Number.isInteger(value) ? 0 : 1)} ${units[unit] ?? ""}`;
}

/** 4.3, 1, 64, 135. */
function significant(n: number): string {
  const short = Number(n.toPrecision(n < 99.5 ? 2 : 3));
  return rounded(short, Number.isInteger(short) ? 0 : 1);
}

/** 4.3 M, 135 M, 1.2 B: how the field names model sizes. */
export function parameters(n: number): string {
  if (n >= 999_500_000) return `${significant(n / 1e9)} B`;
  if (n >= 999_500) return `${significant(n / 1e6)} M`;
  return count(n);
}

/** Tokens a second: 8.25, 34.2, 1,204. */
export function speed(perSecond: number): string {
  if (perSecond >= 99.95) return count(Math.round(perSecond));
  return rounded(perSecond, perSecond >= 9.995 ? 1 : 2);
}

/** A short time with its unit: 85 ms, 1.42 s. */
export function latency(seconds: number): string {
  return seconds < 0.9995 ? `${rounded(seconds * 1000)} ms` : `${rounded(seconds, 2)} s`;
}

/** An address of the web as people read it. */
export function address(url: string): string {
  return url.replace(/^https?:\/\//, "").replace(/\/$/, "");
}
