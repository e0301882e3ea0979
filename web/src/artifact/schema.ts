// The artifact's files as types, after validation; compiler/artifact/FORMAT.md is their specification. No code.

import type { SourceValues } from "../api/types";
import type { Tree } from "./template-tree";

export type WeightDtype = "uint32" | "float16" | "float32";
export type BackendName = "webgpu" | "wasm";

export interface FileEntry {
  bytes: number;
  sha256: string;
}

export interface Variant {
  name: string;
  backend: BackendName;
  activationDtype: string;
  /** Of keys and values. */
  kvDtype: "float16" | "float32" | "q8";
  requiredFeatures: string[];
  requiredLimits: Record<string, number>;
  plan: string;
  kernels: string;
  /** A WebAssembly module with the same exports that needs relaxed SIMD. */
  kernelsRelaxed: string | undefined;
  kvBytesPerToken: number;
  activationBytes: number;
  dispatchesPerToken: number;
  prefillDispatches: Record<string, number>;
}

export interface GenerationDefaults {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
}

/** A short prompt and what the CPU's kernels make of it, logits by id: a device that computes otherwise is not used. */
export interface Smoke {
  ids: number[];
  /** The largest, in order. */
  top: [id: number, logit: number][];
  /** Some of the rest. */
  others: [id: number, logit: number][];
  /** The largest absolute logit; `tolerance` is a part of it. */
  scale: number;
  tolerance: number;
}

export interface Manifest {
  id: string;
  vocabSize: number;
  parameters: number;
  quantization: string;
  /** Matrices that are stored in another scheme, by name. */
  schemes: Map<string, string>;
  sourceValues: SourceValues | undefined;
  weightBytes: number;
  context: number;
  /** Of an embedding model: how many numbers an embedding has. */
  embeddingSize: number | undefined;
  bosTokenId: number | null;
  stopTokenIds: number[];
  generation: GenerationDefaults;
  chatTemplate: string | null;
  /** Undefined in artifacts of earlier compilers and of others. */
  chatTemplateTree: Tree | undefined;
  tokenizer: string[];
  weights: string;
  /** Undefined in artifacts of earlier compilers. */
  smoke: Smoke | undefined;
  variants: Variant[];
  files: Map<string, FileEntry>;
}

/** A tensor, or the rows `[rowOffset, rowOffset + shape[0])` of one, in a shard. */
export interface TensorRecord {
  name: string;
  shape: number[];
  dtype: WeightDtype;
  nbytes: number;
  byteOffset: number;
  rowOffset: number;
}

export interface Shard {
  path: string;
  nbytes: number;
  records: TensorRecord[];
}

/** A whole tensor, its parts joined. */
export interface Tensor {
  shape: number[];
  dtype: WeightDtype;
}

export interface TensorCache {
  shards: Shard[];
  tensors: Map<string, Tensor>;
}

/** `embedding` stands in place of all behind `input_ids` in plans of embedding models; the last two come with the program `mask`. */
export const IO_NAMES = ["input_ids", "token_ring", "token_counts", "logits", "embedding", "logit_mask", "logit_bias"] as const;
export type IoName = (typeof IO_NAMES)[number];

interface BufferBase {
  name: string;
  bytes: number;
}
export type PlanBuffer =
  | (BufferBase & { kind: "weight"; dtype: WeightDtype; shape: number[]; rows: [number, number] })
  | (BufferBase & { kind: "constant"; offset: number })
  | (BufferBase & { kind: "kv"; bytesPerPosition: number })
  | (BufferBase & { kind: "io"; name: IoName })
  | (BufferBase & { kind: "state" })
  | (BufferBase & { kind: "scratch" });

export type Access = "read" | "read_write";

export interface Kernel {
  entry: string;
  bindings: Access[];
}

export interface Dispatch {
  kernel: number;
  bind: number[];
  grid: [number, number, number];
  /** It is the last that writes the logits: what follows in its program is the sampler. */
  endsLogits?: true;
}

/** Programs that may be run in place of the plan's own of the same names, with kernels in a module of their own. */
export interface Alternative {
  name: string;
  kernelsFile: string;
  /** What its module needs of `navigator.gpu.wgslLanguageFeatures`. */
  languageFeatures: string[];
  /** Vendors, as adapters call them, on whose GPUs it is the faster one as far as is known: where nothing can be measured it runs. */
  preferredOn: string[];
  /** How far its logits may be from those of the plan's own programs, of the largest. */
  tolerance: number;
  kernels: Kernel[];
  /** By names of programs. Their dispatches count the plan's kernels first, then `kernels`. */
  programs: Map<string, Dispatch[]>;
}

export interface Verify {
  rows: number;
  program: Dispatch[];
}

export interface Plan {
  variant: string;
  context: number;
  vocabSize: number;
  ringSize: number;
  /** The buffer with what a decode step computes, and its numbers. */
  output: { name: "logits" | "embedding"; size: number };
  /** Largest first. */
  prefillChunks: number[];
  buffers: PlanBuffer[];
  kernels: Kernel[];
  decode: Dispatch[];
  prefill: Map<number, Dispatch[]>;
  /** What runs between a decode step's logits and its sampler; undefined in artifacts of earlier compilers. */
  mask: Dispatch | undefined;
  /** What a draft is verified with, and of how many rows; undefined in artifacts of earlier compilers. */
  verify: Verify | undefined;
  alternatives: Alternative[];
}

export const DTYPE_BYTES: Record<WeightDtype, number> = { uint32: 4, float16: 2, float32: 4 };
export const rowBytes = (shape: readonly number[], dtype: WeightDtype): number =>
  shape.slice(1).reduce((product, n) => product * n, DTYPE_BYTES[dtype]);
