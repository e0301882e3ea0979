// The GPU as WebGPU offers it: the adapter with its features and limits, and a device made from it. Knows no files.

import type { AdapterInfo } from "../../api/types";
import type { Variant } from "../../artifact/schema";
import { BROWSERS_WITH_WEBGPU } from "../../api/browsers";
import { DeviceError } from "../../api/errors";

/** What the browser offers; `adapter` undefined means that `reason` says in plain words why there is no WebGPU. */
export type Probe =
  | { adapter: GPUAdapter; info: AdapterInfo; features: ReadonlySet<string>; limits: Readonly<Record<string, number>> }
  | { adapter: undefined; error: DeviceError; reason: string };

export async function probe(): Promise<Probe> {
  // The types promise both; browsers do not, nor does Node.
  const gpu = (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
  if (gpu === undefined) return noWebGPU();
  const found = await findAdapter(gpu);
  if (found === null) {
    const error = new DeviceError("no-adapter", {
      what: "WebGPU is there but offers no adapter",
      got: "null from requestAdapter()",
      expected: "a GPU",
      remedy: "Turn on hardware acceleration in the browser's settings, update the graphics driver, and see chrome://gpu or about:support.",
    });
    return { adapter: undefined, error, reason: "WebGPU finds no GPU that it may use here" };
  }
  const { adapter, info } = found;
  return { adapter, info, features: new Set(adapter.features), limits: readLimits(adapter.limits) };
}

type FeatureLevel = "core" | "compatibility";

interface FoundAdapter {
  adapter: GPUAdapter;
  info: AdapterInfo;
}

/**
 * Core WebGPU where the GPU has it; else its compatibility mode, for GPUs that offer OpenGL ES 3.1 or Direct3D 11 only. Not the
 * mode at first: a device of it obeys the smaller limits even where the GPU could do more. Browsers offer a software adapter of
 * core WebGPU beside such a GPU: that one is taken only when there is nothing else.
 */
async function findAdapter(gpu: GPU): Promise<FoundAdapter | null> {
  const core = await requestAdapter(gpu, "core");
  if (core !== null && !core.info.isFallback) return core;
  const compatible = await requestAdapter(gpu, "compatibility");
  return compatible !== null && (core === null || !compatible.info.isFallback) ? compatible : core;
}

async function requestAdapter(gpu: GPU, wanted: FeatureLevel): Promise<FoundAdapter | null> {
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance", featureLevel: wanted }).catch(() => null);
  if (adapter === null) return null;
  // Browsers that do not know the mode ignore that it was asked for, and do not know the feature either.
  const featureLevel = wanted === "core" || adapter.features.has("core-features-and-limits") ? "core" : "compatibility";
  return { adapter, info: describe(adapter, featureLevel) };
}

function noWebGPU(): Probe {
  const secure = globalThis.isSecureContext;
  const error = new DeviceError("no-webgpu", {
    what: "WebGPU is not available",
    got: secure ? `a browser without navigator.gpu (${navigator.userAgent})` : "an insecure context",
    expected: secure ? BROWSERS_WITH_WEBGPU : "a page served over https:// or from localhost",
    remedy: secure ? "Update the browser or use another." : "Browsers offer WebGPU to secure pages only: serve the page over HTTPS.",
  });
  const reason = secure
    ? `this browser does not offer WebGPU${"onconnect" in globalThis ? " in shared workers" : ""}`
    : "browsers offer WebGPU only to pages from https:// addresses and from localhost";
  return { adapter: undefined, error, reason };
}

/** Some Safaris have no `info`; Chromes of before 2025 have `isFallbackAdapter` on the adapter. */
interface Adapter {
  info?: Partial<Record<"vendor" | "architecture" | "device" | "description", string>> & { isFallbackAdapter?: boolean };
  isFallbackAdapter?: boolean;
}

function describe(adapter: GPUAdapter, featureLevel: FeatureLevel): AdapterInfo {
  const { info = {}, isFallbackAdapter } = adapter as Adapter;
  const { vendor = "", architecture = "", device = "", description = "" } = info;
  const isFallback = (info.isFallbackAdapter ?? isFallbackAdapter ?? false) || SOFTWARE.test(`${architecture} ${device} ${description}`);
  return { vendor, architecture, device, description, isFallback, featureLevel };
}

/** Adapters that the CPU plays: of Chromium, of Mesa, of Windows (WARP). */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|\bwarp\b|basic render/i;

export const UNNAMED = "unnamed";

/** What the adapter calls itself. */
export function nameOf({ vendor, architecture, device, description }: AdapterInfo): string {
  const parts = [vendor, architecture, device, description];
  return parts.filter((part, i) => part !== "" && parts.indexOf(part) === i).join(" · ") || UNNAMED;
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

/** Exactly what the variant needs: asking for more shuts out devices and raises their fingerprint. */
export async function requestDevice(
  adapter: GPUAdapter,
  variant: Pick<Variant, "name" | "requiredFeatures" | "requiredLimits">,
): Promise<GPUDevice> {
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
