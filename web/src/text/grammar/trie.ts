// A vocabulary as a trie of bytes, in the order of a walk: a walk beside a machine finds the tokens that it allows.

import { DEAD, type Machine } from "./machine";

export interface Trie {
  /**
   * Sets the bits of the tokens that may follow in `state`; bit v % 32 of word v / 32. Returns `words`.
   *
   * @param beyond of longer tokens than so many bytes alone: `words` has the others' bits
   */
  allowed(machine: Machine, state: number, words: Uint32Array<ArrayBuffer>, beyond?: number): Uint32Array<ArrayBuffer>;
}

/** @param tokens bytes by id; those without bytes are in no trie */
export function buildTrie(tokens: readonly Uint8Array[]): Trie {
  const ids = tokens.flatMap((bytes, id) => (bytes.length > 0 ? [id] : []));
  const at = (id: number): Uint8Array => tokens[id] ?? new Uint8Array();
  ids.sort((a, b) => compare(at(a), at(b)));
  // Nodes in the order of the walk: their byte, how deep they are, the next node that is not below them, and their tokens.
  const count = ids.reduce((sum, id, i) => sum + at(id).length - shared(at(id), at(ids[i - 1] ?? -1)), 0);
  const byte = new Uint8Array(count);
  const depth = new Uint16Array(count);
  const skip = new Int32Array(count);
  const firstToken = new Int32Array(count + 1);
  const sorted = Int32Array.from(ids);
  const open: number[] = [];
  let node = -1;
  ids.forEach((id, i) => {
    const bytes = at(id);
    const common = shared(bytes, at(ids[i - 1] ?? -1));
    for (let d = common; d < bytes.length; d++) {
      node += 1;
      byte[node] = bytes[d] ?? 0;
      depth[node] = d;
      for (const closed of open.splice(d)) skip[closed] = node;
      open.push(node);
      firstToken[node] = i;
    }
    // Until a deeper node comes, this one has the tokens up to here.
    firstToken[node + 1] = i + 1;
  });
  for (const closed of open) skip[closed] = count;
  const longest = longestBelow(depth, skip);
  const byLength = Int32Array.from(ids).sort((a, b) => at(b).length - at(a).length);
  const deepest = at(byLength[0] ?? -1).length;
  // A node on the way to a longer token has none of its own: it ends where the next begins.
  return {
    allowed(machine, state, words, beyond = 0) {
      const states = new Int32Array(deepest + 1).fill(state, 0, 1);
      for (const id of beyond > 0 ? byLength : []) {
        if (at(id).length <= beyond) break;
        words[id >> 5] = (words[id >> 5] ?? 0) & ~(1 << (id & 31));
      }
      for (let i = 0; i < count;) {
        const d = depth[i] ?? 0;
        const next = (longest[i] ?? 0) > beyond ? machine.after(states[d] ?? DEAD, byte[i] ?? 0) : DEAD;
        if (next === DEAD) {
          i = skip[i] ?? count;
          continue;
        }
        states[d + 1] = next;
        for (let t = firstToken[i] ?? 0; t < (firstToken[i + 1] ?? 0); t++) {
          const id = sorted[t] ?? 0;
          if (d >= beyond && (tokens[id]?.length ?? 0) === d + 1) words[id >> 5] = (words[id >> 5] ?? 0) | (1 << (id & 31));
        }
        i += 1;
      }
      return words;
    },
  };
}

/** Of each node, the bytes of the longest token at or below it. */
function longestBelow(depth: Uint16Array, skip: Int32Array): Uint16Array {
  const longest = depth.map((d) => d + 1);
  for (let i = depth.length - 1; i >= 0; i--)
    for (let j = i + 1; j < (skip[i] ?? 0); j = skip[j] ?? Infinity) longest[i] = Math.max(longest[i] ?? 0, longest[j] ?? 0);
  return longest;
}

function compare(a: Uint8Array, b: Uint8Array): number {
  const least = Math.min(a.length, b.length);
  for (let i = 0; i < least; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** How many bytes they share from their start; all of `a` where it is as long or shorter. */
function shared(a: Uint8Array, b: Uint8Array): number {
  let i = 0;
  while (i < a.length && i < b.length && a[i] === b[i]) i++;
  return i;
}
