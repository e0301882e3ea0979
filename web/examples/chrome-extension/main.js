// The script of ../plain/index.html in a file: extensions allow no inline scripts.
import { createEngine } from "./wisp/wisp.js";

const status = document.querySelector("[role=status]");
const answer = document.querySelector("#answer");
let loading;

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = new FormData(event.target).get("question");
  try {
    loading ??= createEngine("./model/", {
      onProgress: ({ loadedBytes, totalBytes }) => (status.textContent = `${Math.round((100 * loadedBytes) / totalBytes)} %`),
    });
    const engine = await loading;
    status.textContent = `${engine.info.model} on ${engine.info.variant}`;
    answer.textContent = "";
    const messages = [{ role: "user", content }];
    for await (const { choices } of engine.chat.completions.create({ messages, stream: true }))
      answer.textContent += choices[0]?.delta.content ?? "";
    answer.dataset.done = "";
  } catch (error) {
    status.textContent = error.message;
  }
});
