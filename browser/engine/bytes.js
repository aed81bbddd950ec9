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
  if (/^BM[^]{4}\0\0\0\0/.test(start)) return "BMP";
  if (/^(II[*+]\0|MM\0[*+])/.test(start)) return "TIFF";
  if (/^[^]{4}ftypavi[fs]/.test(start)) return "AVIF";
  return undefined;
}

// What is packed by zlib. kind: "deflate", of which all checks are made. Rejects where it is broken.
export async function inflate(bytes, most = Infinity) {
  const parts = [];
  let size = 0;
  for await (const part of readAll(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")))) {
    size += part.length;
    if (size > most) throw new Error("more than it may unpack to");
    parts.push(part);
  }
  const whole = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

async function* readAll(stream) { // not every browser iterates over a stream
  const reader = stream.getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

// The place of a text in bytes, from `start` and before `end`; -1 where it is not.
export function find(bytes, text, start = 0, end = bytes.length) {
  const codes = [...text].map((letter) => letter.charCodeAt(0));
  for (let place = bytes.indexOf(codes[0], start); place >= 0 && place + codes.length <= end; place = bytes.indexOf(codes[0], place + 1)) {
    if (codes.every((code, number) => bytes[place + number] === code)) return place;
  }
  return -1;
}
