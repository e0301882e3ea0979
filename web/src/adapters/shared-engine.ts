// One engine for all sessions of the Prompt API: loaded for the first of them, its progress told to all who wait.

import type { Engine, LoadProgress } from "../api/types";

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

export type LoadEngine = (options: { onProgress: (progress: LoadProgress) => void; signal: AbortSignal }) => Promise<Engine>;

export class SharedEngine {
  /** When it is loaded. */
  engine: Engine | undefined;
  private loading: { engine: Promise<Engine>; controller: AbortController } | undefined;
  private readonly waiting = new Set<CreateMonitor>();

  constructor(private readonly load: LoadEngine) {}

  get state(): "absent" | "loading" | "here" {
    if (this.engine !== undefined) return "here";
    return this.loading === undefined ? "absent" : "loading";
  }

  /** @param signal the load itself ends when nobody waits for it any more */
  async get(monitor: CreateMonitor, signal: AbortSignal | undefined): Promise<Engine> {
    signal?.throwIfAborted();
    monitor.tell(0);
    this.waiting.add(monitor);
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
    const engine = this.load({ onProgress, signal: controller.signal });
    const begun = { engine, controller };
    engine.then(
      (loaded) => {
        this.engine = loaded;
      },
      () => {
        if (this.loading === begun) this.loading = undefined; // It may succeed the next time.
      },
    );
    return begun;
  }
}
