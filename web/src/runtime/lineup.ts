// What a program's alternatives differ in, kernel by kernel. Knows dispatch lists; times and runs nothing.

import { interchangeable } from "../artifact/choice";
import type { Dispatch } from "../artifact/schema";

/** A kernel's dispatches of a program. */
export interface Part {
  /** Of the program. */
  count: number;
  /** Those to be timed. */
  dispatches: readonly Dispatch[];
}

/** A kernel of the plan's own, and the kernels that alternatives have in each of its places. */
export interface Site {
  kernel: number;
  others: { name: string; kernel: number }[];
}

/** By numbers of kernels, which count those of alternatives behind the plan's own. */
export interface Lineup {
  /** The kernels that not everybody runs as often. */
  parts: Map<number, Part>;
  /** Those of them that the plan's own program runs. */
  owned: ReadonlySet<number>;
  sites: Site[];
  /** Alternatives that can be taken as a whole only. */
  wholes: { name: string; kernels: number[] }[];
}

/**
 * @param most dispatches of a kernel to be timed: the first ones of the program
 * @param others by names of alternatives
 */
export function lineUp(own: readonly Dispatch[], others: ReadonlyMap<string, readonly Dispatch[]>, most: number): Lineup {
  const everyone = [own, ...others.values()];
  const counts = everyone.map(countsOf);
  const parts: Lineup["parts"] = new Map();
  for (const [i, dispatches] of everyone.entries()) {
    for (const [kernel, count] of counts[i] ?? []) {
      if (counts.every((its) => its.get(kernel) === count) || parts.has(kernel)) continue;
      parts.set(kernel, { count, dispatches: dispatches.filter((dispatch) => dispatch.kernel === kernel).slice(0, most) });
    }
  }
  const sites = new Map<number, Site>();
  const wholes: Lineup["wholes"] = [];
  for (const [name, dispatches] of others) {
    const swaps = interchangeable(own, dispatches) ? swapsOf(own, dispatches) : undefined;
    if (swaps === undefined) {
      wholes.push({ name, kernels: [...countsOf(dispatches).keys()].filter((kernel) => parts.has(kernel)) });
      continue;
    }
    for (const [from, kernel] of swaps) {
      const site = sites.get(from) ?? { kernel: from, others: [] };
      site.others.push({ name, kernel });
      sites.set(from, site);
    }
  }
  const owned = new Set([...(counts[0]?.keys() ?? [])].filter((kernel) => parts.has(kernel)));
  return { parts, owned, sites: [...sites.values()], wholes };
}

function countsOf(dispatches: readonly Dispatch[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const { kernel } of dispatches) counts.set(kernel, (counts.get(kernel) ?? 0) + 1);
  return counts;
}

/** Of each own kernel the one that stands in all of its places; undefined where it is not one. */
function swapsOf(own: readonly Dispatch[], other: readonly Dispatch[]): Map<number, number> | undefined {
  const swaps = new Map<number, number>();
  for (const [i, { kernel }] of own.entries()) {
    const its = other[i]?.kernel ?? kernel;
    if ((swaps.get(kernel) ?? its) !== its) return undefined;
    swaps.set(kernel, its);
  }
  for (const [from, to] of swaps) if (from === to) swaps.delete(from);
  return swaps;
}
