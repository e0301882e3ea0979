// Asks a plan runner what it makes of the artifact's smoke test, and compares that with what the compiler wrote.
//
// Knows logits, tolerances and a session of its own; nothing of variants or of what happens to a runner that is wrong.

import type { Smoke } from "../artifact/schema";
import { DeviceError } from "../api/errors";
import type { PlanRunner } from "./replay";
import { Session } from "./session";

/**
 * Runs the prompt from position 0: a prefill and a decode step. The KV cache holds its rows afterwards. Runners with fewer
 * positions than the prompt has ids are not asked.
 * @throws DeviceError("wrong-results"), or what the device throws
 */
export async function smokeTest(runner: PlanRunner, smoke: Smoke): Promise<void> {
  if (runner.capacity < smoke.ids.length) return;
  // Its counters are nobody's.
  const logits = await new Session(runner).logits(smoke.ids);
  const got = difference(logits, smoke);
  if (got === undefined) return;
  throw new DeviceError("wrong-results", {
    what: "The device computes other logits than the artifact says",
    got,
    expected: `logits within ${smoke.tolerance} of the largest`,
    remedy: "Update the browser and the graphics driver, or choose another variant with the option backend.",
  });
}

/** How logits differ from those that the compiler wrote, in plain words; undefined when they are the same to its tolerance. */
export function difference(logits: Float32Array, { top, others, scale, tolerance }: Smoke): string | undefined {
  const wrong = logits.findIndex((logit) => !Number.isFinite(logit));
  if (wrong >= 0) return `${logits[wrong]} for token ${wrong} after a short prompt`;
  const most = tolerance * scale;
  const given = [...top, ...others];
  const far = ([id, logit]: readonly [number, number]) => Math.abs((logits[id] ?? NaN) - logit);
  const furthest = given.reduce((worst, pair) => (far(pair) > far(worst) ? pair : worst), given[0] ?? [0, 0]);
  const show = (logit: number | undefined) => (logit ?? NaN).toPrecision(3);
  // `!(x <= y)`, not `x > y`: NaN is far.
  if (!(far(furthest) <= most))
    return `${show(logits[furthest[0]])} for token ${furthest[0]} after a short prompt, where ${show(furthest[1])} is right`;
  // No other logit may stand above the top.
  const known = new Set(given.map(([id]) => id));
  const ceiling = (top.at(-1)?.[1] ?? scale) + most;
  const above = logits.findIndex((logit, id) => logit > ceiling && !known.has(id));
  if (above >= 0) return `${show(logits[above])} for token ${above} after a short prompt, where at most ${show(ceiling)} is right`;
  return undefined;
}
