// Numbers as people read them, in the language of the page. Knows nothing else of it.

import type { SourceValues } from "../api/types";
import { language } from "./language";

const formats = new Map<string, Intl.NumberFormat>();

/** With exactly this many digits after the point; none without. */
function written(n: number, digits = 0): string {
  const key = `${language.value} ${digits}`;
  const made = formats.get(key) ?? new Intl.NumberFormat(language.value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  formats.set(key, made);
  return made.format(n);
}

export const count = (n: number): string => written(n);

/** Decimal units, as download sizes are given: 2.9 MB. */
export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = n;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${written(value, unit === 0 || value >= 99.5 ? 0 : 1)} ${units[unit] ?? ""}`;
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
  return `${written(value, Number.isInteger(value) ? 0 : 1)} ${units[unit] ?? ""}`;
}

/** 4.3 M, 135 M, 1.2 B: how the field names model sizes. */
export function parameters(n: number): string {
  if (n >= 999_500_000) return `${Number((n / 1e9).toPrecision(n < 99.5e9 ? 2 : 3))} B`;
  if (n >= 999_500) return `${Number((n / 1e6).toPrecision(n < 99.5e6 ? 2 : 3))} M`;
  return count(n);
}

export function duration(seconds: number): string {
  const rounded = Math.max(0, Math.ceil(seconds));
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${rounded % 60} s`;
  return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
}

/** Tokens a second: 8.25, 34.2, 1,204. */
export function speed(perSecond: number): string {
  if (perSecond >= 99.95) return count(Math.round(perSecond));
  return written(perSecond, perSecond >= 9.995 ? 1 : 2);
}

/** A short time with its unit: 85 ms, 1.42 s. */
export function latency(seconds: number): string {
  return seconds < 0.9995 ? `${written(seconds * 1000)} ms` : `${written(seconds, 2)} s`;
}

export function plural(n: number, one: string): string {
  return `${count(n)} ${n === 1 ? one : `${one}s`}`;
}

/** An address of the web as people read it. */
export function address(url: string): string {
  return url.replace(/^https?:\/\//, "").replace(/\/$/, "");
}

/** What weights are to those of a source that was quantized already; empty where it was not. */
export function values(source: SourceValues | undefined): string {
  if (source === undefined) return "";
  const { exact, rounded, requantized, squaredError } = source;
  const formats = Object.keys(source.formats).join(", ");
  if (requantized > 0) return `quantized again from ${formats}, squared error ${(100 * squaredError).toFixed(2)} %`;
  if (rounded > 0) return `those of the source (${formats}), ${exact > 0 ? "some " : ""}scales rounded to 16 bits`;
  return `exactly those of the source (${formats})`;
}
