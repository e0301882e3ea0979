// Python's two ways to write values into a text: `'%s' % value` and `'{}'.format(value)`. Knows the values and their types.

import { spendText, TemplateError } from "./budget";
import { fixed, floatRepr, truncated, withTwoDigits } from "./numbers";
import { pad, repeat } from "./text";
import { asNumber, characters, Dict, isNumber, lengthOf, type Named, repr, str, textOf, Tuple, typeName, type Value } from "./values";

const MOST_PLACES = 1000; // beyond these a float has only zeros

/** repr() with everything beyond ASCII escaped. */
export function ascii(value: Value): string {
  return repr(value).replace(/[^\0-\x7f]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    const [letter, digits] = code < 0x100 ? (["x", 2] as const) : code < 0x10000 ? (["u", 4] as const) : (["U", 8] as const);
    return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
}

/** A float in the manner of e, f, g or %, without its sign. */
function digitsOf(value: number, kind: string, places: number, alternate: boolean): string {
  const size = Math.abs(value);
  if (Number.isNaN(value)) return "nan";
  if (size === Infinity) return "inf";
  if (places > MOST_PLACES) throw new TemplateError("precision too large");
  if (kind === "%") return `${fixed(size * 100, places)}%`;
  if (kind === "f") return fixed(size, places) + (alternate && places === 0 ? "." : "");
  if (kind === "e") return withTwoDigits(size.toExponential(Math.min(places, 100)));
  const wanted = Math.max(places, 1);
  const exponent = size === 0 ? 0 : Number(size.toExponential(Math.min(wanted - 1, 100)).split("e")[1]);
  const plain = exponent >= -4 && exponent < wanted;
  const text = plain ? fixed(size, Math.max(0, wanted - 1 - exponent)) : withTwoDigits(size.toExponential(Math.min(wanted - 1, 100)));
  return alternate ? text : text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
}

const RADIX: Record<string, [number, string]> = { x: [16, "0x"], o: [8, "0o"], b: [2, "0b"] };

function integerOf(value: Value, kind: string): bigint {
  if (!isNumber(value)) throw new TemplateError(`%${kind} format: a number is required, not ${typeName(value)}`);
  const number = asNumber(value);
  if (typeof number === "bigint") return number;
  if (kind !== "d") throw new TemplateError(`%${kind} format: an integer is required, not float`);
  return truncated(number);
}

const PERCENT = /%(?:\(((?:[^()]|\([^()]*\))*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d*))?[hlL]?(.)?/gsu;

/** `pattern % values`. */
export function formatPercent(pattern: string, values: Value): string {
  const list = values instanceof Tuple ? values.items : [values];
  const mapping = values instanceof Dict ? values : undefined;
  let next = 0;
  const take = (): Value => {
    const value = list[next++];
    if (value === undefined) throw new TemplateError("not enough arguments for format string");
    return value;
  };
  const number = (text: string | undefined): number | undefined => {
    if (text === undefined) return undefined;
    return text === "*" ? Number(integerOf(take(), "d")) : Number(text);
  };
  const text = pattern.replace(PERCENT, (...match: (string | undefined)[]) => {
    const [, key, flags = "", width, precision, kind = ""] = match;
    const [least, places] = [number(width) ?? 0, number(precision)];
    if (kind === "%") return "%";
    if (key !== undefined) {
      if (mapping === undefined) throw new TemplateError("format requires a mapping");
    }
    const value = key === undefined ? take() : mapping?.get(key);
    if (value === undefined) throw new TemplateError(`KeyError: '${key}'`);
    return padded(percentValue(value, kind, flags, places), Math.abs(least), flags + (least < 0 ? "-" : ""), kind);
  });
  if (mapping === undefined && next < list.length) throw new TemplateError("not all arguments converted during string formatting");
  spendText(text.length);
  return text;
}

/** The sign apart, for zeros come between it and the digits. */
function percentValue(value: Value, kind: string, flags: string, places: number | undefined): [string, string] {
  const cut = (text: string) => (places === undefined ? text : characters(text).slice(0, places).join(""));
  const signed = (negative: boolean) => (negative ? "-" : flags.includes("+") ? "+" : flags.includes(" ") ? " " : "");
  const low = kind.toLowerCase();
  if (kind === "s") return ["", cut(str(value))];
  if (kind === "r") return ["", cut(repr(value))];
  if (kind === "a") return ["", cut(ascii(value))];
  if (kind === "c") {
    const text = textOf(value);
    const character = text ?? String.fromCodePoint(Number(integerOf(value, "c")));
    if (lengthOf(character) !== 1) throw new TemplateError("%c requires int or char");
    return ["", character];
  }
  if (kind === "d" || kind === "i" || kind === "u" || low === "x" || low === "o") {
    const whole = integerOf(value, low === "x" || low === "o" ? low : "d");
    const [radix, prefix] = RADIX[low] ?? [10, ""];
    const size = (whole < 0n ? -whole : whole).toString(radix).padStart(places ?? 0, "0");
    const text = flags.includes("#") ? prefix : "";
    const all = [signed(whole < 0n) + text, size] as [string, string];
    return kind === "X" ? [all[0].toUpperCase(), all[1].toUpperCase()] : all;
  }
  if (!["e", "f", "g"].includes(low)) throw new TemplateError(`unsupported format character '${kind}'`);
  const float = isNumber(value) ? Number(value) : undefined;
  if (float === undefined) throw new TemplateError(`must be real number, not ${typeName(value)}`);
  const digits = digitsOf(float, low, places ?? 6, flags.includes("#"));
  const negative = float < 0 || Object.is(float, -0);
  return [signed(negative), kind === low ? digits : digits.toUpperCase()];
}

function padded([sign, digits]: [string, string], width: number, flags: string, kind: string): string {
  const text = sign + digits;
  if (flags.includes("-")) return pad(text, width, 0);
  const zeros = flags.includes("0") && !["s", "r", "a", "c"].includes(kind) && !/^(?:inf|nan)$/i.test(digits);
  return zeros ? sign + pad(digits, width - sign.length, "all", "0") : pad(text, width, "all");
}

const SPEC = /^(?:(.)?([<>=^]))?([-+ ])?(z)?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/su;

/** `format(value, spec)`. */
export function formatValue(value: Value, spec: string): string {
  if (spec === "") return str(value);
  const match = SPEC.exec(spec);
  if (match === null) throw new TemplateError(`Invalid format specifier '${spec}'`);
  const [, fill, align, sign, , alternate, zero, width, grouping, precision, kind] = match;
  const text = textOf(value);
  const places = precision === undefined ? undefined : Number(precision);
  const least = Number(width ?? 0);
  if (text !== undefined) {
    if ((kind !== undefined && kind !== "s") || sign !== undefined || align === "=" || alternate !== undefined || grouping !== undefined)
      throw new TemplateError(`Unknown format code '${kind ?? spec}' for object of type 'str'`);
    const cut = places === undefined ? text : characters(text).slice(0, places).join("");
    return aligned("", cut, least, align ?? "<", fill ?? (zero === undefined ? " " : "0"));
  }
  if (!isNumber(value)) throw new TemplateError(`unsupported format string passed to ${typeName(value)}.__format__`);
  if (typeof value === "boolean" && kind === undefined) return aligned("", str(value), least, align ?? "<", fill ?? " ");
  const [negative, prefix, digits] = numberDigits(asNumber(value), kind, places, alternate !== undefined, spec);
  const signed = negative ? "-" : sign === "+" || sign === " " ? sign : "";
  const grouped = grouping === undefined ? digits : group(digits, grouping, RADIX[kind?.toLowerCase() ?? ""] === undefined ? 3 : 4);
  const zeros = zero !== undefined && align === undefined;
  return aligned(signed + prefix, grouped, least, zeros ? "=" : (align ?? ">"), fill ?? (zeros ? "0" : " "));
}

function numberDigits(
  value: bigint | number,
  kind: string | undefined,
  places: number | undefined,
  alternate: boolean,
  spec: string,
): [boolean, string, string] {
  const low = kind?.toLowerCase() ?? "";
  const unknown = () => new TemplateError(`Invalid format specifier '${spec}' for object of type '${typeName(value)}'`);
  if (typeof value === "bigint" && ["", "d", "n", "x", "o", "b", "c"].includes(low)) {
    if (places !== undefined) throw new TemplateError("Precision not allowed in integer format specifier");
    if (low === "c") return [false, "", String.fromCodePoint(Number(value))];
    const [radix, prefix] = RADIX[low] ?? [10, ""];
    const digits = (value < 0n ? -value : value).toString(radix);
    const named = alternate ? prefix : "";
    return [value < 0n, kind === "X" ? named.toUpperCase() : named, kind === "X" ? digits.toUpperCase() : digits];
  }
  if (!["", "e", "f", "g", "n", "%"].includes(low)) throw unknown();
  const float = Number(value);
  const negative = float < 0 || Object.is(float, -0);
  if (low === "" && places === undefined) return [negative, "", floatRepr(Math.abs(float))];
  const digits = low === "" ? general(float, places ?? 6) : digitsOf(float, low === "n" ? "g" : low, places ?? 6, alternate);
  return [negative, "", kind !== undefined && kind !== low ? digits.toUpperCase() : digits];
}

/** Without a type: as g, but with a digit after the point, and an exponent one place earlier. */
function general(value: number, places: number): string {
  const wanted = Math.max(places, 1);
  const exponent =
    value === 0
      ? 0
      : Number(
          Math.abs(value)
            .toExponential(Math.min(wanted - 1, 100))
            .split("e")[1],
        );
  if (exponent === wanted - 1 && Number.isFinite(value))
    return withTwoDigits(
      Math.abs(value)
        .toExponential(Math.min(wanted - 1, 100))
        .replace(/(\.\d*?)0+(?=e)/, "$1")
        .replace(/\.(?=e)/, ""),
    );
  const text = digitsOf(value, "g", places, false);
  return /[.en]/.test(text) ? text : `${text}.0`;
}

function group(digits: string, separator: string, size: number): string {
  const [, whole = "", rest = ""] = /^([0-9a-fA-F]*)(.*)$/s.exec(digits) ?? [];
  return whole.replace(new RegExp(`\\B(?=(?:[0-9a-fA-F]{${size}})+$)`, "g"), separator) + rest;
}

function aligned(sign: string, digits: string, width: number, align: string, fill: string): string {
  const missing = width - lengthOf(sign + digits);
  if (missing <= 0) return sign + digits;
  if (align === "=") return sign + repeat(fill, missing) + digits;
  const before = align === ">" ? missing : align === "^" ? Math.floor(missing / 2) : 0;
  return repeat(fill, before) + sign + digits + repeat(fill, missing - before);
}

/** How a field of `{a.b[c]}` goes on from a value. */
export interface Access {
  attribute(value: Value, name: string): Value;
  item(value: Value, key: Value): Value;
}

/** `pattern.format(*args, **named)`. */
export function formatBraces(pattern: string, args: readonly Value[], named: Named, access: Access): string {
  let automatic = 0;
  const field = (name: string): Value => {
    const [, first = "", rest = ""] = /^([^.[]*)(.*)$/s.exec(name) ?? [];
    if (first === "" ? automatic < 0 : /^\d+$/.test(first) && automatic > 0)
      throw new TemplateError("cannot switch between automatic field numbering and manual field specification");
    if (/^\d+$/.test(first)) automatic = -1;
    let value = first === "" ? args[automatic++] : /^\d+$/.test(first) ? args[Number(first)] : named.get(first);
    if (value === undefined) throw new TemplateError(`Replacement field '${name}' is not among the arguments`);
    const parts = rest.match(/\.[^.[]+|\[[^\]]+\]/g) ?? [];
    if (parts.join("") !== rest) throw new TemplateError("Empty attribute in format string");
    for (const part of parts) {
      const key = part.replace(/^[.[]|\]$/g, "");
      if (part.startsWith(".")) value = access.attribute(value, key);
      else value = access.item(value, /^\d+$/.test(key) ? BigInt(key) : key);
    }
    return value;
  };
  const fill = (text: string, depth: number): string => {
    if (depth > 2) throw new TemplateError("Max string recursion exceeded");
    let result = "";
    for (let i = 0; i < text.length;) {
      const character = text[i] ?? "";
      if ((character === "{" || character === "}") && text[i + 1] === character && depth === 1) {
        result += character;
        i += 2;
      } else if (character === "}") throw new TemplateError("Single '}' encountered in format string");
      else if (character !== "{") {
        result += character;
        i += 1;
      } else {
        const end = closing(text, i);
        result += replacement(text.slice(i + 1, end), depth);
        i = end + 1;
      }
    }
    spendText(result.length);
    return result;
  };
  const replacement = (inner: string, depth: number): string => {
    const [, name = "", conversion, spec = ""] = /^((?:\[[^\]]*\]|[^!:[])*)(?:!(.))?(?::(.*))?$/s.exec(inner) ?? [];
    if (!inner.startsWith(name) || (name === "" && inner !== "" && !/^[!:]/.test(inner)))
      throw new TemplateError(`bad replacement field '${inner}'`);
    let value = field(name);
    if (conversion === "r") value = repr(value);
    else if (conversion === "s") value = str(value);
    else if (conversion === "a") value = ascii(value);
    else if (conversion !== undefined) throw new TemplateError(`Unknown conversion specifier '${conversion}'`);
    return formatValue(value, spec.includes("{") ? fill(spec, depth + 1) : spec);
  };
  return fill(pattern, 1);
}

function closing(text: string, start: number): number {
  let open = 0;
  for (let i = start; i < text.length; i++) {
    if (text[i] === "{") open += 1;
    if (text[i] === "}") open -= 1;
    if (open === 0) return i;
  }
  throw new TemplateError("expected '}' before end of string");
}
