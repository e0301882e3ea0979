// Files in one file: tar as POSIX has it (ustar), written and read in blobs, of which nothing but the heads is read. Knows names
// and bytes, not what they mean.

import { RequestError } from "../api/errors";

const BLOCK = 512;
const NAME = { at: 0, size: 100 };
const SIZE = { at: 124, size: 12 };
const CHECKSUM = { at: 148, size: 8 };
const TYPE = 156;
const PREFIX = { at: 345, size: 155 };
/** Of a text, 11 octal digits. */
const MOST_BYTES = 8 ** 11 - 1;

interface Field {
  at: number;
  size: number;
}

/** @param path ASCII, of at most 255 characters */
export function tarEntry(path: string, bytes: Blob): BlobPart[] {
  if (bytes.size > MOST_BYTES) throw new RangeError(`${path} has ${bytes.size} bytes`);
  const head = new Uint8Array(BLOCK);
  const put = ({ at }: Field, text: string) => head.set(new TextEncoder().encode(text), at);
  // The name is what follows a slash, where all of it is too long.
  const split = path.length <= NAME.size ? -1 : path.indexOf("/", path.length - NAME.size - 1);
  if ((path.length > NAME.size && split < 0) || split > PREFIX.size) throw new RangeError(`${path} is too long a name`);
  put(NAME, path.slice(split + 1));
  if (split > 0) put(PREFIX, path.slice(0, split));
  put({ at: 100, size: 8 }, "0000644\0");
  put({ at: 108, size: 8 }, "0000000\0");
  put({ at: 116, size: 8 }, "0000000\0");
  put(SIZE, `${bytes.size.toString(8).padStart(11, "0")}\0`);
  put({ at: 136, size: 12 }, "00000000000\0");
  put({ at: TYPE, size: 1 }, "0");
  put({ at: 257, size: 8 }, "ustar\x0000");
  put(CHECKSUM, `${checksum(head).toString(8).padStart(6, "0")}\0 `);
  return [head, bytes, new Uint8Array(padding(bytes.size))];
}

/** What ends the file. */
export const tarEnd = (): BlobPart => new Uint8Array(2 * BLOCK);

/** The files by their names, as slices. @throws RequestError when it is no tar file */
export async function readTar(tar: Blob): Promise<Map<string, Blob>> {
  const files = new Map<string, Blob>();
  /** What an entry before has to say of the next one. */
  let named: string | undefined;
  for (let at = 0; ;) {
    const head = new Uint8Array(await tar.slice(at, at + BLOCK).arrayBuffer());
    if (head.length === BLOCK && head.every((byte) => byte === 0)) return files;
    const size = octal(head, SIZE);
    if (head.length < BLOCK || octal(head, CHECKSUM) !== checksum(head) || !(size <= tar.size - at - BLOCK)) throw noTar(tar, at);
    const body = tar.slice(at + BLOCK, at + BLOCK + size);
    const type = String.fromCharCode(head[TYPE] ?? 0);
    const prefix = textOf(head, PREFIX);
    // GNU's and POSIX's long names; other kinds, such as folders, have no bytes of an artifact.
    if (type === "L") named = (await body.text()).replace(/\0+$/, "");
    else if (type === "x") named = /^\d+ path=(.*)$/m.exec(await body.text())?.[1] ?? named;
    else {
      const name = named ?? (prefix === "" ? "" : `${prefix}/`) + textOf(head, NAME);
      if (type === "0" || type === "\0") files.set(name.replace(/^(?:\.\/)+/, ""), body);
      named = undefined;
    }
    at += BLOCK + size + padding(size);
  }
}

const padding = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;

/** The sum of the head's bytes, as if the checksum were blank. */
function checksum(head: Uint8Array): number {
  const inField = (i: number) => i >= CHECKSUM.at && i < CHECKSUM.at + CHECKSUM.size;
  return head.reduce((sum, byte, i) => sum + (inField(i) ? 32 : byte), 0);
}

function textOf(head: Uint8Array, { at, size }: Field): string {
  return new TextDecoder().decode(head.subarray(at, at + size)).replace(/\0.*$/s, "");
}

/** NaN when it is none. */
function octal(head: Uint8Array, field: Field): number {
  const digits = textOf(head, field).trim();
  return /^[0-7]+$/.test(digits) ? parseInt(digits, 8) : NaN;
}

function noTar({ size }: Blob, at: number): RequestError {
  return new RequestError({
    what: "The file is no tar file, or was cut off",
    got: `${size} bytes, of which those from ${at} on are no entry`,
    expected: "a file that models.export() made, or an artifact's folder packed with tar",
  });
}
