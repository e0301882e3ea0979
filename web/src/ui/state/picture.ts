// A persona's picture: some letters or a small image, whatever a file gives.

const LONGEST = 400_000; // characters of a data: address
const IMAGE = /^data:image\/(?:png|jpeg|webp);base64,[A-Za-z0-9+/=]+$/;
const ICON = /^icon:(?:book|edit|story)$/; // of the personas that ship
const LETTERS = 8; // code points: one emoji may have that many

export function readPicture(found: unknown): string {
  if (typeof found !== "string") return "";
  if (found.startsWith("data:")) return found.length <= LONGEST && IMAGE.test(found) ? found : "";
  if (ICON.test(found)) return found;
  return Array.from(found.trim()).slice(0, LETTERS).join("");
}
