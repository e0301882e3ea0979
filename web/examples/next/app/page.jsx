"use client";

import { useState } from "react";
import { useWisp } from "wisp/react";

export default function Page() {
  const { engine, progress, error } = useWisp("/model/");
  const [answer, setAnswer] = useState({ text: "", done: false });

  async function ask(event) {
    event.preventDefault();
    const content = new FormData(event.target).get("question");
    let text = "";
    for await (const { choices } of engine.chat.completions.create({ messages: [{ role: "user", content }], stream: true })) {
      text += choices[0]?.delta.content ?? "";
      setAnswer({ text, done: false });
    }
    setAnswer({ text, done: true });
  }

  if (error) return <p role="status">{error.message}</p>;
  const status = engine ? `${engine.info.model} on ${engine.info.variant}` : `${progress?.phase ?? "loading"} …`;
  return (
    <form onSubmit={ask}>
      <input name="question" aria-label="Question" required /> <button disabled={!engine}>Ask</button>
      <p role="status">{status}</p>
      <p id="answer" data-done={answer.done ? "" : undefined}>
        {answer.text}
      </p>
    </form>
  );
}
