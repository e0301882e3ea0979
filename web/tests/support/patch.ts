// The add, remove and replace of JSON Patch (RFC 6902), for the bad fixtures.

export interface Operation {
  op: "add" | "remove" | "replace";
  path: string;
  value?: unknown;
}

/** A patched copy of `document`. */
export function applyPatch(document: unknown, patch: Operation[]): unknown {
  const root = { document: structuredClone(document) };
  for (const { op, path, value } of patch) {
    const keys = [
      "document",
      ...path
        .split("/")
        .slice(1)
        .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~")),
    ];
    const last = keys.pop() ?? "";
    let parent: unknown = root;
    for (const key of keys) parent = (parent as Record<string, unknown>)[key];
    if (Array.isArray(parent)) parent.splice(Number(last), op === "add" ? 0 : 1, ...(op === "remove" ? [] : [value]));
    else if (op === "remove") Reflect.deleteProperty(parent as object, last);
    else (parent as Record<string, unknown>)[last] = value;
  }
  return root.document;
}
