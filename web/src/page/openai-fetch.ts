// OpenAI's API as a `fetch` function: a client of OpenAI's talks to the engine and to no network. Requests and answers are those of
// the engine's own API; here is what HTTP adds: paths, JSON, events, statuses and the shape of errors.

import { WispError } from "../api/errors";
import type { ChatRequest, CompletionRequest, EmbeddingRequest, Engine } from "../api/types";

type Routes = Pick<Engine, "chat" | "completions" | "embeddings" | "info">;

const JSON_TYPE = { "content-type": "application/json" };

/** @param engine what answers */
export function openaiFetch(engine: Routes): Engine["fetch"] {
  return async (input, init) => {
    const request = new Request(input instanceof Request ? input : new URL(String(input), "http://engine.invalid/v1/"), init);
    try {
      return await answer(engine, request);
    } catch (error) {
      if (request.signal.aborted) throw error;
      return failed(error);
    }
  };
}

async function answer(engine: Routes, request: Request): Promise<Response> {
  const path = new URL(request.url).pathname.replace(/\/+$/, "");
  const { signal } = request;
  if (request.method === "GET" && path.endsWith("/models")) return models(engine);
  if (request.method !== "POST") return noRoute(request.method, path);
  if (path.endsWith("/chat/completions")) {
    const body = (await bodyOf(request)) as unknown as ChatRequest;
    if (body.stream === true) return events(engine.chat.completions.create({ ...body, stream: true }, { signal }));
    return json(await engine.chat.completions.create({ ...body, stream: false }, { signal }));
  }
  if (path.endsWith("/completions")) {
    const body = (await bodyOf(request)) as unknown as CompletionRequest;
    if (body.stream === true) return events(engine.completions.create({ ...body, stream: true }, { signal }));
    return json(await engine.completions.create({ ...body, stream: false }, { signal }));
  }
  if (path.endsWith("/embeddings"))
    return json(await engine.embeddings.create((await bodyOf(request)) as unknown as EmbeddingRequest, { signal }));
  return noRoute(request.method, path);
}

function models({ info: { model } }: Routes): Response {
  return json({ object: "list", data: [{ id: model, object: "model", created: 0, owned_by: "wisp" }] });
}

async function bodyOf(request: Request): Promise<Record<string, unknown>> {
  const text = await request.text();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = undefined;
  }
  if (typeof body === "object" && body !== null && !Array.isArray(body)) return body as Record<string, unknown>;
  throw new BadRequest(`The body is no JSON object: got ${JSON.stringify(text.slice(0, 40))}`);
}

class BadRequest extends Error {}

/** Server-sent events. What fails before the first is an answer with its status; later ones are events. */
async function events<T>(stream: Promise<AsyncIterableIterator<T>>): Promise<Response> {
  const chunks = await stream;
  const encoder = new TextEncoder();
  const event = (data: unknown) => encoder.encode(`data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`);
  const first = await chunks.next();
  // The role comes before anything was tried: what follows it tells whether the request can be met.
  const second = first.done === true ? first : await chunks.next();
  const waiting = [first, second];
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const next = waiting.shift() ?? (await chunks.next());
        if (next.done !== true) {
          controller.enqueue(event(next.value));
          return;
        }
        controller.enqueue(event("[DONE]"));
      } catch (error) {
        controller.enqueue(event(shapeOf(error).body));
      }
      controller.close();
    },
    async cancel() {
      await chunks.return?.();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream", "cache-control": "no-cache" } });
}

interface Shape {
  status: number;
  body: { error: { message: string; type: string; param: string | null; code: string | null } };
}

/** OpenAI's clients make exceptions of it by status, and show message, type, param and code. */
function shapeOf(error: unknown): Shape {
  const message = error instanceof Error ? error.message : String(error);
  const shape = (status: number, type: string, code: string | null = null, param: string | null = null): Shape => ({
    status,
    body: { error: { message, type, param, code } },
  });
  if (error instanceof BadRequest) return shape(400, "invalid_request_error");
  if (!(error instanceof WispError)) return shape(500, "server_error");
  if (error.kind === "request") return shape(400, "invalid_request_error", null, parameterOf(error.what));
  if (error.kind === "context-overflow") return shape(400, "invalid_request_error", "context_length_exceeded", "messages");
  return shape(500, "server_error", error.kind);
}

/** The parameter that an error is about, if it is about one: "tools[0].function.name", "The parameter audio is ...". */
function parameterOf(what: string): string | null {
  return /^(?:The parameter )?([a-z_]+(?:\[\d+\])?(?:\.\w+)*)(?: is not supported)?$/.exec(what)?.[1] ?? null;
}

const json = (value: unknown, status = 200): Response => new Response(JSON.stringify(value), { status, headers: JSON_TYPE });

function failed(error: unknown): Response {
  const { status, body } = shapeOf(error);
  return json(body, status);
}

function noRoute(method: string, path: string): Response {
  const message = `There is no ${method} ${path}: the engine answers chat/completions, completions, embeddings and models`;
  const body: Shape["body"] = { error: { message, type: "invalid_request_error", param: null, code: "unknown_url" } };
  return json(body, 404);
}
