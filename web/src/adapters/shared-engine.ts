// One engine for all sessions of the Prompt API: loaded for the first of them, its progress told to all who wait.

import type { Engine, LoadProgress } from "../api/types";
import { isDisposed } from "./lost";

/** `loaded` goes from 0 to 1. */
export class DownloadProgressEvent extends Event {
  readonly total = 1;
  readonly lengthComputable = true;
  constructor(readonly loaded: number) {
    super("downloadprogress");
  }
}

export class CreateMonitor extends EventTarget {
  ondownloadprogress: ((event: DownloadProgressEvent) => void) | null = null;
  private told = -1;

  constructor() {
    super();
    this.addEventListener("downloadprogress", (event) => {
      if (event instanceof DownloadProgressEvent) this.ondownloadprogress?.(event);
    });
  }

  tell(loaded: number): void {
    if (loaded <= this.told) return;
    this.told = loaded;
    this.dispatchEvent(new DownloadProgressEvent(loaded));
  }
}

/** With `onDeviceLost` handed on to createEngine(), an engine that is lost for good is replaced by the next session. */
export type LoadEngine = (options: {
  onProgress: (progress: LoadProgress) => void;
  onDeviceLost: () => void;
  signal: AbortSignal;
}) => Promise<Engine>;

export class SharedEngine {
  private loaded: Engine | undefined;
  private loading: { engine: Promise<Engine>; controller: AbortController } | undefined;
  private readonly waiting = new Set<CreateMonitor>();

  constructor(private readonly load: LoadEngine) {}

  /** When it is loaded, and as long as it lives. */
  get engine(): Engine | undefined {
    return this.loaded === undefined || isDisposed(this.loaded) ? undefined : this.loaded;
  }

  get state(): "absent" | "loading" | "here" {
    if (this.engine !== undefined) return "here";
    return this.loading === undefined || this.loaded !== undefined ? "absent" : "loading";
  }

  /** @param signal the load itself ends when nobody waits for it any more */
  async get(monitor: CreateMonitor, signal: AbortSignal | undefined): Promise<Engine> {
    signal?.throwIfAborted();
    monitor.tell(0);
    this.waiting.add(monitor);
    if (this.state === "absent") this.loading = this.loaded = undefined; // What there was is disposed of.
    const { engine, controller } = (this.loading ??= this.begin());
    let leave = (): void => undefined;
    const left = new Promise<never>((_, reject) => {
      leave = () => {
        this.waiting.delete(monitor);
        if (this.waiting.size === 0 && this.engine === undefined) {
          this.loading = undefined;
          controller.abort(signal?.reason);
        }
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", leave, { once: true });
    });
    try {
      const loaded = await Promise.race([engine, left]);
      monitor.tell(1);
      return loaded;
    } finally {
      this.waiting.delete(monitor);
      signal?.removeEventListener("abort", leave);
    }
  }

  private begin(): { engine: Promise<Engine>; controller: AbortController } {
    const controller = new AbortController();
    const onProgress = ({ loadedBytes, totalBytes }: LoadProgress) => {
      for (const monitor of this.waiting) monitor.tell(totalBytes > 0 ? loadedBytes / totalBytes : 0);
    };
    const onDeviceLost = () => {
      if (this.loading !== begun) return;
      void this.loaded?.dispose();
      this.loaded = this.loading = undefined;
    };
    const engine = this.load({ onProgress, onDeviceLost, signal: controller.signal });
    const begun = { engine, controller };
    engine.then(
      (loaded) => {
        if (this.loading === begun) this.loaded = loaded;
        else void loaded.dispose(); // Nobody waits for it any more.
      },
      () => {
        if (this.loading === begun) this.loading = undefined; // It may succeed the next time.
      },
    );
    return begun;
  }
}
