// A small copy of an image, so that a card's large picture is not kept whole. What the file says of itself is left behind.

import { readPicture } from "../state/picture";

const SIDE = 192; // pixels

/** As a data: address; empty where the browser does not take the file for an image. */
export async function smallPicture(file: Blob): Promise<string> {
  if (!/^image\/(?:png|jpeg|webp)$/.test(file.type)) return "";
  try {
    const image = await createImageBitmap(file);
    // The middle of its upper part, where faces are.
    const side = Math.min(image.width, image.height);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    canvas.getContext("2d")?.drawImage(image, (image.width - side) / 2, 0, side, side, 0, 0, SIDE, SIDE);
    image.close();
    return readPicture(canvas.toDataURL("image/jpeg", 0.85));
  } catch {
    return "";
  }
}
