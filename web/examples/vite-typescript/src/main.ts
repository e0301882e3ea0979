import { createEngine, type Engine, WispError } from "wisp";

const find = <E extends Element>(selector: string): E => {
  const found = document.querySelector<E>(selector);
  if (found === null) throw new Error(`index.html has no ${selector}`);
  return found;
};
const form = find<HTMLFormElement>("form");
const status = find<HTMLElement>("[role=status]");
const answer = find<HTMLElement>("#answer");
let loading: Promise<Engine> | undefined;

async function ask(content: string): Promise<void> {
  loading ??= createEngine("/model/", {
    onProgress: ({ loadedBytes, totalBytes }) => {
      status.textContent = `${Math.round((100 * loadedBytes) / totalBytes)} %`;
    },
  });
  const engine = await loading;
  status.textContent = `${engine.info.model} on ${engine.info.variant}`;
  answer.textContent = "";
  const stream = await engine.chat.completions.create({ messages: [{ role: "user", content }], stream: true });
  for await (const { choices } of stream) answer.textContent += choices[0]?.delta.content ?? "";
  answer.dataset["done"] = "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = new FormData(form).get("question");
  if (typeof content !== "string") return;
  ask(content).catch((error: unknown) => {
    status.textContent = error instanceof WispError ? error.message : String(error);
  });
});
