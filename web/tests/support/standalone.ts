// The files that run in workers, as the build makes them.
import { type OutputChunk, rolldown } from "rolldown";
import standalone from "../../rolldown.standalone.config.ts";

export async function buildStandalone(): Promise<OutputChunk[]> {
  const chunks: OutputChunk[] = [];
  for (const { output, ...input } of standalone) {
    const { output: made } = await (await rolldown(input)).generate(output);
    for (const file of made) if (file.type === "chunk") chunks.push(file);
  }
  return chunks;
}
