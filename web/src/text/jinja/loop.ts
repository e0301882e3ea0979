// The variable `loop` within a loop. Knows the items and which one it is at.

import { bind } from "./arguments";
import { TemplateError } from "./budget";
import { Callable, equal, or, PyObject, Tuple, Undefined, type Named, type Value } from "./values";

export class Loop extends PyObject {
  readonly type = "LoopContext";
  private index0 = -1;
  private last: Value | undefined;

  /** @param recurse what `loop(items)` does, in a loop that is marked `recursive` */
  constructor(
    private readonly items: readonly Value[],
    private readonly depth0: number,
    private readonly recurse: ((items: Value) => string) | undefined,
  ) {
    super();
  }

  *[Symbol.iterator](): Generator<Value> {
    for (const item of this.items) {
      this.index0 += 1;
      yield item;
    }
  }

  override size = () => this.items.length;
  override repr = () => `<LoopContext ${this.index0 + 1}/${this.items.length}>`;

  override attribute(name: string): Value | undefined {
    const { index0, items, depth0 } = this;
    const left = items.length - index0;
    switch (name) {
      case "index":
        return BigInt(index0 + 1);
      case "index0":
        return BigInt(index0);
      case "revindex":
        return BigInt(left);
      case "revindex0":
        return BigInt(left - 1);
      case "first":
        return index0 === 0;
      case "last":
        return left === 1;
      case "length":
        return BigInt(items.length);
      case "depth":
        return BigInt(depth0 + 1);
      case "depth0":
        return BigInt(depth0);
      case "previtem":
        return or(items[index0 - 1], () => new Undefined("there is no previous item"));
      case "nextitem":
        return or(items[index0 + 1], () => new Undefined("there is no next item"));
      case "cycle":
        return new Callable(name, (args) => {
          const found = args[index0 % args.length];
          if (found === undefined) throw new TemplateError("no items for cycling given");
          return found;
        });
      case "changed":
        return new Callable(name, (args) => {
          const now = new Tuple(args);
          const changed = this.last === undefined || !equal(this.last, now);
          this.last = now;
          return changed;
        });
      default:
        return undefined;
    }
  }

  again(args: readonly Value[], named: Named): string {
    const [items] = bind("loop", "iterable", args, named);
    if (this.recurse === undefined) throw new TemplateError("The loop must have the 'recursive' marker to be called recursively.");
    return this.recurse(items ?? null);
  }
}
