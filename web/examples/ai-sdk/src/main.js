import { streamText } from "ai";
import { createEngine } from "wisp";
import { wisp } from "wisp/ai-sdk";

const status = document.querySelector("[role=status]");
const answer = document.querySelector("#answer");
let engine;
const model = wisp(async () => {
  engine = await createEngine("/model/", {
    onProgress: ({ loadedBytes, totalBytes }) => (status.textContent = `${Math.round((100 * loadedBytes) / totalBytes)} %`),
  });
  return engine;
});

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = new FormData(event.target).get("question");
  answer.textContent = "";
  const onError = ({ error }) => (status.textContent = error.message);
  for await (const text of streamText({ model, prompt, onError }).textStream) answer.textContent += text;
  if (!engine) return;
  status.textContent = `${engine.info.model} on ${engine.info.variant}`;
  answer.dataset.done = "";
});
