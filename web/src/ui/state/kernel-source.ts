// The source of one kernel out of a variant's module: its WGSL, or the text of its WebAssembly. Knows no device.

/** Top-level declarations of a module, in order. */
function declarations(source: string): string[] {
  const found: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at < source.length; at++) {
    const char = source[at];
    if (char === "/" && source[at + 1] === "/") at = Math.max(at, source.indexOf("\n", at) - 1);
    else if (char === "{" || char === "(" || char === "[") depth++;
    else if (char === "}" || char === ")" || char === "]") depth--;
    if (depth > 0 || (char !== ";" && char !== "}")) continue;
    found.push(source.slice(start, at + 1));
    start = at + 1;
  }
  return found;
}

const DECLARED = /\b(?:fn|var\s*(?:<[^>]*>)?|struct|const|override|alias)\s+(\w+)/;

/** An entry point and what it uses of the module, in the module's order; empty where there is none of that name. */
export function wgslOf(source: string, entry: string): string {
  const all = declarations(source).map((text) => ({ text, name: DECLARED.exec(text)?.[1] }));
  const byName = new Map(all.flatMap(({ text, name }) => (name === undefined ? [] : [[name, text] as const])));
  const used = new Set<string>();
  const take = (name: string) => {
    const text = byName.get(name);
    if (text === undefined || used.has(name)) return;
    used.add(name);
    for (const [word] of text.matchAll(/[A-Za-z_]\w*/g)) take(word);
  };
  take(entry);
  return all
    .filter(({ name }) => name !== undefined && used.has(name))
    .map(({ text }) => text.replace(/^\s*\n/, ""))
    .join("\n")
    .trim();
}

/** A module's functions as WebAssembly's text, by the names that they are exported by. */
export async function watOf(module: Uint8Array<ArrayBuffer>): Promise<Map<string, string>> {
  const { BinaryReader, WasmDisassembler } = await import("wasmparser");
  const reader = new BinaryReader();
  reader.setData(module.buffer, module.byteOffset, module.byteLength);
  const disassembler = new WasmDisassembler();
  disassembler.addOffsets = true;
  disassembler.disassembleChunk(reader);
  const { lines } = disassembler.getResult() as { lines: string[] };
  const exported = new Map<string, string>();
  for (const line of lines) {
    const found = /^ {2}\(export "(\w+)" \(func (\$\w+)\)\)/.exec(line);
    if (found?.[1] !== undefined && found[2] !== undefined) exported.set(found[2], found[1]);
  }
  const texts = new Map<string, string>();
  for (let at = 0; at < lines.length; at++) {
    const name = exported.get(/^ {2}\(func (\$\w+)/.exec(lines[at] ?? "")?.[1] ?? "");
    if (name === undefined) continue;
    const end = lines.indexOf("  )", at);
    texts.set(name, lines.slice(at, end < 0 ? undefined : end + 1).join("\n"));
  }
  return texts;
}
