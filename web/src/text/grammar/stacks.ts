// Sets of stacks of states to return to, each set a number: the same set is the same number. All stacks of a set are one graph in
// which what they have in common stands once (a determinized graph-structured stack, after Tomita), so that a grammar which reads
// a text in exponentially many ways costs no more than the states it may be in.

import { RequestError } from "../../api/errors";

/** A set: whether the empty stack is in it, and by the state on top the set of what is below. */
interface Node {
  bottom: boolean;
  below: ReadonlyMap<number, number>;
}

/** What is the same as something else for texts of so many bytes. */
export interface Alike {
  to: number;
  within: number;
}

/** Not worth to be told: what is the same for fewer bytes. */
const LEAST_ALIKE = 4;

const MOST_NODES = 200_000;
/** Of all sets together, written since the beginning. */
const MOST_ENTRIES = 2_000_000;
/** Stacks that differ only so far below their tops are too many to join. */
const MOST_DEPTH = 2000;

export function tooAmbiguous(): never {
  throw new RequestError({
    what: "The grammar may read a text in too many ways",
    remedy: "Write its rules so that each text has one reading, such as a ::= b c* for a ::= b | b a2.",
  });
}

export class Stacks {
  private readonly nodes: Node[] = [];
  private readonly numbers = new Map<string, number>();
  private readonly joins = new Map<string, number>();
  private readonly movedNodes = new Map<number, Alike>();
  private entriesWritten = 0;
  /** The empty stack alone. */
  readonly bottom = this.number({ bottom: true, below: new Map() });

  /** A caller should begin anew, with a copy of what it needs. */
  get crowded(): boolean {
    return this.nodes.length > MOST_NODES || this.joins.size > MOST_NODES || this.entriesWritten > MOST_ENTRIES / 4;
  }

  isBottom(node: number): boolean {
    return this.of(node).bottom;
  }

  /** What is on top, and what is below it. */
  entries(node: number): Iterable<[state: number, below: number]> {
    return this.of(node).below;
  }

  push(state: number, node: number): number {
    return this.number({ bottom: false, below: new Map([[state, node]]) });
  }

  /** The stacks of all of `given`, each once. @throws RequestError where that is too much */
  join(given: Iterable<number>, depth = 0): number {
    const list = [...given].sort((a, b) => a - b);
    const [first] = list;
    if (first === undefined) throw new Error("a join of nothing");
    if (list.length === 1) return first;
    const key = list.join();
    const known = this.joins.get(key);
    if (known !== undefined) return known;
    if (depth > MOST_DEPTH || this.entriesWritten > MOST_ENTRIES) tooAmbiguous();
    const all = new Map<number, Set<number>>();
    for (const node of list)
      for (const [state, below] of this.of(node).below) {
        const found = all.get(state);
        if (found === undefined) all.set(state, new Set([below]));
        else found.add(below);
      }
    this.entriesWritten += list.length + all.size;
    const below = new Map(Array.from(all, ([state, nodes]) => [state, this.join(nodes, depth + 1)]));
    const joined = this.number({ bottom: list.some((node) => this.isBottom(node)), below });
    this.joins.set(key, joined);
    return joined;
  }

  /** The set with its states exchanged for those that they are like. */
  moved(node: number, alike: ReadonlyMap<number, Alike>): Alike {
    const known = this.movedNodes.get(node);
    if (known !== undefined) return known;
    const all = new Map<number, Set<number>>();
    let within = Infinity;
    for (const [state, below] of this.of(node).below) {
      const [own, rest] = [alike.get(state), this.moved(below, alike)];
      const taken = own !== undefined && own.within >= LEAST_ALIKE ? own : { to: state, within: Infinity };
      within = Math.min(within, taken.within, rest.within);
      all.set(taken.to, (all.get(taken.to) ?? new Set()).add(rest.to));
    }
    const to =
      within === Infinity
        ? node
        : this.number({ bottom: this.isBottom(node), below: new Map(Array.from(all, ([state, nodes]) => [state, this.join(nodes)])) });
    const found = { to, within };
    this.movedNodes.set(node, found);
    return found;
  }

  /** The sets `wanted` of others, as numbers here. */
  copied(from: Stacks, wanted: readonly number[]): number[] {
    const needed = new Set(wanted);
    for (const node of needed) for (const [, below] of from.entries(node)) needed.add(below);
    const moved = new Map<number, number>();
    // What is below a set was numbered before it.
    for (const node of [...needed].sort((a, b) => a - b)) {
      const below = [...from.entries(node)].map(([state, one]): [number, number] => [state, moved.get(one) ?? 0]);
      moved.set(node, this.number({ bottom: from.isBottom(node), below: new Map(below) }));
    }
    return wanted.map((node) => moved.get(node) ?? 0);
  }

  private of(node: number): Node {
    const found = this.nodes[node];
    if (found === undefined) throw new Error(`set of stacks ${node} does not exist`);
    return found;
  }

  private number(node: Node): number {
    const entries = Array.from(node.below, ([state, below]) => `${state}:${below}`);
    if (entries.length > 1) entries.sort();
    const key = (node.bottom ? "." : "") + entries.join();
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    const made = this.nodes.push(node) - 1;
    this.numbers.set(key, made);
    return made;
  }
}
