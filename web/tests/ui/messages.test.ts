// @vitest-environment jsdom
// An answer as it streams in: what a model thinks first is in sight while it grows, and folded once the answer begins.
import { expect, test } from "vitest";
import { AnswerView } from "../../src/ui/messages";

const view = () => new AnswerView({ onRegenerate: () => undefined, onGrow: () => undefined });

test("thoughts stand before the answer, folded when it begins", () => {
  const answer = view();
  answer.think("two and ");
  answer.think("<b>three</b>");
  const thoughts = answer.root.querySelector("details");
  expect(thoughts?.open).toBe(true);
  expect(thoughts?.querySelector("p")?.textContent).toBe("two and <b>three</b>");
  expect(thoughts?.querySelector("summary")?.textContent).toBe("Thinking…");
  answer.append("five");
  expect(thoughts?.open).toBe(false);
  expect(thoughts?.querySelector("summary")?.textContent).toMatch(/^Thought for \d/);
  expect(thoughts?.nextElementSibling).toBe(answer.root.querySelector("[data-testid=answer-text]"));
  expect(answer.text).toBe("five");
});

test("thoughts that no answer follows are folded at the end", () => {
  const answer = view();
  answer.think("hm");
  answer.append("");
  const thoughts = answer.root.querySelector("details");
  expect(thoughts?.open).toBe(true);
  answer.finish(null, "length");
  expect(thoughts?.open).toBe(false);
});

test("an answer without thoughts has no place for them", () => {
  const answer = view();
  answer.append("five");
  expect(answer.root.querySelector("details")).toBeNull();
});
