// Figures in words: times, and what weights are to those of their source.

import type { SourceValues } from "../../api/types";
import { rounded } from "../format";
import { t } from "../texts";

export function duration(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  if (whole < 60) return t("time.seconds", { seconds: whole });
  if (whole < 3600) return t("time.minutes", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
  return t("time.hours", { hours: Math.floor(whole / 3600), minutes: Math.floor((whole % 3600) / 60) });
}

/** What weights are to those of a source that was quantized already; empty where it was not. */
export function values(source: SourceValues | undefined): string {
  if (source === undefined) return "";
  const { exact, rounded: changed, requantized, squaredError } = source;
  const formats = Object.keys(source.formats).join(", ");
  if (requantized > 0) return t("values.requantized", { formats, error: rounded(100 * squaredError, 2) });
  if (changed > 0) return t(exact > 0 ? "values.some-rounded" : "values.rounded", { formats });
  return t("values.exact", { formats });
}
