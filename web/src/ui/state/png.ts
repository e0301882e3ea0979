// The texts that a PNG file carries. Decodes no picture.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const HEADER = 8; // of a chunk: its length and its type
const CHECKSUM = 4;

const latin1 = (bytes: Uint8Array): string => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

export function isPng(bytes: Uint8Array): boolean {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/** The tEXt chunks of a PNG file (PNG 1.2, 11.3.4.3), by keyword: of two with the same one the first. */
export function pngTexts(bytes: Uint8Array): Map<string, string> {
  const texts = new Map<string, string>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = SIGNATURE.length; at + HEADER <= bytes.length;) {
    const length = view.getUint32(at);
    const start = at + HEADER;
    if (start + length > bytes.length) break; // the file is cut off
    if (latin1(bytes.subarray(at + 4, start)) === "tEXt") {
      const data = bytes.subarray(start, start + length);
      const end = data.indexOf(0);
      const keyword = latin1(data.subarray(0, Math.max(0, end)));
      if (end > 0 && !texts.has(keyword)) texts.set(keyword, latin1(data.subarray(end + 1)));
    }
    at = start + length + CHECKSUM;
  }
  return texts;
}
