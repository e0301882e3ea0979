// The functions that a chat template finds: Jinja2's own and those of transformers.

import { bind, textArgument } from "./arguments";
import { makeDict } from "./attributes";
import { TemplateError } from "./budget";
import { strftime } from "./strftime";
import { Callable, Dict, isNumber, listOf, Namespace, or, Range, str, typeName, type Named, type Value } from "./values";

const MOST_IN_A_RANGE = 100_000; // Jinja2's sandbox has no larger ones

function range(args: readonly Value[], named: Named): Range {
  const [first, second, step] = bind("range", "start stop? step? /", args, named);
  const whole = (value: Value): bigint => {
    if (!isNumber(value) || typeof value === "number")
      throw new TemplateError(`'${typeName(value)}' object cannot be interpreted as an integer`);
    return BigInt(value);
  };
  const stride = step === undefined ? 1n : whole(step);
  if (stride === 0n) throw new TemplateError("range() arg 3 must not be zero");
  const made = second === undefined ? new Range(0n, whole(first ?? null), 1n) : new Range(whole(first ?? null), whole(second), stride);
  if (made.length > MOST_IN_A_RANGE) throw new TemplateError(`Range too big. The sandbox blocks ranges larger than ${MOST_IN_A_RANGE}.`);
  return made;
}

function namespace(args: readonly Value[], named: Named): Namespace {
  const attributes = makeDict("dict", args, named);
  const hidden = attributes.keys().find((key) => typeof key === "string" && key.startsWith("_"));
  if (hidden !== undefined) throw new TemplateError("Chat templates cannot store underscore-prefixed attributes on a namespace");
  return new Namespace(attributes);
}

function cycler(items: readonly Value[]): Callable {
  if (items.length === 0) throw new TemplateError("at least one item has to be provided");
  let at = 0;
  const next = () => {
    const value = items[at] ?? null;
    at = (at + 1) % items.length;
    return value;
  };
  const attributes = {
    current: () => items[at] ?? null,
    pos: () => BigInt(at),
    next: new Callable("next", next),
    reset: new Callable("reset", () => {
      at = 0;
      return null;
    }),
  };
  const refuse = () => {
    throw new TemplateError("'Cycler' object is not callable");
  };
  return new Callable("cycler", refuse, attributes, "Cycler");
}

function joiner(args: readonly Value[], named: Named): Callable {
  const [separator] = bind("joiner", "sep?", args, named);
  let used = false;
  return new Callable(
    "joiner",
    () => {
      const text = used ? or(separator, () => ", ") : "";
      used = true;
      return text;
    },
    {},
    "Joiner",
  );
}

/** @param now what `strftime_now` says, in the visitor's time */
export function templateGlobals(now: Date): Record<string, Value> {
  return {
    range: new Callable("range", range),
    dict: new Callable("dict", (args, named) => makeDict("dict", args, named), {
      fromkeys: new Callable("fromkeys", (args, named) => {
        const [keys, value] = bind("fromkeys", "iterable value? /", args, named);
        return new Dict(listOf(keys ?? null).map((key) => [key, value ?? null] as const));
      }),
    }),
    namespace: new Callable("namespace", namespace),
    cycler: new Callable("cycler", cycler),
    joiner: new Callable("joiner", joiner),
    lipsum: new Callable("lipsum", () => {
      throw new TemplateError("lipsum() writes a random text");
    }),
    raise_exception: new Callable("raise_exception", (args, named) => {
      const [message] = bind("raise_exception", "message", args, named);
      throw new TemplateError(str(message ?? null));
    }),
    strftime_now: new Callable("strftime_now", (args, named) => {
      const [format] = bind("strftime_now", "format", args, named);
      return strftime(now, textArgument(format));
    }),
  };
}
