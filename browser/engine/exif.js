// The EXIF orientation of a picture, 1 to 8: 1 where there is none.

import { latin1, viewOf } from "./bytes.js";

const ORIENTATION = 0x0112;

// exif: the block, with or without "Exif\0\0" before it; xmp: a text. Either may be undefined. As Pillow reads it: XMP
// counts where EXIF says nothing, and of a broken block nothing is taken.
export function orientationOf(exif, xmp) {
  let said;
  try {
    said = exif && fromExif(exif);
  } catch {
    return 1;
  }
  said ??= Number(xmp?.match(/tiff:Orientation(="|>)([0-9])/)?.[2] ?? 1);
  return said >= 2 && said <= 8 ? said : 1;
}

function fromExif(block) {
  let bytes = block;
  while (latin1(bytes, 0, 6) === "Exif\0\0") bytes = bytes.subarray(6);
  if (!bytes.length) return undefined;
  const order = latin1(bytes, 0, 4);
  if (order !== "II*\0" && order !== "MM\0*") throw new Error("no TIFF header");
  const little = order[0] === "I";
  const view = viewOf(bytes);
  const start = view.getUint32(4, little);
  for (let entry = start + 2; entry < start + 2 + 12 * view.getUint16(start, little); entry += 12) {
    if (view.getUint16(entry, little) !== ORIENTATION) continue;
    const [kind, count] = [view.getUint16(entry + 2, little), view.getUint32(entry + 4, little)];
    if (count !== 1) return 1; // several numbers are no orientation
    if (kind === 3) return view.getUint16(entry + 8, little);
    if (kind === 4) return view.getUint32(entry + 8, little);
    return 1;
  }
  return undefined;
}
