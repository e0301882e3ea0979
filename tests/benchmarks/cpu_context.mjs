// Prefill and decode on one thread of the CPU behind a long prompt, of several artifacts by turns (the same model, compiled in
// different ways): `node tests/benchmarks/cpu_context.mjs PROMPT TOKENS ROUNDS ARTIFACT...` after `npm run build` in web/.
// Processor time, not the clock's, and the least of the rounds: what else runs on the machine counts as little as it can.
import { createEngine } from "../../web/dist/wisp-node.mjs";

const [promptTokens, tokens, rounds, ...artifacts] = process.argv.slice(2);
const engines = [];
for (const artifact of artifacts) engines.push(await createEngine(artifact, { backend: "wasm-simd", threads: 1, cache: false }));

async function processorMs(work) {
  const before = process.cpuUsage().user;
  await work();
  return (process.cpuUsage().user - before) / 1000;
}

const best = artifacts.map(() => ({ prefill: Infinity, decode: Infinity }));
for (let round = 0; round < Number(rounds); round++) {
  for (const [i, engine] of engines.entries()) {
    const ids = Array.from({ length: Number(promptTokens) }, (_, k) => 2 + ((k * 7919 + round) % 250));
    const generate = (maxTokens) => engine.generateIds(ids, { maxTokens, ignoreEos: true, temperature: 0 });
    await engine.resetChat();
    const prefill = await processorMs(() => generate(1));
    const decode = (await processorMs(() => generate(1 + Number(tokens)))) / (1 + Number(tokens)); // The prompt is there.
    best[i] = { prefill: Math.min(best[i].prefill, prefill), decode: Math.min(best[i].decode, decode) };
  }
}
for (const [i, { prefill, decode }] of best.entries()) {
  const { info } = engines[i];
  const memory = `${info.kvBytesPerToken} bytes of cache a token, ${Math.ceil(engines[i].stats().gpuBytes / 2 ** 20)} MiB`;
  console.log(`${artifacts[i]}: prompt ${prefill.toFixed(0)} ms, ${decode.toFixed(2)} ms a token, ${memory}`);
}
for (const engine of engines) await engine.dispose();
process.exit(0);
