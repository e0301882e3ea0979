// Which variant of an artifact this device can run, decided before the download. Knows features and limits, not files.

import type { AdapterInfo, SkippedVariant } from "../api";
import type { Variant } from "../artifact/schema";
import { DeviceError } from "../errors";

/** What the browser offers; `adapter` undefined means that `reason` says why there is no WebGPU. */
export type Probe =
  | { adapter: GPUAdapter; info: AdapterInfo; features: ReadonlySet<string>; limits: Readonly<Record<string, number>> }
  | { adapter: undefined; error: DeviceError };

export async function probe(): Promise<Probe> {
  // The types promise `gpu`; browsers do not.
  const gpu = (navigator as { gpu?: GPU }).gpu;
  if (gpu === undefined) return { adapter: undefined, error: noWebGPU() };
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (adapter === null) {
    const error = new DeviceError("no-adapter", {
      what: "WebGPU is there but offers no adapter",
      got: "null from requestAdapter()",
      expected: "a GPU",
      remedy: "Turn on hardware acceleration in the browser's settings, update the graphics driver, and see chrome://gpu or about:support.",
    });
    return { adapter: undefined, error };
  }
  return { adapter, info: describe(adapter), features: new Set(adapter.features), limits: readLimits(adapter.limits) };
}

function noWebGPU(): DeviceError {
  const secure = globalThis.isSecureContext;
  return new DeviceError("no-webgpu", {
    what: "WebGPU is not available",
    got: secure ? `a browser without navigator.gpu (${navigator.userAgent})` : "an insecure context",
    expected: secure ? "Chrome or Edge 113, Safari 26, Firefox 141 or later" : "a page served over https:// or from localhost",
    remedy: secure ? "Update the browser or use another." : "Browsers offer WebGPU to secure pages only: serve the page over HTTPS.",
  });
}

function describe(adapter: GPUAdapter): AdapterInfo {
  const { vendor, architecture, device, description } = adapter.info;
  const isFallback = (adapter.info as { isFallbackAdapter?: boolean }).isFallbackAdapter ?? false;
  return { vendor, architecture, device, description, isFallback };
}

/** Limits are getters on the prototype. */
function readLimits(limits: GPUSupportedLimits): Record<string, number> {
  const read: Record<string, number> = {};
  for (const name in limits) {
    const value = (limits as unknown as Record<string, unknown>)[name];
    if (typeof value === "number") read[name] = value;
  }
  return read;
}

const FEATURE_WORDS: Record<string, string> = {
  "shader-f16": "16-bit floats in shaders (shader-f16)",
  subgroups: "subgroup operations (subgroups)",
};

/** Why the device cannot run the variant, in plain words; undefined when it can. */
export function obstacle(variant: Variant, device: Probe): string | undefined {
  switch (variant.backend) {
    case "wasm":
      return "this engine has no WebAssembly backend";
    case "webgpu": {
      if (device.adapter === undefined) return device.error.message;
      const lacks = variant.requiredFeatures.filter((feature) => !device.features.has(feature));
      if (lacks.length > 0) return `the device lacks ${lacks.map((name) => FEATURE_WORDS[name] ?? name).join(" and ")}`;
      for (const [name, least] of Object.entries(variant.requiredLimits)) {
        const got = device.limits[name];
        if (got === undefined) return `the device does not know the limit ${name}`;
        if (got < least) return `the device allows ${name} up to ${got}, ${least} are needed`;
      }
      return undefined;
    }
  }
}

export interface Choice {
  variant: Variant;
  skipped: SkippedVariant[];
}

/**
 * The first variant (best first) that the device can run, or the one named `wanted`.
 * @throws DeviceError("no-variant") that says what the device lacks for each; the probe's own error when WebGPU is missing
 */
export function negotiate(variants: readonly Variant[], device: Probe, wanted = "auto"): Choice {
  if (wanted !== "auto") {
    const named = variants.find((variant) => variant.name === wanted);
    const reason = named === undefined ? undefined : obstacle(named, device);
    if (named !== undefined && reason === undefined) return { variant: named, skipped: [] };
    throw new DeviceError("no-variant", {
      what: named === undefined ? "The artifact has no such variant" : `The variant ${wanted} cannot run here: ${reason ?? ""}`,
      got: JSON.stringify(wanted),
      expected: `"auto" or one of ${variants.map((variant) => variant.name).join(", ")}`,
      remedy: 'Use backend: "auto" to take the best variant that fits.',
    });
  }
  const skipped: SkippedVariant[] = [];
  for (const variant of variants) {
    const reason = obstacle(variant, device);
    if (reason === undefined) return { variant, skipped };
    skipped.push({ variant: variant.name, reason });
  }
  if (device.adapter === undefined) throw device.error;
  throw new DeviceError("no-variant", {
    what: "No variant of the artifact fits this device",
    got: skipped.map(({ variant, reason }) => `${variant}: ${reason}`).join("; "),
    expected: "a device that satisfies one of them",
    remedy: "Compile the artifact with the variant webgpu-f32, which needs nothing beyond core WebGPU.",
  });
}

/** Exactly what the variant needs: asking for more shuts out devices and raises their fingerprint. */
export async function requestDevice(adapter: GPUAdapter, variant: Variant): Promise<GPUDevice> {
  try {
    return await adapter.requestDevice({
      requiredFeatures: variant.requiredFeatures as GPUFeatureName[],
      requiredLimits: variant.requiredLimits,
      label: `wisp ${variant.name}`,
    });
  } catch (error) {
    throw new DeviceError("no-adapter", {
      what: "The GPU refused a device",
      got: String(error),
      expected: `a device for ${variant.name}`,
      remedy: "Close other tabs that use the GPU and reload.",
    });
  }
}
