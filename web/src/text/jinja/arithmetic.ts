// Python's operators. Values in, a value out.

import { spendItems, spendText, TemplateError } from "./budget";
import { formatPercent } from "./format";
import { repeat } from "./text";
import { asNumber, isNumber, Markup, textOf, Tuple, typeName, Undefined, type Value } from "./values";

export type Operator = "Add" | "Sub" | "Mul" | "Div" | "FloorDiv" | "Mod" | "Pow";

const SIGNS: Record<Operator, string> = { Add: "+", Sub: "-", Mul: "*", Div: "/", FloorDiv: "//", Mod: "%", Pow: "**" };
const MOST_BITS = 1 << 20; // of an int

export function operate(operator: Operator, left: Value, right: Value): Value {
  if (operator === "Mod" && textOf(left) !== undefined) {
    const text = formatPercent(textOf(left) ?? "", right);
    return left instanceof Markup ? new Markup(text) : text;
  }
  if (left instanceof Undefined) left.fail();
  if (right instanceof Undefined) right.fail();
  if (isNumber(left) && isNumber(right)) return numbers(operator, asNumber(left), asNumber(right));
  const found = operator === "Add" ? added(left, right) : operator === "Mul" ? repeated(left, right) : undefined;
  if (found !== undefined) return found;
  throw new TemplateError(`unsupported operand type(s) for ${SIGNS[operator]}: '${typeName(left)}' and '${typeName(right)}'`);
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;" })[character] ?? "");
}

function added(left: Value, right: Value): Value | undefined {
  const [first, second] = [textOf(left), textOf(right)];
  if (first !== undefined && second !== undefined) {
    spendText(first.length + second.length);
    if (typeof left === "string" && typeof right === "string") return left + right;
    const safe = (value: Value, text: string) => (value instanceof Markup ? text : escapeHtml(text));
    return new Markup(safe(left, first) + safe(right, second));
  }
  if (Array.isArray(left) && Array.isArray(right)) {
    spendItems(left.length + right.length);
    return [...left, ...right];
  }
  if (left instanceof Tuple && right instanceof Tuple) return new Tuple([...left.items, ...right.items]);
  return undefined;
}

function repeated(left: Value, right: Value): Value | undefined {
  const [sequence, times] = isNumber(left) ? [right, left] : [left, right];
  if (!isNumber(times) || typeof times === "number") return undefined;
  const count = Math.min(Number(times), 2 ** 40);
  if (typeof sequence === "string") return repeat(sequence, count);
  if (sequence instanceof Markup) return new Markup(repeat(sequence.text, count));
  const items = Array.isArray(sequence) ? sequence : sequence instanceof Tuple ? sequence.items : undefined;
  if (items === undefined) return undefined;
  const all = items.length === 0 ? 0 : Math.max(0, count);
  spendItems(items.length * all);
  const list = Array.from({ length: all }, () => items).flat();
  return Array.isArray(sequence) ? list : new Tuple(list);
}

function numbers(operator: Operator, left: bigint | number, right: bigint | number): Value {
  if (typeof left === "bigint" && typeof right === "bigint") return integers(operator, left, right);
  return floats(operator, float(left), float(right));
}

function float(value: bigint | number): number {
  const number = Number(value);
  if (typeof value === "bigint" && !Number.isFinite(number)) throw new TemplateError("int too large to convert to float");
  return number;
}

const bits = (value: bigint) => value.toString(16).length * 4;

function integers(operator: Operator, left: bigint, right: bigint): Value {
  switch (operator) {
    case "Add":
      return left + right;
    case "Sub":
      return left - right;
    case "Mul":
      if (bits(left) + bits(right) > MOST_BITS) throw new TemplateError("an integer gets too large");
      return left * right;
    case "Div":
      return floats("Div", float(left), float(right));
    case "Pow":
      if (right < 0n) return floats("Pow", float(left), float(right));
      if (left * left > 1n && (right > BigInt(MOST_BITS) || bits(left) * Number(right) > MOST_BITS))
        throw new TemplateError("an integer gets too large");
      return left * left <= 1n ? (right === 0n ? 1n : left === -1n && right % 2n === 0n ? 1n : left) : left ** right;
    case "FloorDiv":
    case "Mod": {
      if (right === 0n) throw new TemplateError("integer division or modulo by zero");
      const rest = left % right;
      const below = rest !== 0n && rest < 0n !== right < 0n;
      if (operator === "Mod") return below ? rest + right : rest;
      return left / right - (below ? 1n : 0n);
    }
  }
}

function floats(operator: Operator, left: number, right: number): number {
  switch (operator) {
    case "Add":
      return left + right;
    case "Sub":
      return left - right;
    case "Mul":
      return left * right;
    case "Pow":
      return power(left, right);
    case "Div":
    case "FloorDiv":
    case "Mod": {
      if (right === 0) throw new TemplateError("division by zero");
      if (operator === "Div") return left / right;
      let rest = left % right;
      let quotient = (left - rest) / right;
      if (rest !== 0 && rest < 0 !== right < 0) {
        rest += right;
        quotient -= 1;
      }
      if (operator === "Mod") return rest === 0 ? (right < 0 ? -0 : 0) : rest;
      if (quotient === 0) return left / right < 0 ? -0 : 0;
      const floor = Math.floor(quotient);
      return quotient - floor > 0.5 ? floor + 1 : floor;
    }
  }
}

function power(left: number, right: number): number {
  if (left === 0 && right < 0) throw new TemplateError("0.0 cannot be raised to a negative power");
  if (left < 0 && Number.isFinite(left) && Number.isFinite(right) && !Number.isInteger(right))
    throw new TemplateError("a negative number to a fractional power is complex");
  if (left === 1 || (left === -1 && !Number.isFinite(right) && !Number.isNaN(right))) return 1;
  const result = left ** right;
  if (!Number.isFinite(result) && Number.isFinite(left) && Number.isFinite(right)) throw new TemplateError("Numerical result out of range");
  return result;
}

export function negate(operator: "Neg" | "Pos", value: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (!isNumber(value)) throw new TemplateError(`bad operand type for unary ${operator === "Neg" ? "-" : "+"}: '${typeName(value)}'`);
  const number = asNumber(value);
  return operator === "Pos" ? number : -number;
}
