// The formats of texts that a JSON Schema may name, as regular expressions of whole texts.

import { RequestError } from "../../api/errors";

const DATE = "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))";
const TIME = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
const LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
/** Of RFC 3339, 5321, 1123, 2673, 4291, 3986 and 4122 the part that nobody doubts. */
const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  duration: "P(\\d{1,6}W|\\d{1,6}D(T\\d{1,6}H(\\d{1,6}M(\\d{1,6}S)?)?)?|T\\d{1,6}(H(\\d{1,6}M(\\d{1,6}S)?)?|M(\\d{1,6}S)?|S))",
  email: `[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@${LABEL}(\\.${LABEL})+`,
  hostname: `${LABEL}(\\.${LABEL}){0,3}`,
  ipv4: `${BYTE}(\\.${BYTE}){3}`,
  ipv6: "([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}",
  uri: "https?://[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)*(:[1-9]\\d{0,3})?(/[A-Za-z0-9._~-]+)*/?(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?",
  uuid: "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
};

/** @throws RequestError for a format that is not among them */
export function sourceOf(format: unknown): string {
  const source = typeof format === "string" && Object.hasOwn(FORMATS, format) ? FORMATS[format] : undefined;
  if (source !== undefined) return source;
  throw new RequestError({
    what: "The JSON Schema has a format that is not supported",
    got: JSON.stringify(format).slice(0, 100),
    remedy: `There are ${Object.keys(FORMATS).join(", ")}.`,
  });
}

/** What is written is of the narrow kind above; a text that is given may be of more. */
const GIVEN: Readonly<Record<string, (text: string) => boolean>> = {
  date: isLeapDay,
  "date-time": isLeapDay,
  ipv6: (text) => /^[0-9a-fA-F:.]+$/.test(text) && text.includes(":") && parses(`http://[${text}]/`),
  uri: (text) => /^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$/.test(text) && parses(text),
};

export function isOfFormat(text: string, format: unknown): boolean {
  const source = new RegExp(`^(?:${sourceOf(format)})$`, "u");
  const given = GIVEN[String(format)];
  return source.test(text) || (given?.(text) === true && (!/^date/.test(String(format)) || source.test(text.replace("-02-29", "-02-28"))));
}

function isLeapDay(text: string): boolean {
  const year = Number(/^(\d{4})-02-29/.exec(text)?.[1] ?? NaN);
  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
}

function parses(address: string): boolean {
  try {
    return new URL(address).href !== "";
  } catch {
    return false;
  }
}
