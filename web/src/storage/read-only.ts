// What is kept, to be looked at alone.

import type { FileCache } from "../artifact/file-cache";

export class ReadOnly implements FileCache {
  readonly stores = false;
  readonly refusal = undefined;

  constructor(private readonly cache: FileCache) {}

  get = (key: string) => this.cache.get(key);
  blob = (key: string) => this.cache.blob(key);
  has = (key: string) => this.cache.has(key);
  keys = () => this.cache.keys();
  put = () => Promise.resolve();
  delete = () => Promise.resolve();
  refuse = () => undefined;
}
