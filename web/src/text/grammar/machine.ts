// A grammar as a machine over bytes: in which state a text leaves it, which bytes may follow. Knows no tokens.
//
// A rule becomes states with edges: for bytes, for nothing, and for whole rules, which are called and returned from. Where a
// text may be, at any time, is a set of places: a state, and what there is to return to (stacks.ts), a place a state. Such sets
// are numbered when they first occur and their transitions kept, so that a text walks from number to number.

import { RequestError } from "../../api/errors";
import { codeOf, consumes, type Expression, type Grammar, inUtf8, type Range, ROOT } from "./expression";
import { type Alike, Stacks, tooAmbiguous } from "./stacks";

interface State {
  bytes: { low: number; high: number; to: number }[];
  free: number[];
  calls: { rule: string; to: number }[];
  /** Ends its rule. */
  ends: boolean;
  /** From here on the rule only ends: who calls another rule last need not return here. */
  onlyEnds: boolean;
}

/** A place: a state, and the stacks to return by. */
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
/** Steps without a byte behind one byte: far fewer but in a grammar that may read a text in very many ways. */
const MOST_STEPS = 300_000;

class Network {
  readonly states: State[] = [];
  readonly starts = new Map<string, number>();
  /** States of a counted repetition: the state that goes on the same way for so many bytes, whatever the count is. */
  readonly alike = new Map<number, Alike>();
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
    const counted = copies > FEW && consumes(item);
    let at = from;
    const before = counted && least > 0 ? this.state() : undefined;
    if (before !== undefined) this.of(this.build(one, before)).free.push(before);
    for (let i = 0; i < least; i++) {
      at = this.build(one, at);
      if (before !== undefined) this.alike.set(at, { to: before, within: least - 1 - i });
    }
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
    const within = counted && most > least ? this.state() : undefined;
    if (within !== undefined) {
      this.of(within).free.push(end);
      this.of(this.build(one, within)).free.push(within);
      this.alike.set(at, { to: within, within: most - least });
    }
    for (let i = least; i < most; i++) {
      at = this.build(one, at);
      this.of(at).free.push(end);
      if (within !== undefined) this.alike.set(at, { to: within, within: most - 1 - i });
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
  private stacks = new Stacks();
  private sets: { places: Place[]; ends: boolean }[] = [];
  private setNumbers = new Map<string, number>();
  private transitions: Int32Array[] = [];

  /** @throws RequestError for a grammar that is too large or whose rules begin with themselves */
  constructor(grammar: Grammar) {
    this.network = new Network(grammar);
    this.begin();
    this.number(this.reached([{ state: this.network.startOf(ROOT), node: this.stacks.bottom }]));
  }

  /** Sets that were numbered: with many of them a caller should begin anew, by restart(). */
  get crowded(): boolean {
    return this.sets.length > MOST_SETS || this.stacks.crowded;
  }

  /** Forgets all numbers but that of `state`, whose new one it returns. */
  restart(state: number): number {
    const { places, ends } = this.set(state);
    const before = this.stacks;
    this.begin();
    this.number(this.reached([{ state: this.network.startOf(ROOT), node: this.stacks.bottom }]));
    const moved = this.stacks.copied(
      before,
      places.map(({ node }) => node),
    );
    return this.number({ places: places.map((place, i) => ({ state: place.state, node: moved[i] ?? 0 })), ends });
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

  /** A state after which texts of so many bytes are the same: one for many, where something is repeated many times. */
  alike(state: number): Alike {
    const { network, stacks } = this;
    const { places, ends } = this.set(state);
    let within = Infinity;
    const moved = places.map((place) => {
      const found = stacks.moved(place.node, network.alike);
      within = Math.min(within, found.within);
      return { state: place.state, node: found.to };
    });
    return { to: within === Infinity ? state : this.number({ places: moved, ends }), within };
  }

  /** Nothing may follow. */
  isLast(state: number): boolean {
    return this.set(state).places.length === 0;
  }

  /** @throws RequestError where the text may be read in too many ways */
  after(state: number, byte: number): number {
    const row = this.transitions[state];
    const known = row?.[byte];
    if (row === undefined || known === undefined) throw new Error(`state ${state} does not exist`);
    if (known !== UNKNOWN) return known;
    const found: Place[] = [];
    for (const { state: from, node } of this.set(state).places)
      for (const { low, high, to } of this.network.of(from).bytes) if (byte >= low && byte <= high) found.push({ state: to, node });
    const next = found.length === 0 ? DEAD : this.number(this.reached(found));
    row[byte] = next;
    return next;
  }

  private begin(): void {
    this.stacks = new Stacks();
    this.sets = [];
    this.setNumbers = new Map();
    this.transitions = [];
  }

  private set(state: number): { places: Place[]; ends: boolean } {
    const found = this.sets[state];
    if (found === undefined) throw new Error(`state ${state} does not exist`);
    return found;
  }

  /** Everything that can be reached without a byte: of it, the places that bytes go on from. Stacks that meet in a state are joined. */
  private reached(waiting: Place[]): { places: Place[]; ends: boolean } {
    const { network, stacks } = this;
    const found = new Map<number, Set<number>>();
    let ends = false;
    let steps = 0;
    for (let place = waiting.pop(); place !== undefined; place = waiting.pop()) {
      const { state, node } = place;
      const known = found.get(state) ?? new Set();
      if (known.has(node)) continue;
      if (steps++ > MOST_STEPS) tooAmbiguous();
      found.set(state, known.add(node));
      const { free, calls, ends: returns } = network.of(state);
      for (const to of free) waiting.push({ state: to, node });
      for (const { rule, to } of calls)
        waiting.push({ state: network.startOf(rule), node: network.of(to).onlyEnds ? node : stacks.push(to, node) });
      if (!returns) continue;
      ends ||= stacks.isBottom(node);
      for (const [to, below] of stacks.entries(node)) waiting.push({ state: to, node: below });
    }
    const places: Place[] = [];
    for (const [state, nodes] of found) if (network.of(state).bytes.length > 0) places.push({ state, node: stacks.join(nodes) });
    return { places, ends };
  }

  private number({ places, ends }: { places: Place[]; ends: boolean }): number {
    const key = `${ends ? "." : ""}${places
      .map(({ state, node }) => `${state}:${node}`)
      .sort()
      .join()}`;
    const known = this.setNumbers.get(key);
    if (known !== undefined) return known;
    const number = this.sets.push({ places, ends }) - 1;
    this.transitions.push(new Int32Array(256).fill(UNKNOWN));
    this.setNumbers.set(key, number);
    return number;
  }
}
