// Which of an artifact's files a load reads. Reads none itself.

import { lacking } from "../../artifact/choice";
import { fail } from "../../artifact/checks";
import { parseTensorCache } from "../../artifact/manifest";
import { parsePlan } from "../../artifact/plan";
import type { FileEntry, Manifest, Plan, TensorCache, Variant } from "../../artifact/schema";
import { wasmSupport } from "../../backend/wasm/module";
import { planUploads } from "../../runtime/upload";

export const CONSTANTS = "constants.bin";
export const TEXTS = ["tokenizer.json", "tokenizer_config.json"] as const;

export function entryOf(manifest: Manifest, path: string): FileEntry {
  return manifest.files.get(path) ?? fail("model.json", `files has no ${path}`, undefined, "its size and SHA-256");
}

export function textFiles({ tokenizer }: Manifest): string[] {
  return TEXTS.filter((name) => tokenizer.includes(name));
}

export function kernelsPath({ kernels, kernelsRelaxed }: Variant): string {
  return kernelsRelaxed !== undefined && wasmSupport().relaxedSimd ? kernelsRelaxed : kernels;
}

export function needsConstants(plan: Plan): boolean {
  return plan.buffers.some((buffer) => buffer.kind === "constant");
}

/** What the plan needs beside itself and its own kernels. @param kernels the files of others */
export function variantFiles(manifest: Manifest, plan: Plan, weights: TensorCache, kernels: readonly string[]): FileEntry[] {
  return variantPaths(plan, weights, kernels).map((path) => entryOf(manifest, path));
}

function variantPaths(plan: Plan, weights: TensorCache, kernels: readonly string[]): string[] {
  const shards = [...planUploads(plan, weights).keys()].map((shard) => shard.path);
  return [...kernels, ...(needsConstants(plan) ? [CONSTANTS] : []), ...shards];
}

/**
 * Every file that a load reads which takes `variant`.
 *
 * @param tunes it may measure the plan's alternatives, too
 * @param read a file's JSON
 */
export async function neededFiles(
  manifest: Manifest,
  variant: Variant,
  tunes: boolean,
  read: (path: string) => Promise<unknown>,
): Promise<string[]> {
  const weights = parseTensorCache(await read(manifest.weights), manifest);
  const plan = parsePlan(await read(variant.plan), manifest, variant, weights);
  const measured = tunes ? plan.alternatives.filter((alternative) => lacking(alternative).length === 0) : [];
  const others = variantPaths(
    plan,
    weights,
    measured.map(({ kernelsFile }) => kernelsFile),
  );
  return [...new Set([manifest.weights, ...textFiles(manifest), variant.plan, kernelsPath(variant), ...others])];
}
