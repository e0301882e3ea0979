// Numbers as people read them. Knows nothing of the page.

import type { SourceValues } from "../api/types";

const whole = new Intl.NumberFormat("en");

export function count(n: number): string {
  return whole.format(n);
}

/** Decimal units, as download sizes are given: 2.9 MB. */
export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = n;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 99.5 ? value.toFixed(0) : value.toFixed(1)} ${units[unit] ?? ""}`;
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
  return `${Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1)} ${units[unit] ?? ""}`;
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
  return perSecond >= 9.995 ? perSecond.toFixed(1) : perSecond.toFixed(2);
}

/** A short time with its unit: 85 ms, 1.42 s. */
export function latency(seconds: number): string {
  return seconds < 0.9995 ? `${(seconds * 1000).toFixed(0)} ms` : `${seconds.toFixed(2)} s`;
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
