// The Prompt API's `LanguageModel` on an engine: `globalThis.LanguageModel ??= promptApi(...)`. What browsers that have the API
// build in, pages on any other get by it. A session is a list of messages; the engine finds again in its cache what it has seen.

import { checkPrompt, domError, type LanguageModelMessage, samplingOf } from "./prompt-messages";
import { type LanguageModelParams, LanguageModelSession, type LanguageModelTool, paramsOf } from "./prompt-session";
import { CreateMonitor, type LoadEngine, SharedEngine } from "./shared-engine";

export type { LanguageModelMessage, LanguageModelMessageContent, LanguageModelPrompt, ResponseConstraint } from "./prompt-messages";
export type { LanguageModelParams, LanguageModelPromptOptions, LanguageModelSession, LanguageModelTool } from "./prompt-session";
export type { CreateMonitor, LoadEngine } from "./shared-engine";

export type Availability = "unavailable" | "downloadable" | "downloading" | "available";

export interface LanguageModelExpected {
  type: "text" | "image" | "audio";
  languages?: string[];
}

export interface LanguageModelCoreOptions {
  temperature?: number;
  topK?: number;
  expectedInputs?: LanguageModelExpected[];
  expectedOutputs?: LanguageModelExpected[];
  tools?: LanguageModelTool[];
}

export interface LanguageModelCreateOptions extends LanguageModelCoreOptions {
  initialPrompts?: LanguageModelMessage[];
  /** Ends the load, and later the session. */
  signal?: AbortSignal;
  monitor?: (monitor: CreateMonitor) => void;
}

export interface PromptApiOptions {
  /** Whether the model is stored here already: `downloadable` is then `available`. */
  isStored?: () => Promise<boolean>;
}

/** What `LanguageModel` itself has. */
export interface LanguageModelStatic {
  create(options?: LanguageModelCreateOptions): Promise<LanguageModelSession>;
  availability(options?: LanguageModelCoreOptions): Promise<Availability>;
  /** Null before the model is loaded: they are its own. */
  params(): Promise<LanguageModelParams | null>;
}

/** @param load makes the engine, once, for the first session: `(options) => createEngine("/model/", options)` */
export function promptApi(load: LoadEngine, { isStored }: PromptApiOptions = {}): LanguageModelStatic {
  const shared = new SharedEngine(load);
  return class LanguageModel extends LanguageModelSession {
    static async create(options: LanguageModelCreateOptions = {}): Promise<LanguageModelSession> {
      const unsupported = unsupportedOf(options);
      if (unsupported !== undefined) throw new DOMException(unsupported, "NotSupportedError");
      const sampling = samplingOf(options);
      const initial = checkPrompt(options.initialPrompts ?? [], true).messages;
      const monitor = new CreateMonitor();
      options.monitor?.(monitor);
      const engine = await shared.get(monitor, options.signal).catch((error: unknown) => Promise.reject(domError(error) as Error));
      const session = new LanguageModel({ engine, initial, sampling, tools: options.tools ?? [] });
      await session.begin();
      if (options.signal?.aborted === true) session.destroy();
      options.signal?.throwIfAborted();
      options.signal?.addEventListener("abort", () => session.destroy(), { once: true });
      return session;
    }

    static async availability(options: LanguageModelCoreOptions = {}): Promise<Availability> {
      if (unsupportedOf(options) !== undefined) return "unavailable";
      if (shared.state === "absent" && (await isStored?.()) === true) return "available";
      return ({ absent: "downloadable", loading: "downloading", here: "available" } as const)[shared.state];
    }

    static params(): Promise<LanguageModelParams | null> {
      const { engine } = shared;
      return Promise.resolve(engine === undefined ? null : paramsOf(engine));
    }
  };
}

function unsupportedOf({ expectedInputs = [], expectedOutputs = [] }: LanguageModelCoreOptions): string | undefined {
  const other = [...expectedInputs, ...expectedOutputs].find(({ type }) => type !== "text");
  return other === undefined ? undefined : `expected inputs and outputs: got ${other.type}, expected text: the model reads text only`;
}
