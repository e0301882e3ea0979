// Reading untrusted JSON: each function returns a value of the type it names or throws an ArtifactError that says where it
// looked, what it got and what it expected. Knows JSON and paths, not the artifact's files.

import { ArtifactError } from "../api/errors";

export const GIB = 2 ** 30;

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}

export function fail(file: string, what: string, got: unknown, expected: string): never {
  throw new ArtifactError({ file, what, got: show(got), expected });
}

/** A JSON object together with where it stands, so that errors can say `variants[0].plan`. */
export class Node {
  constructor(
    readonly file: string,
    readonly path: string,
    readonly value: unknown,
  ) {}

  fail(expected: string): never {
    fail(this.file, this.path === "" ? "the document" : this.path, this.value, expected);
  }

  get(key: string): Node {
    const path = this.path === "" ? key : `${this.path}.${key}`;
    return new Node(this.file, path, this.record()[key]);
  }

  record(): Record<string, unknown> {
    const { value } = this;
    if (typeof value !== "object" || value === null || Array.isArray(value)) this.fail("an object");
    return value as Record<string, unknown>;
  }

  entries(most: number): [string, Node][] {
    const pairs = Object.entries(this.record());
    if (pairs.length > most) this.fail(`at most ${most} entries`);
    return pairs.map(([key, value]) => [key, new Node(this.file, `${this.path}[${JSON.stringify(key)}]`, value)]);
  }

  list(most: number): Node[] {
    const { value } = this;
    if (!Array.isArray(value)) this.fail("a list");
    if (value.length > most) fail(this.file, `${this.path} length`, value.length, `at most ${most}`);
    return value.map((item, i) => new Node(this.file, `${this.path}[${i}]`, item));
  }

  string(): string {
    if (typeof this.value !== "string") this.fail("a string");
    return this.value;
  }

  oneOf<T extends string>(choices: readonly T[]): T {
    const found = choices.find((choice) => choice === this.value);
    return found ?? this.fail(choices.map((choice) => JSON.stringify(choice)).join(" or "));
  }

  number(least = -Infinity, most = Infinity): number {
    const { value } = this;
    if (typeof value !== "number" || !(value >= least && value <= most)) this.fail(`a number from ${least} to ${most}`);
    return value;
  }

  int(least = 0, most = Number.MAX_SAFE_INTEGER): number {
    const { value } = this;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least || value > most)
      this.fail(most === Number.MAX_SAFE_INTEGER ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`);
    return value;
  }

  /** `value`, and nothing else. */
  exactly(value: string | number): void {
    if (this.value !== value) this.fail(show(value));
  }

  /** A relative path of a file inside the artifact. */
  filePath(): string {
    return checkPath(this.file, this.path, this.string());
  }
}

const PATH_PART = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;

/** Relative, without `..`, scheme, host, query or backslash, of at most 200 characters. */
export function checkPath(file: string, what: string, path: string): string {
  if (path.length > 200 || !path.split("/").every((part) => PATH_PART.test(part)))
    fail(file, `${what}: path`, path, "a relative path inside the artifact of at most 200 characters");
  return path;
}
