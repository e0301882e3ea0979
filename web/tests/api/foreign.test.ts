// Whether the engine's files lie at another origin than the page.
import { afterEach, expect, test, vi } from "vitest";
import { isForeign } from "../../src/api/foreign";

afterEach(() => vi.unstubAllGlobals());

test.each([
  ["https://app.example/chat/", "https://app.example/wisp/wisp.js", false],
  ["https://app.example/chat/", "https://cdn.example/wisp.js", true],
  ["https://app.example/chat/", "http://app.example/wisp.js", true],
  ["blob:https://app.example/5", "https://app.example/wisp/wisp.js", false],
  ["chrome-extension://abc/index.html", "chrome-extension://abc/wisp/wisp.js", false],
  // Next.js: a module's own place is that of its source, and its workers lie where the bundler put them.
  ["https://app.example/", "file:///ROOT/node_modules/wisp/dist/wisp.js", false],
])("at %s, %s: %s", (page, module, foreign) => {
  vi.stubGlobal("location", { href: page });
  expect(isForeign(module)).toBe(foreign);
});
