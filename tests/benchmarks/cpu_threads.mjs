// Decode on one and on two threads, by turns: `node tests/benchmarks/cpu_threads.mjs ARTIFACT [TOKENS [ROUNDS]]` after
// `npm run build` in web/. To see what another process does to it, run it beside `taskset -c 1 sh -c 'while :; do :; done'`.
import { createEngine } from "../../web/dist/wisp-node.mjs";

const [artifact, tokens = "300", rounds = "5"] = process.argv.slice(2);
const engines = new Map();
for (const threads of [1, 2]) engines.set(threads, await createEngine(artifact, { backend: "wasm-simd", threads, cache: false }));
const rates = new Map([...engines.keys()].map((threads) => [threads, []]));
for (let round = 0; round < Number(rounds); round++) {
  for (const [threads, engine] of engines) {
    const before = engine.stats();
    await engine.generateIds([1, 2, 3, 4], { maxTokens: Number(tokens), ignoreEos: true, temperature: 0 });
    const after = engine.stats();
    rates.get(threads).push((1000 * (after.tokens - before.tokens - 1)) / (after.decodeMs - before.decodeMs));
  }
}
for (const [threads, all] of rates) {
  const sorted = all.toSorted((a, b) => a - b);
  console.log(`${threads} thread${threads === 1 ? "" : "s"}: median ${sorted[sorted.length >> 1].toFixed(1)} tok/s of ${all.map((rate) => rate.toFixed(1)).join(", ")}`);
}
for (const engine of engines.values()) await engine.dispose();
process.exit(0);
