// Headers as callers give them.

import { RequestError } from "../api/errors";

/** @throws RequestError */
export function checkHeaders(headers: Record<string, string>): Record<string, string> {
  try {
    return Object.fromEntries(new Headers(headers));
  } catch (error) {
    throw new RequestError({
      what: "headers",
      got: error instanceof Error ? error.message : String(error),
      expected: "names and values of HTTP headers",
    });
  }
}
