// Every error a caller can meet, and their passage through postMessage.
//
// An error says what it is about, what was got, what was expected and what to do about it. It knows nothing of the modules
// that throw it. `kind` is for programs, `message` for people.

export type ErrorKind =
  | "artifact" // the artifact is malformed: ArtifactError
  | "network" // a file could not be fetched, or is not what model.json promised: NetworkError
  | "old-browser" // older than those that Wisp runs in: DeviceError
  | "no-webgpu" // the browser offers no WebGPU here: DeviceError
  | "no-adapter" // WebGPU is there, a GPU is not: DeviceError
  | "no-wasm" // the browser cannot run the CPU's kernels: DeviceError
  | "no-variant" // no variant of the artifact fits the device: DeviceError
  | "out-of-memory" // DeviceError
  | "device-lost" // DeviceError
  | "shader" // a kernel does not compile: DeviceError
  | "kernel" // a kernel on the CPU trapped: DeviceError
  | "wrong-results" // the device computes something else than the artifact says: DeviceError
  | "gpu" // WebGPU reported an error that nobody expected: DeviceError
  | "worker" // the engine's worker ended, or was ended because it did not answer: WispError
  | "storage" // models.*: the browser keeps nothing, or has no room: WispError
  | "request" // the caller asked for something impossible: RequestError
  | "context-overflow" // the prompt is longer than the context: RequestError
  | "disposed" // use after dispose(): RequestError
  | "internal";

export interface ErrorDetails {
  /** What the error is about, without got and expected. */
  what: string;
  got?: string | undefined;
  expected?: string | undefined;
  /** What the reader can do about it. */
  remedy?: string | undefined;
  /** The file of the artifact, when there is one. */
  file?: string | undefined;
}

function sentence(details: ErrorDetails): string {
  const { what, got, expected, remedy, file } = details;
  let text = file === undefined ? what : `${file}: ${what}`;
  if (got !== undefined) text += `: got ${got}`;
  if (expected !== undefined) text += `${got === undefined ? ":" : ","} expected ${expected}`;
  return remedy === undefined ? text : `${text}. ${remedy}`;
}

export class WispError extends Error {
  override readonly name: string = "WispError";
  readonly kind: ErrorKind;
  readonly what: string;
  readonly got: string | undefined;
  readonly expected: string | undefined;
  readonly remedy: string | undefined;
  readonly file: string | undefined;

  constructor(kind: ErrorKind, details: ErrorDetails) {
    super(sentence(details));
    this.kind = kind;
    this.what = details.what;
    this.got = details.got;
    this.expected = details.expected;
    this.remedy = details.remedy;
    this.file = details.file;
  }
}

/** The artifact's own files contradict the format or each other. */
export class ArtifactError extends WispError {
  override readonly name = "ArtifactError";
  constructor(details: ErrorDetails) {
    super("artifact", details);
  }
}

/** A file did not arrive, or did not arrive whole. */
export class NetworkError extends WispError {
  override readonly name = "NetworkError";
  constructor(details: ErrorDetails) {
    super("network", details);
  }
}

/** The GPU, the adapter or a shader; on the CPU memory, threads or a kernel. */
export class DeviceError extends WispError {
  override readonly name = "DeviceError";
}

/** The caller's request cannot be met. */
export class RequestError extends WispError {
  override readonly name = "RequestError";
  constructor(details: ErrorDetails, kind: "request" | "context-overflow" | "disposed" = "request") {
    super(kind, details);
  }
}

const NAMES = new Set(["WispError", "ArtifactError", "NetworkError", "DeviceError", "RequestError"]);

/** An error as plain data, for postMessage. */
export interface SerializedError extends ErrorDetails {
  name: string;
  kind: ErrorKind;
  message: string;
  stack?: string | undefined;
}

/** The error an AbortSignal's owner expects. */
export function abortError(signal?: AbortSignal): Error {
  if (signal?.reason instanceof Error) return signal.reason;
  return new DOMException("The operation was aborted", "AbortError");
}

/** Also one of a file that is built apart, such as grammar.js, and has these classes once more. */
function isOurs(error: unknown): error is WispError {
  if (error instanceof WispError) return true;
  if (!(error instanceof Error) || !NAMES.has(error.name)) return false;
  const { kind, what } = error as Partial<WispError>;
  return typeof kind === "string" && typeof what === "string";
}

export function serializeError(error: unknown): SerializedError {
  if (isOurs(error)) {
    const { name, kind, message, what, got, expected, remedy, file, stack } = error;
    return { name, kind, message, what, got, expected, remedy, file, stack };
  }
  if (error instanceof Error) {
    const { name, message, stack } = error;
    return { name, kind: "internal", message, what: message, stack };
  }
  return { name: "Error", kind: "internal", message: String(error), what: String(error) };
}

export function deserializeError(data: SerializedError): Error {
  const { name, kind, message } = data;
  switch (name) {
    case "ArtifactError":
      return new ArtifactError(data);
    case "NetworkError":
      return new NetworkError(data);
    case "DeviceError":
      return new DeviceError(kind, data);
    case "RequestError":
      return new RequestError(data, kind === "context-overflow" || kind === "disposed" ? kind : "request");
    case "AbortError":
      return new DOMException(message, "AbortError");
    default:
      return new WispError(kind, data);
  }
}
