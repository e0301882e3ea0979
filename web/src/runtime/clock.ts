// Time as the runtime sees it, so that tests can simulate it.

export interface Clock {
  /** Milliseconds from some start. */
  now(): number;
  sleep(milliseconds: number): Promise<void>;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
};
