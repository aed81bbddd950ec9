// The EXIF orientation of a picture, 1 to 8: 1 where there is none.

import { latin1, viewOf } from "./bytes.js";

const ORIENTATION = 0x0112;
const HEADS = ["II*\0", "MM\0*", "MM*\0", "II\0*", "MM\0+"]; // of TIFF; the others are wrong, and read all the same
// By TIFF's types: the bytes of a number, and how to read one. Texts and bytes are no numbers.
const text = () => NaN;
const TYPES = {
  1: [1, text],
  2: [1, text],
  3: [2, (view, at, little) => view.getUint16(at, little)],
  4: [4, (view, at, little) => view.getUint32(at, little)],
  5: [8, (view, at, little) => view.getUint32(at, little) / view.getUint32(at + 4, little)],
  6: [1, (view, at) => view.getInt8(at)],
  7: [1, text],
  8: [2, (view, at, little) => view.getInt16(at, little)],
  9: [4, (view, at, little) => view.getInt32(at, little)],
  10: [8, (view, at, little) => view.getInt32(at, little) / view.getInt32(at + 4, little)],
  11: [4, (view, at, little) => view.getFloat32(at, little)],
  12: [8, (view, at, little) => view.getFloat64(at, little)],
  13: [4, (view, at, little) => view.getUint32(at, little)],
  16: [8, (view, at, little) => Number(view.getBigUint64(at, little))],
};

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
  return Number.isInteger(said) && said >= 2 && said <= 8 ? said : 1;
}

function fromExif(block) {
  let bytes = block;
  while (latin1(bytes, 0, 6) === "Exif\0\0") bytes = bytes.subarray(6);
  if (!bytes.length) return undefined;
  const order = latin1(bytes, 0, 4);
  if (!HEADS.includes(order)) throw new Error("no TIFF header");
  const little = order[0] === "I";
  const view = viewOf(bytes);
  const start = view.getUint32(4, little);
  const count = start + 2 <= bytes.length ? view.getUint16(start, little) : 0;
  for (let entry = start + 2; entry < Math.min(start + 2 + 12 * count, bytes.length - 11); entry += 12) {
    if (view.getUint16(entry, little) !== ORIENTATION) continue;
    const [size, read] = TYPES[view.getUint16(entry + 2, little)] ?? [0];
    const length = size * view.getUint32(entry + 4, little);
    const place = length > 4 ? view.getUint32(entry + 8, little) : entry + 8;
    if (length && place + length <= bytes.length) return read(view, place, little); // the first of several
  }
  return undefined;
}
