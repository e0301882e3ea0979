// What a plan needs of a device, beside what the device has. Knows numbers; asks no device.

import type { PlanFile } from "./network";

export interface Limit {
  name: string;
  unit: "bytes" | "count";
  need: number;
  /** undefined: the device does not say. */
  has: number | undefined;
  /** What every device of WebGPU has; undefined on the CPU. */
  standard: number | undefined;
}

const most = (numbers: readonly number[]): number => numbers.reduce((found, n) => Math.max(found, n), 0);

const STANDARD: Record<string, number> = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 2 ** 14,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** By WebGPU's names. @param has the adapter's limits */
export function limitsOf(plan: PlanFile, has: Readonly<Record<string, number>>): Limit[] {
  const largest = most(plan.buffers.map(({ bytes }) => bytes));
  const dispatches = Object.values(plan.programs).flat();
  const needs: [string, Limit["unit"], number][] = [
    ["maxBufferSize", "bytes", largest],
    ["maxStorageBufferBindingSize", "bytes", largest],
    ["maxStorageBuffersPerShaderStage", "count", most(plan.kernels.map(({ bindings }) => bindings.length))],
    ["maxComputeWorkgroupStorageSize", "bytes", most(plan.kernels.map(({ workgroup_bytes: bytes }) => bytes))],
    ["maxComputeInvocationsPerWorkgroup", "count", most(plan.kernels.map(({ workgroup_size: [x, y, z] }) => x * y * z))],
    ["maxComputeWorkgroupsPerDimension", "count", most(dispatches.flatMap(({ grid }) => [...grid]))],
  ];
  return needs.map(([name, unit, need]) => ({ name, unit, need, has: has[name], standard: STANDARD[name] }));
}

/** Where a value stands on a bar from 1 to `end`, whose steps are powers: 0 to 1. */
export const place = (value: number, end: number): number => (end <= 1 ? 0 : Math.min(1, Math.log2(Math.max(1, value)) / Math.log2(end)));
