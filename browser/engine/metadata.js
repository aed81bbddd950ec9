// EXIF: the fields in it that may say what made a picture. detector/metadata.py; its XMP is in xmp.js.

import { latin1, viewOf } from "./bytes.js";

export const LONGEST = 2 ** 20; // bytes of a value, and of a packet of XMP, that are looked at
const EXIF_POINTER = 0x8769;
const USER_COMMENT = 0x9286;
const EXIF_TAGS = new Map([
  [0x000b, "ProcessingSoftware"],
  [0x010e, "ImageDescription"],
  [0x010f, "Make"],
  [0x0110, "Model"],
  [0x0131, "Software"],
  [0x013b, "Artist"],
  [USER_COMMENT, "UserComment"],
  [0x9c9c, "XPComment"],
  [0x9c9d, "XPAuthor"],
]);
const TYPE_BYTES = { 1: 1, 2: 1, 3: 2, 4: 4, 7: 1 }; // by TIFF's types: those that texts and pointers have

// Those of EXIF_TAGS that a block of EXIF has: [name, text, or bytes whose encoding is not known].
export function exifTexts(exif) {
  return [...tiffTags(exif)].map(([tag, value]) => {
    let text = value;
    if (tag === USER_COMMENT) { // it says in eight bytes how it is encoded
      text = value.subarray(8);
      if (latin1(value, 0, 8) === "UNICODE\0") text = utf16(text, exif);
    } else if (tag >= 0x9c9c) text = new TextDecoder("utf-16le", { ignoreBOM: true }).decode(value); // Windows' own
    return [EXIF_TAGS.get(tag), text];
  });
}

// Programs do not agree on the order of bytes: the zeros of Latin letters tell it.
function utf16(value, exif) {
  const zeros = value.reduce((sum, byte, place) => sum + (byte ? 0 : place % 2 ? -1 : 1), 0);
  const isBig = zeros > 0 || (zeros === 0 && latin1(exif, 0, 1) === "M");
  return new TextDecoder(isBig ? "utf-16be" : "utf-16le", { ignoreBOM: true }).decode(value);
}

// The values of those tags in TIFF's first directory and in the EXIF directory that it points to, by number.
function tiffTags(bytes) {
  const found = new Map();
  const order = latin1(bytes, 0, 4);
  if ((order !== "II*\0" && order !== "MM\0*") || bytes.length < 8) return found;
  const little = order[0] === "I";
  const view = viewOf(bytes);
  const directories = [view.getUint32(4, little)];
  for (const start of directories) { // it may grow by one
    const count = start + 2 <= bytes.length ? view.getUint16(start, little) : 0;
    for (let entry = start + 2; entry < Math.min(start + 2 + 12 * count, bytes.length - 11); entry += 12) {
      const [tag, kind] = [view.getUint16(entry, little), view.getUint16(entry + 2, little)];
      const [number, value] = [view.getUint32(entry + 4, little), view.getUint32(entry + 8, little)];
      if (tag === EXIF_POINTER && directories.length === 1) directories.push(value);
      else if (EXIF_TAGS.has(tag) && !found.has(tag)) {
        const size = Math.min(number * (TYPE_BYTES[kind] ?? 0), LONGEST);
        const place = size <= 4 ? entry + 8 : value;
        found.set(tag, bytes.subarray(place, place + size));
      }
    }
  }
  return found;
}
