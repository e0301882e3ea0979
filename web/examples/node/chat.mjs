// node chat.mjs DIRECTORY_OR_URL QUESTION
import { createEngine } from "wisp";

const [, , artifact, content] = process.argv;
if (artifact === undefined || content === undefined) {
  console.error("usage: node chat.mjs DIRECTORY_OR_URL QUESTION");
  process.exit(2);
}
const engine = await createEngine(artifact);
for await (const { choices } of engine.chat.completions.create({ messages: [{ role: "user", content }], stream: true }))
  process.stdout.write(choices[0]?.delta.content ?? "");
process.stdout.write("\n");
await engine.dispose();
