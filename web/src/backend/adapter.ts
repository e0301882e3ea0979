// The GPU as WebGPU offers it: the adapter with its features and limits, and a device made from it. Knows no files.

import type { AdapterInfo } from "../api";
import type { Variant } from "../artifact/schema";
import { DeviceError } from "../errors";

/** What the browser offers; `adapter` undefined means that `reason` says in plain words why there is no WebGPU. */
export type Probe =
  | { adapter: GPUAdapter; info: AdapterInfo; features: ReadonlySet<string>; limits: Readonly<Record<string, number>> }
  | { adapter: undefined; error: DeviceError; reason: string };

export async function probe(): Promise<Probe> {
  // The types promise `gpu`; browsers do not.
  const gpu = (navigator as { gpu?: GPU }).gpu;
  if (gpu === undefined) return noWebGPU();
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (adapter === null) {
    const error = new DeviceError("no-adapter", {
      what: "WebGPU is there but offers no adapter",
      got: "null from requestAdapter()",
      expected: "a GPU",
      remedy: "Turn on hardware acceleration in the browser's settings, update the graphics driver, and see chrome://gpu or about:support.",
    });
    return { adapter: undefined, error, reason: "WebGPU finds no GPU that it may use here" };
  }
  return { adapter, info: describe(adapter), features: new Set(adapter.features), limits: readLimits(adapter.limits) };
}

function noWebGPU(): Probe {
  const secure = globalThis.isSecureContext;
  const error = new DeviceError("no-webgpu", {
    what: "WebGPU is not available",
    got: secure ? `a browser without navigator.gpu (${navigator.userAgent})` : "an insecure context",
    expected: secure ? "Chrome or Edge 113, Safari 26, Firefox 141 or later" : "a page served over https:// or from localhost",
    remedy: secure ? "Update the browser or use another." : "Browsers offer WebGPU to secure pages only: serve the page over HTTPS.",
  });
  const reason = secure ? "this browser does not offer WebGPU" : "browsers offer WebGPU only to pages from https:// addresses and from localhost";
  return { adapter: undefined, error, reason };
}

function describe(adapter: GPUAdapter): AdapterInfo {
  const { vendor, architecture, device, description } = adapter.info;
  const isFallback = (adapter.info as { isFallbackAdapter?: boolean }).isFallbackAdapter ?? false;
  return { vendor, architecture, device, description, isFallback };
}

/** Whether the CPU plays the GPU: SwiftShader, Mesa's llvmpipe, Windows' WARP. */
export function isSoftware({ architecture, device, description, isFallback }: AdapterInfo): boolean {
  return isFallback || /swiftshader|llvmpipe|lavapipe|basic render/i.test(`${architecture} ${device} ${description}`);
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
