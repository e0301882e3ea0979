// One file over a network that fails in every way that networks do. The clock is the test's.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type Bytes, MismatchError, Network, transfer, type TransferRequest } from "../../src/artifact/transfer";
import { NetworkError } from "../../src/api/errors";
import {
  type Answer,
  content,
  entryOf,
  fakeClock,
  file,
  passing,
  same,
  scripted,
  sha,
  status,
  unreachable,
  whole,
} from "../support/network";

const CONTENT = content(200_000);
const ENTRY = entryOf(CONTENT);
const ORIGIN = "https://page.example";
const URL_HERE = `${ORIGIN}/m/b.bin`;
const URL_THERE = "https://cdn.example/m/b.bin";

beforeEach(fakeClock);
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

async function run(answers: Answer[], changes: Partial<TransferRequest> & { arrived?: boolean; headers?: Record<string, string> } = {}) {
  const { fetch, asked } = scripted(...answers);
  const network = new Network(fetch, changes.headers ?? {}, ORIGIN);
  network.arrived = changes.arrived ?? false;
  const progress: number[] = [];
  const waits: (string | undefined)[] = [];
  let sum = 0;
  const verify = (bytes: Bytes) =>
    Promise.resolve(sha(bytes) === ENTRY.sha256 ? undefined : { what: "SHA-256", got: sha(bytes), expected: ENTRY.sha256 });
  const startedAt = performance.now();
  const got = await passing(
    transfer(network, {
      file: "b.bin",
      url: URL_HERE,
      size: ENTRY.bytes,
      cache: "no-store",
      signal: new AbortController().signal,
      onBytes: (bytes) => progress.push((sum += bytes)),
      onWaiting: (reason) => waits.push(reason),
      verify,
      ...changes,
    }),
  );
  const starts = asked.map(({ at }) => at - startedAt);
  return {
    got,
    asked,
    starts,
    progress,
    waits,
    sum: () => sum,
    whole: got instanceof Uint8Array && same(got, CONTENT),
    elapsed: performance.now() - startedAt,
  };
}

describe("a connection that breaks", () => {
  test("is taken up where it was, with the tag of what is there", async () => {
    const { whole: good, asked, sum } = await run([file(CONTENT, { cut: 70_000, etag: '"one"' }), file(CONTENT, { etag: '"one"' })]);
    expect(good).toBe(true);
    expect(asked.map(({ from }) => from)).toEqual([0, 70_000]);
    expect(asked[1]?.headers.get("If-Range")).toBe('"one"');
    expect(sum()).toBe(CONTENT.length);
  });

  test("every 20 kB, for as long as it takes", async () => {
    const { whole: good, asked } = await run([file(CONTENT, { cut: 20_000 })]);
    expect(good).toBe(true);
    expect(asked).toHaveLength(10);
  });

  test("is begun again when the server knows no ranges, or the file is another one by now", async () => {
    for (const second of [file(CONTENT, { ranges: false, etag: '"one"' }), file(CONTENT, { etag: '"two"' })]) {
      const { whole: good, sum } = await run([file(CONTENT, { cut: 70_000, etag: '"one"' }), second]);
      expect(good).toBe(true);
      expect(sum()).toBe(CONTENT.length);
    }
  });

  test("at the same place without ranges is given up", async () => {
    const { got, asked } = await run([file(CONTENT, { cut: 70_000, ranges: false })], { arrived: false });
    expect(got).toBeInstanceOf(NetworkError);
    expect(String(got)).toMatch(/b\.bin: the download failed \d+ times in a row.*network error/);
    expect(asked.length).toBeGreaterThan(5);
  });

  test("sends no If-Range elsewhere, where it would need permission, and compares the tags itself", async () => {
    const other = content(200_000, 7);
    const { whole: good, asked } = await run(
      [
        file(other, { cut: 70_000, etag: '"old"' }),
        ({ from }) =>
          new Response(CONTENT.slice(from), { status: 206, headers: { "Content-Range": `bytes ${from}-199999/200000`, ETag: '"new"' } }),
        whole(CONTENT),
      ],
      { url: URL_THERE },
    );
    expect(good).toBe(true);
    expect(asked.map(({ headers }) => headers.get("If-Range"))).toEqual([null, null, null]);
    expect(asked[2]?.from).toBe(0);
  });

  test("and a server that sends another range do not mix", async () => {
    const { whole: good } = await run([
      file(CONTENT, { cut: 70_000 }),
      () => new Response(CONTENT.slice(0, 1000), { status: 206, headers: { "Content-Range": "bytes 0-999/200000" } }),
      whole(CONTENT),
    ]);
    expect(good).toBe(true);
  });
});

describe("an outage", () => {
  const outage = (ms: number): Answer[] => {
    const until = performance.now() + ms;
    return [file(CONTENT, { cut: 50_000 }), (asked) => (performance.now() < until ? unreachable(asked) : file(CONTENT)(asked))];
  };

  test("of five minutes is survived when something had come before; pauses grow to 30 s", async () => {
    const { whole: good, starts, waits } = await run(outage(300_000));
    expect(good).toBe(true);
    const pauses = starts.slice(1).map((at, i) => Math.round(at - (starts[i] ?? 0)));
    expect(pauses.slice(0, 7)).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 30_000]);
    expect(Math.max(...pauses)).toBe(30_000);
    expect(waits[2]).toBe("Failed to fetch; trying again in 1 s");
    expect(waits.at(-1)).toBeUndefined();
  });

  test("without an end has one", async () => {
    const { got, elapsed, asked } = await run(outage(Infinity));
    expect(got).toBeInstanceOf(NetworkError);
    expect(elapsed).toBeGreaterThan(300_000);
    expect(elapsed).toBeLessThan(900_000);
    expect(asked.length).toBeLessThan(40);
  });

  test("from the beginning is given up within seconds", async () => {
    const { got, elapsed } = await run([unreachable]);
    expect(String(got)).toMatch(
      /b\.bin: the download failed 6 times in a row, and nothing came meanwhile: got Failed to fetch, expected 200000 bytes\. Check the connection/,
    );
    expect(elapsed).toBeLessThan(30_000);
  });

  test("ends when the browser says so: the next try is not waited for", async () => {
    const scope = new EventTarget();
    vi.stubGlobal("addEventListener", scope.addEventListener.bind(scope));
    vi.stubGlobal("removeEventListener", scope.removeEventListener.bind(scope));
    vi.stubGlobal("navigator", { onLine: false });
    setTimeout(() => scope.dispatchEvent(new Event("online")), 7000);
    const { whole: good, starts } = await run([unreachable, file(CONTENT)], { arrived: true });
    expect(good).toBe(true);
    expect(starts).toEqual([0, 7000]);
  });

  test("is not waited for when there is a copy", async () => {
    for (const answer of [unreachable, status(503)]) expect((await run([answer], { failFast: true })).asked).toHaveLength(1);
    const { got, elapsed } = await run(
      [(asked) => new Promise((_, reject) => asked.signal.addEventListener("abort", () => reject(new DOMException("", "AbortError"))))],
      { failFast: true },
    );
    expect(got).toBeInstanceOf(NetworkError);
    expect(elapsed).toBe(8000);
  });

  test("ends with the caller's signal", async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 3000);
    const { got, elapsed } = await run([file(CONTENT, { cut: 1000 }), unreachable], { signal: controller.signal });
    expect((got as Error).name).toBe("AbortError");
    expect(elapsed).toBe(3000);
  });
});

describe("a server that fails", () => {
  test("twice with 500 is asked a third time", async () => {
    const { whole: good, asked } = await run([status(500), status(500), file(CONTENT)]);
    expect(good).toBe(true);
    expect(asked).toHaveLength(3);
  });

  test("always with 500 is given up after five tries, with 503 later when it had been there", async () => {
    const { got, asked } = await run([status(500)], { arrived: true });
    expect(String(got)).toMatch(/failed 5 times in a row: got HTTP status 500/);
    expect(asked).toHaveLength(5);
    expect((await run([status(503)], { arrived: true })).elapsed).toBeGreaterThan(300_000);
  });

  test.each([
    ["seconds", () => "90", 90_000],
    ["a date", () => new Date(Date.now() + 90_000).toUTCString(), 90_000],
  ])("and says when it will be there, in %s, is asked then", async (_, value, ms) => {
    const { whole: good, starts } = await run([(asked) => status(429, { "Retry-After": value() })(asked), file(CONTENT)]);
    expect(good).toBe(true);
    expect(Math.abs((starts[1] ?? 0) - ms)).toBeLessThanOrEqual(1000); // Dates have no milliseconds.
  });

  test("and asks for an hour's patience is believed", async () => {
    const { got, asked } = await run([status(503, { "Retry-After": "3600" })]);
    expect(String(got)).toMatch(/HTTP status 503, with the wish to come back in 3600 s/);
    expect(asked).toHaveLength(1);
  });

  test("does not have the file, or does not give it, and is not asked again", async () => {
    const { got, asked } = await run([status(404)]);
    expect(got).toBeInstanceOf(MismatchError);
    expect(String(got)).toMatch(/b\.bin: HTTP status: got 404, expected 200/);
    expect(asked).toHaveLength(1);
    expect(String((await run([status(403)])).got)).toMatch(/got 403.*`headers` or `fetch`.*signature/);
  });

  test("never shows the query of a signed address in its error", async () => {
    expect(String((await run([status(404)], { url: `${URL_HERE}?secret=1` })).got)).not.toContain("secret");
  });
});

describe("a trickle", () => {
  test("that stops is taken up after 30 s", async () => {
    const { whole: good, starts } = await run([file(CONTENT, { stall: 50_000 }), file(CONTENT)]);
    expect(good).toBe(true);
    expect(starts[1]).toBe(30_500);
  });

  test("of a byte each 29 s is given up", async () => {
    const { got, asked, elapsed } = await run([file(CONTENT, { piece: 1, everyMs: 29_000 })], { arrived: true });
    expect(String(got)).toMatch(/fewer than 16384 bytes a minute/);
    expect(asked).toHaveLength(5);
    expect(elapsed).toBeLessThan(600_000);
  });

  test("that is a slow network is waited for", async () => {
    const { whole: good, asked, elapsed } = await run([file(CONTENT, { piece: 500, everyMs: 1000 })]);
    expect(good).toBe(true);
    expect(asked).toHaveLength(1);
    expect(elapsed).toBeGreaterThan(300_000);
  });
});

describe("a wrong file", () => {
  const flipped = CONTENT.with(5, 255);

  test("is fetched again past the HTTP cache, a few times at most", async () => {
    const { whole: good, asked, sum } = await run([whole(flipped), file(CONTENT)]);
    expect(good).toBe(true);
    expect(asked.map(({ cache }) => cache)).toEqual(["no-store", "reload"]);
    expect(sum()).toBe(CONTENT.length);
    const never = await run([whole(flipped)]);
    expect(never.got).toBeInstanceOf(MismatchError);
    expect(never.got).toMatchObject({ file: "b.bin", what: "SHA-256, fetched 3 times", got: sha(flipped), expected: ENTRY.sha256 });
    expect(never.asked).toHaveLength(3);
  });

  test("in the second half of a resumed one too", async () => {
    expect((await run([file(CONTENT, { cut: 1000 }), file(flipped.with(3000, 255)), file(CONTENT)])).whole).toBe(true);
  });

  test.each([
    ["shorter", CONTENT.slice(0, -1)],
    ["longer", new Uint8Array(CONTENT.length + 1)],
    ["empty", new Uint8Array()],
  ])("that is %s is refused by its length", async (_, wrong) => {
    const { got, asked } = await run([file(wrong)]);
    expect(got).toBeInstanceOf(MismatchError);
    expect((got as Error).message).toMatch(/length of the file|an end before its bytes/);
    expect(asked.length).toBeLessThan(10);
  });

  test("that is a login page is asked for again, then said", async () => {
    const page: Answer = () => new Response("<html>Welcome to the hotel", { headers: { "Content-Type": "text/html" } });
    expect((await run([page, page, file(CONTENT)])).whole).toBe(true);
    expect(String((await run([page])).got)).toMatch(/a page came in place of the file/);
  });
});

describe("another origin", () => {
  const opaque: Answer = ({ mode }) => {
    if (mode !== "no-cors") throw new TypeError("Failed to fetch");
    return Object.defineProperty(new Response(""), "type", { value: "opaque" });
  };

  test("that answers but does not let the page read is named, CORS and header", async () => {
    const { got, asked } = await run([opaque], { url: URL_THERE });
    expect(String(got)).toMatch(/CORS: https:\/\/cdn\.example answers, but does not let pages of https:\/\/page\.example read/);
    expect(String(got)).toContain("Access-Control-Allow-Origin: https://page.example");
    expect(asked.map(({ mode }) => mode)).toEqual([undefined, undefined, "no-cors"]);
    expect(String((await run([opaque], { url: URL_THERE, headers: { authorization: "Bearer x" } })).got)).toContain(
      "Access-Control-Allow-Headers: authorization",
    );
  });

  test("that is away is not said to refuse", async () => {
    const { got } = await run([unreachable], { url: URL_THERE });
    expect(String(got)).not.toMatch(/^NetworkError: b\.bin: CORS/);
    expect(String(got)).toMatch(/Check the connection; and that https:\/\/cdn\.example allows/);
  });

  test("that had answered before is an outage", async () => {
    const { asked } = await run([file(CONTENT, { cut: 20_000 }), opaque, opaque, opaque, file(CONTENT)], { url: URL_THERE });
    expect(asked.map(({ mode }) => mode)).not.toContain("no-cors");
  });
});

test("headers go with every request", async () => {
  const { asked } = await run([file(CONTENT, { cut: 20_000 })], { headers: { authorization: "Bearer x" } });
  expect(new Set(asked.map(({ headers }) => headers.get("Authorization")))).toEqual(new Set(["Bearer x"]));
});
