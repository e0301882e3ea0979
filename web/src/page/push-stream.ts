// A stream between two that do not wait for each other.

/** Values pushed by one side, awaited by the other. Leaving the loop calls `onReturn`. */
export class PushStream<T> implements AsyncIterableIterator<T> {
  private readonly values: T[] = [];
  private readonly waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] = [];
  private ended = false;
  private error: { value: unknown } | undefined;

  constructor(private readonly onReturn: () => void) {}

  push(value: T): void {
    if (this.ended) return;
    const reader = this.waiting.shift();
    if (reader === undefined) this.values.push(value);
    else reader.resolve({ done: false, value });
  }

  end(): void {
    this.ended = true;
    for (const { resolve } of this.waiting.splice(0)) resolve({ done: true, value: undefined });
  }

  fail(error: unknown): void {
    if (this.ended) return;
    this.ended = true;
    const reader = this.waiting.shift();
    if (reader === undefined) this.error = { value: error };
    else reader.reject(error);
    this.end();
  }

  async next(): Promise<IteratorResult<T>> {
    const value = this.values.shift();
    if (value !== undefined) return Promise.resolve({ done: false, value });
    if (this.error !== undefined) {
      const { value: error } = this.error;
      this.error = undefined;
      throw error;
    }
    if (this.ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<T>> {
    if (!this.ended) this.onReturn();
    this.values.length = 0;
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
