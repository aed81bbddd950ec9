// Bytes of a picture file, read by their place.

export const FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF"];

export const latin1 = (bytes, start, end) => String.fromCharCode(...bytes.subarray(start, end));
export const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export const broken = (what) => new Error(`broken picture (${what})`);

// Which format a file's first bytes say it is, as detector/sources.py tells it; undefined for another.
export function formatOf(bytes) {
  const start = latin1(bytes, 0, 16);
  if (start.startsWith("\xff\xd8\xff")) return "JPEG";
  if (start.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (/^GIF8[79]a/.test(start)) return "GIF";
  if (/^RIFF[^]{4}WEBP/.test(start)) return "WEBP";
  if (/^BM([^]{4}\0\0\0\0|[^]{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0)/.test(start)) return "BMP"; // four bytes are reserved, or a header of such a size follows
  if (/^(II[*+]\0|MM\0[*+])/.test(start)) return "TIFF";
  if (brands(bytes).some((brand) => brand === "avif" || brand === "avis")) return "AVIF";
  return undefined;
}

// What a file of boxes (ISO/IEC 14496-12) says it is: its major brand, and those that it is compatible with.
function brands(bytes) {
  if (latin1(bytes, 4, 8) !== "ftyp") return [];
  const end = Math.min(viewOf(bytes).getUint32(0), bytes.length, 256);
  const names = latin1(bytes, 8, end).match(/[^]{4}/g) ?? [];
  return names.filter((_, place) => place !== 1); // which is a version
}

export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((place, part) => (whole.set(part, place), place + part.length), 0);
  return whole;
}

// The place of a text in bytes, from `start` and before `end`; -1 where it is not.
export function find(bytes, text, start = 0, end = bytes.length) {
  const codes = [...text].map((letter) => letter.charCodeAt(0));
  for (let place = bytes.indexOf(codes[0], start); place >= 0 && place + codes.length <= end; place = bytes.indexOf(codes[0], place + 1)) {
    if (codes.every((code, number) => bytes[place + number] === code)) return place;
  }
  return -1;
}
