// A hook for React apps: an engine for as long as a component lives. Knows React and the engine's entry, nothing else.

import { useEffect, useRef, useState } from "react";
import type { ArtifactSource, Engine, EngineOptions, LoadProgress } from "../api/types";
import { createEngine } from "../page/entry";

export interface UseWisp {
  /** Undefined while it loads, and when there is no source. */
  engine: Engine | undefined;
  progress: LoadProgress | undefined;
  /** Why it could not be loaded, or why it is no longer there. */
  error: Error | undefined;
}

const NOTHING: UseWisp = { engine: undefined, progress: undefined, error: undefined };

/**
 * Loads an artifact when the component mounts and whenever `source` changes, and disposes of the engine after it.
 *
 * @param source null: nothing yet, for instance before the visitor agreed to a download
 * @param options read when a load begins; a change of them loads nothing
 */
export function useWisp(source: ArtifactSource | null, options: Omit<EngineOptions, "signal"> = {}): UseWisp {
  const [state, setState] = useState(NOTHING);
  const latest = useRef(options);
  latest.current = options;
  useEffect(() => {
    setState(NOTHING);
    if (source === null) return undefined;
    const given = latest.current;
    const controller = new AbortController();
    const { signal } = controller;
    const set = (change: Partial<UseWisp>) => {
      if (!signal.aborted) setState((before) => ({ ...before, ...change }));
    };
    const loading = createEngine(source, {
      ...given,
      signal,
      onProgress: (progress) => {
        given.onProgress?.(progress);
        set({ progress });
      },
      onDeviceLost: (error) => {
        given.onDeviceLost?.(error);
        set({ engine: undefined, error });
      },
    });
    loading.then(
      (engine) => set({ engine }),
      (error: unknown) => set({ error: error instanceof Error ? error : new Error(String(error)) }),
    );
    return () => {
      controller.abort();
      void loading.then(
        (engine) => engine.dispose(),
        () => undefined,
      );
    };
  }, [source]);
  return state;
}
