// A page's fetch function seen from the worker: both ends of the bridge, with what a message channel does in between.
import { describe, expect, test } from "vitest";
import { PageFetcher } from "../../src/page/fetcher";
import type { FromWorker, PageAnswer } from "../../src/protocol/messages";
import { PageFetch } from "../../src/worker/page-fetch";

function bridge(fetch: (url: string, init: RequestInit) => Promise<Response>): PageFetch {
  const later = (work: () => void) => setImmediate(work);
  const page = new PageFetcher(fetch, (answer: PageAnswer) => {
    const copy = structuredClone(answer);
    later(() => worker.receive(copy));
  });
  const worker: PageFetch = new PageFetch((message: FromWorker) => {
    const copy = structuredClone(message);
    later(() => {
      if (copy.type === "fetch") page.start(copy.id, copy.request);
      if (copy.type === "fetch-abort") page.abort(copy.id);
    });
  });
  return worker;
}

describe("a fetch function of the page's", () => {
  test("gets address, headers and cache mode, and gives status, headers and bytes", async () => {
    const seen: unknown[] = [];
    const it = bridge((url, { headers, cache }) => {
      seen.push([url, new Headers(headers).get("range"), cache]);
      return Promise.resolve(new Response("hello", { status: 206, headers: { "Content-Range": "bytes 5-9/10" } }));
    });
    const response = await it.fetch("https://hub.example/a?b", { headers: { Range: "bytes=5-" }, cache: "no-store" });
    expect([response.status, response.ok, response.headers.get("Content-Range"), await response.text()]).toEqual([
      206,
      true,
      "bytes 5-9/10",
      "hello",
    ]);
    expect(seen).toEqual([["https://hub.example/a?b", "bytes=5-", "no-store"]]);
  });

  test("passes failures on: before the answer, in the middle, and answers without a body", async () => {
    await expect(bridge(() => Promise.reject(new TypeError("refused"))).fetch("https://a/", {})).rejects.toThrow("refused");
    const broken = () =>
      Promise.resolve(
        new Response(new ReadableStream({ start: (c) => c.enqueue(new Uint8Array(3)), pull: (c) => c.error(new Error("broken")) })),
      );
    const reader = (await bridge(broken).fetch("https://a/", {})).body?.getReader();
    expect((await reader?.read())?.value?.byteLength).toBe(3);
    await expect(reader?.read()).rejects.toThrow("broken");
    expect((await bridge(() => Promise.resolve(new Response(null, { status: 404 }))).fetch("https://a/", {})).status).toBe(404);
    expect((await bridge(() => Promise.resolve(new Response(null, { status: 304 }))).fetch("https://a/", {})).body).toBeNull();
  });

  test.each(["before the answer", "in the middle"])("is aborted %s", async (when) => {
    let stopped: (() => void) | undefined;
    const aborted = new Promise<void>((resolve) => (stopped = resolve));
    const it = bridge((_, { signal }) => {
      signal?.addEventListener("abort", () => stopped?.());
      if (when === "before the answer") return new Promise(() => undefined);
      return Promise.resolve(new Response(new ReadableStream({ start: (c) => c.enqueue(new Uint8Array(3)) })));
    });
    const controller = new AbortController();
    const response = it.fetch("https://a/", { signal: controller.signal });
    setImmediate(() => setImmediate(() => controller.abort()));
    const read = response.then(async ({ body }) => {
      const reader = body?.getReader();
      for (;;) await reader?.read();
    });
    await expect(read).rejects.toMatchObject({ name: "AbortError" });
    await aborted;
  });
});
