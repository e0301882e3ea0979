// What this browser and this device offer, WebGPU first, and in plain words what is missing and what to do about it. No document.

import type { EngineInfo } from "../../api/types";
import { WEBGPU } from "../../api/browsers";
import { nameOf, probe, type Probe, UNNAMED } from "../../page/device";
import { binaryBytes, count, plural } from "../format";

export interface DeviceOffer {
  adapter: string;
  features: string[];
  limits: [string, string][];
  software: boolean;
  /** WebGPU on OpenGL ES or Direct3D 11. */
  compatibility: boolean;
}

type Found = Exclude<Probe, { adapter: undefined }>;

export type DeviceReport = { status: "ready"; offer: DeviceOffer } | { status: "missing"; what: string; todo: string; remedies: string[] };

const REMEDIES = [
  `Chrome or Edge ${WEBGPU.chrome} or later on Windows, macOS and ChromeOS; Chrome ${WEBGPU.chromeOnAndroid} or later on Android.`,
  `Safari ${WEBGPU.safari} or later on macOS, iOS, iPadOS and visionOS.`,
  `Firefox ${WEBGPU.firefox} or later on Windows, ${WEBGPU.firefoxOnMacs} or later on Macs with Apple silicon.`,
  "On Linux, Chrome may need chrome://flags/#enable-unsafe-webgpu and chrome://flags/#enable-vulkan.",
];

export async function probeDevice(): Promise<DeviceReport> {
  if (!window.isSecureContext) {
    return {
      status: "missing",
      what: "Browsers offer WebGPU only to pages from https:// addresses and from localhost, and this page came from neither.",
      todo: "One of these makes it work:",
      remedies: [`Open http://localhost:${location.port || "80"}/ on the machine that serves the page.`, "Serve the page over https."],
    };
  }
  const found = await probe();
  if (found.adapter === undefined && found.error.kind === "no-webgpu") {
    return {
      status: "missing",
      what: "This browser does not offer WebGPU (navigator.gpu is missing).",
      todo: "These browsers do:",
      remedies: REMEDIES,
    };
  }
  if (found.adapter === undefined) {
    return {
      status: "missing",
      what: "This browser has WebGPU but found no GPU it may use: the GPU or its driver is on the browser’s blocklist, or there is none.",
      todo: "What often helps:",
      remedies: [
        "Switch on hardware (graphics) acceleration in the browser’s settings, then restart it.",
        "Update the graphics driver; chrome://gpu or about:support says what is blocked and why.",
        "In Chrome, chrome://flags/#enable-unsafe-webgpu lifts the blocklist, at your own risk.",
        "In a virtual machine or over remote desktop the GPU is often hidden: try on the machine itself.",
      ],
    };
  }
  return { status: "ready", offer: describe(found) };
}

function describe({ adapter, info, features }: Found): DeviceOffer {
  const { limits } = adapter;
  return {
    adapter: nameOf(info),
    features: ["shader-f16", "subgroups"].map((name) => `${name}: ${features.has(name) ? "yes" : "no"}`),
    limits: [
      ["Largest binding", binaryBytes(limits.maxStorageBufferBindingSize)],
      ["Largest buffer", binaryBytes(limits.maxBufferSize)],
      ["Storage buffers a stage", count(limits.maxStorageBuffersPerShaderStage)],
      ["Workgroup storage", binaryBytes(limits.maxComputeWorkgroupStorageSize)],
      ["Invocations a workgroup", count(limits.maxComputeInvocationsPerWorkgroup)],
    ],
    software: info.isFallback,
    compatibility: info.featureLevel === "compatibility",
  };
}

/** What stands between the models and a device: nothing, a GPU (some run on the CPU), or both. */
export type Means = "gpu" | "cpu" | "none";

/** In a sentence, from what stands in the CPU's way. */
export function whyNoCpu(reason: string | undefined): string {
  return reason === undefined
    ? "The CPU takes over for models that are compiled for it; none here is."
    : `Nor can the CPU take over: ${reason}.`;
}

/** One line for the start view. */
export function deviceLine(report: DeviceReport, means: Means): string {
  if (report.status === "missing") return means === "cpu" ? "No GPU can be used here: the CPU does the work." : "No GPU can be used here.";
  const { adapter, software } = report.offer;
  if (!software) return `GPU: ${adapter}`;
  return `GPU: ${adapter === UNNAMED ? "" : `${adapter}, `}a software one: ${means === "cpu" ? "the CPU does the work, faster." : "it works, slowly."}`;
}

/** Where the model runs, in a few words. */
export function place({ backend, threads, variant }: EngineInfo): string {
  return backend === "wasm" ? `CPU, ${plural(threads, "thread")}` : variant;
}

/** Why the GPU is not used; empty when somebody chose the CPU. */
export function whyCpu({ skipped }: EngineInfo): string {
  const reasons = new Set(skipped.map(({ reason }) => reason.replace(/\.$/, "")));
  return [...reasons].join("; ");
}
