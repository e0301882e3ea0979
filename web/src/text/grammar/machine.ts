// A grammar as a machine over bytes: in which state a text leaves it, which bytes may follow. Knows no tokens.
//
// A rule becomes states with edges: for bytes, for nothing, and for whole rules, which are called and returned from. Where a
// text may be, at any time, is a set of places: a state, and what to return to, a linked list whose nodes are shared. Such sets
// are numbered when they first occur and their transitions kept, so that a text walks from number to number.

import { RequestError } from "../../api/errors";
import { codeOf, type Expression, type Grammar, inUtf8, type Range, ROOT } from "./expression";

interface State {
  bytes: { low: number; high: number; to: number }[];
  free: number[];
  calls: { rule: string; to: number }[];
  /** Ends its rule. */
  ends: boolean;
  /** From here on the rule only ends: who calls another rule last need not return here. */
  onlyEnds: boolean;
}

/** A place: a state, and the node to return to, 0 for none. */
interface Place {
  state: number;
  node: number;
}

const MOST_STATES = 400_000;
/** Repetitions beyond it are calls of a rule, a state each. */
const FEW = 3;
const UNKNOWN = -2;
export const DEAD = -1;
/** Numbered sets that are kept. */
const MOST_SETS = 30_000;

class Network {
  readonly states: State[] = [];
  readonly starts = new Map<string, number>();
  private readonly extra = new Map<string, Expression>();

  constructor(grammar: Grammar) {
    for (const [name, body] of grammar) this.add(name, body);
    for (const [name, body] of this.extra) this.add(name, body);
    this.markEnds();
    this.refuseLeftRecursion();
  }

  private add(name: string, body: Expression): void {
    const start = this.state();
    this.starts.set(name, start);
    const end = this.build(body, start);
    this.of(end).ends = true;
  }

  of(state: number): State {
    const found = this.states[state];
    if (found === undefined) throw new Error(`state ${state} does not exist`);
    return found;
  }

  startOf(rule: string): number {
    const start = this.starts.get(rule);
    if (start === undefined) throw new Error(`a grammar without its rule ${rule}`);
    return start;
  }

  private state(): number {
    if (this.states.length >= MOST_STATES)
      throw new RequestError({
        what: "The grammar is too large",
        expected: `at most ${MOST_STATES} states`,
        remedy: "Shorten lengths and repetitions.",
      });
    return this.states.push({ bytes: [], free: [], calls: [], ends: false, onlyEnds: false }) - 1;
  }

  /** The state behind `expression`, begun in `from`. */
  private build(expression: Expression, from: number): number {
    switch (expression.type) {
      case "text":
        return Array.from(expression.text).reduce(
          (at, character) => this.build({ type: "class", ranges: [[codeOf(character), codeOf(character)]] }, at),
          from,
        );
      case "class": {
        const to = this.state();
        for (const part of expression.ranges.flatMap(inUtf8)) this.sequenceOfBytes(part, from, to);
        return to;
      }
      case "sequence":
        return expression.items.reduce((at, item) => this.build(item, at), from);
      case "choice": {
        const to = this.state();
        for (const item of expression.items) {
          const begin = this.state();
          this.of(from).free.push(begin);
          this.of(this.build(item, begin)).free.push(to);
        }
        return to;
      }
      case "repeat":
        return this.repeat(expression.item, expression.least, expression.most, from);
      case "rule": {
        const to = this.state();
        this.of(from).calls.push({ rule: expression.name, to });
        return to;
      }
    }
  }

  private repeat(item: Expression, least: number, most: number, from: number): number {
    const copies = most === Infinity ? least : most;
    let one = item;
    if (copies > FEW && item.type !== "rule") {
      const name = `${this.extra.size} times`; // No rule of a grammar has a space in its name.
      this.extra.set(name, item);
      one = { type: "rule", name };
    }
    let at = from;
    for (let i = 0; i < least; i++) at = this.build(one, at);
    if (most === Infinity) {
      const loop = this.state();
      this.of(at).free.push(loop);
      this.of(this.build(one, loop)).free.push(loop);
      const end = this.state();
      this.of(loop).free.push(end);
      return end;
    }
    const end = this.state();
    this.of(at).free.push(end);
    for (let i = least; i < most; i++) {
      at = this.build(one, at);
      this.of(at).free.push(end);
    }
    return end;
  }

  /** A range whose UTF-8 is a range in each byte. */
  private sequenceOfBytes([first, last]: Range, from: number, to: number): void {
    const [lows, highs] = [first, last].map((code) => new TextEncoder().encode(String.fromCodePoint(code)));
    let at = from;
    lows?.forEach((low, i) => {
      const next = i === lows.length - 1 ? to : this.state();
      this.of(at).bytes.push({ low, high: highs?.[i] ?? low, to: next });
      at = next;
    });
  }

  private markEnds(): void {
    for (const state of this.states)
      state.onlyEnds = state.ends && state.bytes.length === 0 && state.calls.length === 0 && state.free.length === 0;
    // Most chains of free edges are short: a few rounds find nearly all, and one that is missed costs a node.
    for (let round = 0; round < 8; round++)
      for (const state of this.states)
        state.onlyEnds ||=
          !state.ends &&
          state.bytes.length === 0 &&
          state.calls.length === 0 &&
          state.free.length > 0 &&
          state.free.every((to) => this.of(to).onlyEnds);
  }

  /** A rule that begins with itself would be called for ever. */
  private refuseLeftRecursion(): void {
    const nullable = new Set<string>();
    const begins = (rule: string): { calls: Set<string>; empty: boolean } => {
      const seen = new Set([this.startOf(rule)]);
      const calls = new Set<string>();
      let empty = false;
      for (const one of seen) {
        const state = this.of(one);
        empty ||= state.ends;
        state.free.forEach((to) => seen.add(to));
        for (const call of state.calls) {
          calls.add(call.rule);
          if (nullable.has(call.rule)) seen.add(call.to);
        }
      }
      return { calls, empty };
    };
    for (let before = -1; before < nullable.size;) {
      before = nullable.size;
      for (const rule of this.starts.keys()) if (begins(rule).empty) nullable.add(rule);
    }
    const graph = new Map([...this.starts.keys()].map((rule) => [rule, begins(rule).calls]));
    const done = new Set<string>();
    const visit = (rule: string, behind: Set<string>): void => {
      if (behind.has(rule))
        throw new RequestError({
          what: `The rule ${rule} of the grammar begins with itself`,
          remedy: "Write it as a repetition: a ::= b c* instead of a ::= a c | b.",
        });
      if (done.has(rule)) return;
      behind.add(rule);
      for (const next of graph.get(rule) ?? []) visit(next, behind);
      behind.delete(rule);
      done.add(rule);
    };
    for (const rule of graph.keys()) visit(rule, new Set());
  }
}

/** States are numbers from 0, the start; DEAD is none. */
export class Machine {
  private readonly network: Network;
  /** Nodes of what to return to: number 0 is the end of the text. */
  private nodes: { state: number; parent: number }[] = [];
  private nodeNumbers = new Map<string, number>();
  private sets: { places: Place[]; ends: boolean }[] = [];
  private setNumbers = new Map<string, number>();
  private transitions: Int32Array[] = [];

  /** @throws RequestError for a grammar that is too large or whose rules begin with themselves */
  constructor(grammar: Grammar) {
    this.network = new Network(grammar);
    this.begin();
  }

  /** Sets that were numbered: with many of them a caller should begin anew, by restart(). */
  get crowded(): boolean {
    return this.sets.length > MOST_SETS;
  }

  /** Forgets all numbers but that of `state`, whose new one it returns. */
  restart(state: number): number {
    const { places, ends } = this.set(state);
    const chains = places.map(({ state: at, node }) => ({ at, chain: this.chain(node) }));
    this.begin();
    const found = new Places();
    for (const { at, chain } of chains)
      this.visit(
        found,
        at,
        chain.reduceRight((parent, one) => this.node(one, parent), 0),
      );
    found.ends ||= ends; // A place where the text ends may have no byte, and then is none of the places.
    return this.number(found);
  }

  /** The text may end here. */
  ends(state: number): boolean {
    return this.set(state).ends;
  }

  /** The byte that has to come; undefined where there are several, none, or the text may end. */
  onlyByte(state: number): number | undefined {
    const { places, ends } = this.set(state);
    if (ends) return undefined;
    let only: number | undefined;
    for (const place of places)
      for (const { low, high } of this.network.of(place.state).bytes) {
        if (low !== high || (only !== undefined && only !== low)) return undefined;
        only = low;
      }
    return only;
  }

  /** Nothing may follow. */
  isLast(state: number): boolean {
    return this.set(state).places.length === 0;
  }

  after(state: number, byte: number): number {
    const row = this.transitions[state];
    const known = row?.[byte];
    if (row === undefined || known === undefined) throw new Error(`state ${state} does not exist`);
    if (known !== UNKNOWN) return known;
    const found = new Places();
    for (const place of this.set(state).places)
      for (const { low, high, to } of this.network.of(place.state).bytes)
        if (byte >= low && byte <= high) this.visit(found, to, place.node);
    const next = found.isEmpty ? DEAD : this.number(found);
    row[byte] = next;
    return next;
  }

  private begin(): void {
    this.nodes = [{ state: -1, parent: -1 }];
    this.nodeNumbers = new Map();
    this.sets = [];
    this.setNumbers = new Map();
    this.transitions = [];
    const found = new Places();
    this.visit(found, this.network.startOf(ROOT), 0);
    this.number(found);
  }

  private set(state: number): { places: Place[]; ends: boolean } {
    const found = this.sets[state];
    if (found === undefined) throw new Error(`state ${state} does not exist`);
    return found;
  }

  private chain(node: number): number[] {
    const found: number[] = [];
    for (let at = this.nodes[node]; at !== undefined && at.parent >= 0; at = this.nodes[at.parent]) found.push(at.state);
    return found;
  }

  private node(state: number, parent: number): number {
    const key = `${state},${parent}`;
    const known = this.nodeNumbers.get(key) ?? this.nodes.push({ state, parent }) - 1;
    this.nodeNumbers.set(key, known);
    return known;
  }

  /** Everything that can be reached without a byte. */
  private visit(found: Places, state: number, node: number): void {
    if (!found.add(state, node)) return;
    const { bytes, free, calls, ends } = this.network.of(state);
    if (bytes.length > 0) found.kept.push({ state, node });
    for (const to of free) this.visit(found, to, node);
    for (const { rule, to } of calls)
      this.visit(found, this.network.startOf(rule), this.network.of(to).onlyEnds ? node : this.node(to, node));
    if (!ends) return;
    const back = this.nodes[node];
    if (node === 0) found.ends = true;
    else if (back !== undefined) this.visit(found, back.state, back.parent);
  }

  private number({ kept, ends }: Places): number {
    const key = `${ends ? "." : ""}${kept
      .map(({ state, node }) => `${state}:${node}`)
      .sort()
      .join()}`;
    const known = this.setNumbers.get(key);
    if (known !== undefined) return known;
    const number = this.sets.push({ places: kept, ends }) - 1;
    this.transitions.push(new Int32Array(256).fill(UNKNOWN));
    this.setNumbers.set(key, number);
    return number;
  }
}

/** Places under construction. */
class Places {
  readonly kept: Place[] = [];
  ends = false;
  private readonly seen = new Set<number>();

  get isEmpty(): boolean {
    return this.kept.length === 0 && !this.ends;
  }

  /** False where it was there already. */
  add(state: number, node: number): boolean {
    const key = node * MOST_STATES + state;
    if (this.seen.has(key)) return false;
    this.seen.add(key);
    return true;
  }
}
