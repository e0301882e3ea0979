// @vitest-environment jsdom
// An answer as it streams in: what a model thinks first is in sight while it grows, and folded once the answer begins.
import { render } from "preact";
import { act } from "preact/test-utils";
import { beforeEach, expect, test, vi } from "vitest";
import type { Message } from "../../src/ui/state/conversation";
import { AutoScroll } from "../../src/ui/scroll";

vi.stubGlobal("matchMedia", () => ({ matches: false }));
const { Live } = await import("../../src/ui/state/live");
const { Answer } = await import("../../src/ui/views/message");

const message: Message = { id: "b", conversation: "c", parent: "a", role: "assistant", content: "", created: 1, reason: null };
let root: HTMLElement;
let live: InstanceType<typeof Live>;

function show(state: Message, writing: typeof live | null): void {
  const scroll = new AutoScroll();
  void act(() => render(<Answer message={state} live={writing} last forgotten={false} scroll={scroll} />, root));
}

beforeEach(() => {
  root = document.createElement("div");
  live = new Live(message);
  show(message, live);
});

const thoughts = () => root.querySelector("details");
const text = () => root.querySelector("[data-testid=answer-text]");
const note = () => root.querySelector("[data-testid=answer-note]")?.textContent;

test("thoughts stand before the answer, folded when it begins", async () => {
  await act(() => live.think("two and "));
  await act(() => live.think("<b>three</b>"));
  expect(thoughts()?.open).toBe(true);
  expect(thoughts()?.querySelector("p")?.textContent).toBe("two and <b>three</b>");
  expect(thoughts()?.querySelector("summary")?.textContent).toBe("Thinking…");
  await act(() => live.write("five"));
  expect(thoughts()?.open).toBe(false);
  expect(thoughts()?.querySelector("summary")?.textContent).toMatch(/^Thought for \d/);
  expect(thoughts()?.nextElementSibling).toBe(text());
  expect(live.text).toBe("five");
});

test("thoughts that no answer follows are folded at the end", async () => {
  await act(() => live.think("hm"));
  expect(thoughts()?.open).toBe(true);
  live.endThoughts();
  show({ ...message, ...live.written(), reason: "length" }, null);
  expect(thoughts()?.open).toBe(false);
  expect(thoughts()?.textContent).toContain("hm");
});

test("an answer without thoughts has no place for them", async () => {
  await act(() => live.write("five"));
  expect(thoughts()).toBeNull();
});

test("what is shown at the end is what streamed in, not made anew", async () => {
  await act(() => live.write("**five** and"));
  show({ ...message, ...live.written(), reason: "abort" }, null);
  const before = text()?.querySelector("strong");
  expect(before?.textContent).toBe("five");
  expect(note()).toBe("Stopped.");
  show({ ...message, content: "**five** and six", reason: "stop" }, null);
  expect(text()?.textContent).toBe("five and six\n");
  expect(note()).toBeUndefined();
});

test("an answer that the page left behind says so and can go on", () => {
  show({ ...message, content: "half of" }, null);
  expect(note()).toMatch(/^Interrupted/);
  expect(root.querySelector("[data-testid=continue]")).not.toBeNull();
});
