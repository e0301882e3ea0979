// What this browser and this device offer, WebGPU first, and in plain words what is missing and what to do about it. No document.

import type { EngineInfo } from "../../api/types";
import { WEBGPU } from "../../api/browsers";
import { nameOf, probe, type Probe, UNNAMED } from "../../page/device";
import { binaryBytes, count } from "../format";
import { t } from "../texts";

export interface DeviceOffer {
  adapter: string;
  /** By name, and whether the device has it. */
  features: [string, boolean][];
  /** By the key of its name. */
  limits: [LimitKey, string][];
  software: boolean;
  /** WebGPU on OpenGL ES or Direct3D 11. */
  compatibility: boolean;
}

type LimitKey = `device.${"largest-binding" | "largest-buffer" | "storage-buffers" | "workgroup-storage" | "invocations"}`;

type Found = Exclude<Probe, { adapter: undefined }>;

export type DeviceReport = { status: "ready"; offer: DeviceOffer } | { status: "missing"; why: "insecure" | "no-webgpu" | "no-adapter" };

const FLAG = "chrome://flags/#enable-unsafe-webgpu";

export async function probeDevice(): Promise<DeviceReport> {
  if (!window.isSecureContext) return { status: "missing", why: "insecure" };
  const found = await probe();
  if (found.adapter === undefined) return { status: "missing", why: found.error.kind === "no-webgpu" ? "no-webgpu" : "no-adapter" };
  return { status: "ready", offer: describe(found) };
}

function describe({ adapter, info, features }: Found): DeviceOffer {
  const { limits } = adapter;
  return {
    adapter: nameOf(info),
    features: ["shader-f16", "subgroups"].map((name) => [name, features.has(name)]),
    limits: [
      ["device.largest-binding", binaryBytes(limits.maxStorageBufferBindingSize)],
      ["device.largest-buffer", binaryBytes(limits.maxBufferSize)],
      ["device.storage-buffers", count(limits.maxStorageBuffersPerShaderStage)],
      ["device.workgroup-storage", binaryBytes(limits.maxComputeWorkgroupStorageSize)],
      ["device.invocations", count(limits.maxComputeInvocationsPerWorkgroup)],
    ],
    software: info.isFallback,
    compatibility: info.featureLevel === "compatibility",
  };
}

/** What is missing, and what to do about it. */
export function remediesOf({ why }: DeviceReport & { status: "missing" }): { what: string; todo: string; remedies: string[] } {
  switch (why) {
    case "insecure": {
      const address = `http://localhost:${location.port || "80"}/`;
      const remedies = [t("missing.localhost", { address }), t("missing.https")];
      return { what: t("missing.insecure"), todo: t("missing.insecure-todo"), remedies };
    }
    case "no-webgpu": {
      const { chrome: version, chromeOnAndroid: android, safari, firefox, firefoxOnMacs: macs } = WEBGPU;
      const remedies = [
        t("missing.chrome", { version: String(version), android: String(android) }),
        t("missing.safari", { version: String(safari) }),
        t("missing.firefox", { version: String(firefox), macs: String(macs) }),
        t("missing.linux", { flags: `${FLAG}, chrome://flags/#enable-vulkan` }),
      ];
      return { what: t("missing.no-webgpu"), todo: t("missing.these-do"), remedies };
    }
    case "no-adapter": {
      const pages = t("missing.driver-pages");
      const remedies = [
        t("missing.acceleration"),
        t("missing.driver", { pages }),
        t("missing.blocklist", { flag: FLAG }),
        t("missing.remote"),
      ];
      return { what: t("missing.no-adapter"), todo: t("missing.often-helps"), remedies };
    }
  }
}

/** What stands between the models and a device: nothing, a GPU (some run on the CPU), or both. */
export type Means = "gpu" | "cpu" | "none";

/** In a sentence, from what stands in the CPU's way. */
export function whyNoCpu(reason: string | undefined): string {
  return reason === undefined ? t("cpu.not-compiled") : t("cpu.cannot", { reason });
}

/** One line for the start view. */
export function deviceLine(report: DeviceReport, means: Means): string {
  if (report.status === "missing") return t(means === "cpu" ? "line.cpu" : "line.none");
  const { adapter, software } = report.offer;
  if (!software) return t("line.gpu", { name: adapter });
  const name = adapter === UNNAMED ? t("line.a-software-one") : t("line.named-software-one", { name: adapter });
  return t(means === "cpu" ? "line.software-cpu" : "line.software", { name });
}

/** Where the model runs, in a few words. */
export function place({ backend, threads, variant }: EngineInfo): string {
  return backend === "wasm" ? t("place.cpu", { n: threads }) : variant;
}

/** Why the GPU is not used; empty when somebody chose the CPU. */
export function whyCpu({ skipped }: EngineInfo): string {
  const reasons = new Set(skipped.map(({ reason }) => reason.replace(/\.$/, "")));
  return [...reasons].join("; ");
}
