// Which variants of an artifact this browser and this device can run, decided before the download. Knows what variants
// ask for; fetches nothing and starts nothing.

import type { Variant } from "../artifact/schema";
import { BROWSERS } from "../api/browsers";
import { DeviceError } from "../api/errors";
import { nameOf, probe, type Probe, UNNAMED } from "./webgpu/adapter";
import { wasmSupport, type WasmSupport } from "./wasm/module";

/** `gpu` undefined: nobody asked, as no variant needs to know. */
export interface Device {
  gpu: Probe | undefined;
  wasm: WasmSupport;
}

/** A variant, and in plain words what speaks against it. */
export interface Candidate {
  variant: Variant;
  /** Why it cannot run here; undefined when it can. */
  obstacle: string | undefined;
  /** Why it is tried only when none of the others starts; undefined when it is not. */
  lastResort?: string | undefined;
}

/** What `wanted` leaves: all of them for "auto", or the one of that name. @throws DeviceError("no-variant") */
export function eligible(variants: readonly Variant[], wanted: string): readonly Variant[] {
  if (wanted === "auto") return variants;
  const named = variants.filter(({ name }) => name === wanted);
  if (named.length > 0) return named;
  throw new DeviceError("no-variant", {
    what: "The artifact has no such variant",
    got: JSON.stringify(wanted),
    expected: `"auto" or one of ${variants.map(({ name }) => name).join(", ")}`,
    remedy: 'Use backend: "auto" to take the best variant that fits.',
  });
}

/** Keys and values as a caller wants them kept; `auto`: in 8 bits where the device has no memory for 16. */
export type Kv = "auto" | "f16" | "q8";

/** The variants that keep them so. @throws DeviceError("no-variant") when there is none */
export function keeping(variants: readonly Variant[], kv: Kv): readonly Variant[] {
  if (kv === "auto") return variants;
  const kept = variants.filter(({ kvDtype }) => (kvDtype === "q8") === (kv === "q8"));
  if (kept.length > 0) return kept;
  throw new DeviceError("no-variant", {
    what: `The artifact has no variant with keys and values ${kv === "q8" ? "in 8 bits" : "in more than 8 bits"}`,
    got: `kv: ${JSON.stringify(kv)}`,
    expected: `"auto" or ${kv === "q8" ? '"f16"' : '"q8"'}`,
    remedy: `Compile it with --kv ${kv}.`,
  });
}

/** The variant that is the same but for keys and values in 8 bits. */
export function twinOf(variant: Variant, variants: readonly Variant[]): Variant | undefined {
  if (variant.kvDtype === "q8") return undefined;
  const needs = ({ backend, requiredFeatures }: Variant) => [backend, ...requiredFeatures].join(" ");
  return variants.find((other) => other.kvDtype === "q8" && needs(other) === needs(variant));
}

/** Looks for a GPU only when one of `variants` would use it. */
export async function inspect(variants: readonly Variant[]): Promise<Device> {
  const gpu = variants.some(({ backend }) => backend === "webgpu") ? await probe() : undefined;
  return { gpu, wasm: wasmSupport() };
}

const FEATURE_WORDS: Record<string, string> = {
  "shader-f16": "16-bit floats in shaders (shader-f16)",
  subgroups: "subgroup operations (subgroups)",
};

/** Why nothing can run on the CPU, in plain words. */
export function cpuObstacle(wasm: WasmSupport): string | undefined {
  // Some places, such as tests, do not know the word.
  if ((globalThis as { isSecureContext?: boolean }).isSecureContext === false)
    return "browsers let pages check what they download only if they come from https:// addresses or from localhost";
  if (!wasm.wasm) return "this browser has no WebAssembly, or it is switched off";
  return wasm.simd ? undefined : "this browser's WebAssembly has no SIMD";
}

/** Why the device cannot run the variant, in plain words; undefined when it can. */
export function obstacle(variant: Variant, { gpu, wasm }: Device): string | undefined {
  switch (variant.backend) {
    case "wasm":
      return cpuObstacle(wasm);
    case "webgpu": {
      if (gpu === undefined) return "nobody looked for a GPU";
      if (gpu.adapter === undefined) return gpu.reason;
      const { features, limits } = gpu;
      const lacks = variant.requiredFeatures.filter((feature) => !features.has(feature));
      if (lacks.length > 0) return `the device lacks ${lacks.map((name) => FEATURE_WORDS[name] ?? name).join(" and ")}`;
      for (const [name, least] of Object.entries(variant.requiredLimits)) {
        const got = limits[name];
        if (got === undefined) return `the device does not know the limit ${name}`;
        if (got < least) return `the device allows ${name} up to ${got}, ${least} are needed`;
      }
      return undefined;
    }
  }
}

/**
 * The variants in their order, best first, with what speaks against each; at least one of them can run. One that is named is
 * never a last resort.
 * @param wanted "auto" or a variant's name
 * @throws DeviceError("no-variant") with every reason; the probe's own error when there is no WebGPU and nothing else to try
 */
export function negotiate(variants: readonly Variant[], device: Device, wanted = "auto"): Candidate[] {
  const candidates = eligible(variants, wanted).map((variant) => ({ variant, obstacle: obstacle(variant, device) }));
  if (candidates.some((candidate) => candidate.obstacle === undefined)) return afterTheCpu(candidates, device);
  const onlyGpu = candidates.every(({ variant }) => variant.backend === "webgpu");
  if (wanted !== "auto")
    throw new DeviceError("no-variant", {
      what: `The variant ${wanted} cannot run here: ${candidates[0]?.obstacle ?? ""}`,
      got: JSON.stringify(wanted),
      expected: `"auto" or one of ${variants.map(({ name }) => name).join(", ")}`,
      remedy: 'Use backend: "auto" to take the best variant that fits.',
    });
  if (onlyGpu && device.gpu !== undefined && device.gpu.adapter === undefined) throw device.gpu.error;
  throw new DeviceError("no-variant", {
    what: "No variant of the artifact fits this device",
    got: reasons(candidates.map(({ variant, obstacle: reason }) => ({ variant: variant.name, reason: reason ?? "" }))),
    expected: onlyGpu ? "a device that satisfies one of them" : `WebGPU, or WebAssembly with SIMD (${BROWSERS})`,
    remedy: onlyGpu
      ? "Compile the artifact with the variant webgpu-f32, which needs nothing beyond core WebGPU, and with wasm-simd for the CPU."
      : "Update the browser or use another, and serve the page over https.",
  });
}

/** A GPU that the CPU plays is several times slower than the CPU's own kernels: where there are such, its variants wait. */
function afterTheCpu(candidates: Candidate[], { gpu }: Device): Candidate[] {
  const cpu = candidates.some(({ variant, obstacle: reason }) => variant.backend === "wasm" && reason === undefined);
  if (!cpu || gpu?.adapter === undefined || !gpu.info.isFallback) return candidates;
  const name = nameOf(gpu.info);
  const lastResort = `the only GPU here is a software one${name === UNNAMED ? "" : ` (${name})`}, and the CPU is faster without it`;
  return candidates.map((candidate) =>
    candidate.variant.backend === "webgpu" && candidate.obstacle === undefined ? { ...candidate, lastResort } : candidate,
  );
}

/** `a, b: why; c: why not`: variants that share a reason are named together. */
export function reasons(skipped: readonly { variant: string; reason: string }[]): string {
  const byReason = new Map<string, string[]>();
  for (const { variant, reason } of skipped) byReason.set(reason, [...(byReason.get(reason) ?? []), variant]);
  return [...byReason].map(([reason, names]) => `${names.join(", ")}: ${reason}`).join("; ");
}
