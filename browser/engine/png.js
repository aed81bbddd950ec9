// PNG, read without the browser's decoder, which converts colours, rounds 16 bits and multiplies by alpha: as Pillow
// reads it, to the last bit.

import { broken, joined, latin1, viewOf } from "./bytes.js";
import { inflate } from "./inflate.js";

const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]]; // x, y, and steps
const MOST = { blocks: 1000, compressed: 100, parts: 100_000 }; // as in detector/costs.py
const MOST_UNPACKED = 2 ** 20; // bytes of a text or profile, as in Pillow
const MOST_TEXT = 2 ** 26; // bytes of all texts
const TEXTS = new Set(["tEXt", "zTXt", "iTXt"]);
const [XMP, RAW_EXIF] = ["XML:com.adobe.xmp", "Raw profile type exif"];
const READ = new Set([XMP, RAW_EXIF]); // of the keywords of texts

const CRC = Int32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = -1;
  for (let place = 0; place < bytes.length; place += 1) value = CRC[(value ^ bytes[place]) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

// The header, and in `png` what `decodePng` needs. Notes on checksums and on a missing end come first, as in
// detector/images.py.
export async function readPng(bytes) {
  const view = viewOf(bytes);
  const header = { animated: false, notes: [] };
  const png = { parts: [], letters: 0 };
  const counts = { blocks: 0, compressed: 0, parts: 0 };
  const texts = new Map();
  let [place, kind, frames, isDefault] = [8, "", 1, true];
  let isNoted = false;
  while (kind !== "IEND") {
    if (place + 12 > bytes.length) {
      header.notes.push("damaged file (it ends before the PNG's end): part of the picture may be wrong");
      break;
    }
    const length = view.getUint32(place);
    kind = latin1(bytes, place + 4, place + 8);
    count(counts, kind);
    const data = bytes.subarray(place + 8, place + 8 + length);
    const end = place + 8 + length;
    if (end + 4 > bytes.length || crc32(bytes.subarray(place + 4, end)) !== view.getUint32(end)) {
      if (kind !== "IDAT" && !png.parts.length) throw new RangeError("the checksum of a chunk before the pixels");
      if (kind[0] === kind[0].toUpperCase()) throw broken("the checksum of a PNG chunk is wrong");
      if (!isNoted) header.notes.push("damaged file (the checksum of a PNG chunk beside the pixels is wrong)");
      isNoted = true;
    }
    if (kind === "IHDR") readStart(viewOf(data), data, header, png);
    else if (kind === "PLTE") png.palette = data;
    else if (kind === "tRNS") png.transparency = readTransparency(png.type, data);
    else if (kind === "IDAT") png.parts.push(data);
    else if (kind === "acTL" && !png.parts.length) frames = viewOf(data).getUint32(0) || 1;
    else if (kind === "fcTL" && !png.parts.length) isDefault = false;
    else if (kind === "iCCP") header.icc = await readProfile(data, png);
    else if (kind === "sRGB") header.isSrgb = true;
    else if (kind === "gAMA") header.gamma = viewOf(data).getUint32(0) / 100000;
    else if (kind === "cHRM") header.chromaticities = Array.from({ length: 8 }, (_, n) => viewOf(data).getUint32(4 * n) / 100000);
    else if (kind === "cICP" && length === 4 && !png.parts.length) header.cicp = [...data];
    else if (kind === "eXIf") header.exif = data;
    else if (TEXTS.has(kind)) await readText(kind, data, png, texts);
    else if (kind === "fdAT" && png.parts.length) header.hasFrames = true;
    place = end + 4;
  }
  if (!png.depth || !png.parts.length) throw new RangeError("no pixels");
  if (frames > 1 || (header.hasFrames && isDefault)) header.animated = true;
  header.xmp = texts.get(XMP);
  header.exif ??= fromHex(texts.get(RAW_EXIF));
  return { ...header, png };
}

function count(counts, kind) {
  const refuse = (what, most) => {
    throw new Error(`${what}, more than ${most.toLocaleString("en")}: it would take too long, save it again as PNG or JPEG`);
  };
  counts.parts += ["IDAT", "fdAT"].includes(kind);
  counts.blocks += !["IDAT", "fdAT", "fcTL", "IEND"].includes(kind);
  counts.compressed += ["iCCP", "zTXt", "iTXt"].includes(kind);
  if (counts.compressed > MOST.compressed) refuse("a PNG of very many profiles and compressed texts", MOST.compressed);
  if (counts.blocks > MOST.blocks) refuse("a PNG of very many chunks beside its pixels", MOST.blocks);
  if (counts.parts > MOST.parts) refuse("a PNG of very many chunks", MOST.parts);
}

function readStart(view, data, header, png) {
  [header.width, header.height] = [view.getUint32(0), view.getUint32(4)];
  [png.depth, png.type, png.isInterlaced] = [data[8], data[9], data[12] === 1];
  if (!DEPTHS[png.type]?.includes(png.depth)) throw new RangeError("another depth");
  header.sixteen = png.depth === 16;
  header.mode = { 0: png.depth === 1 ? "1" : "L", 2: "RGB", 3: "P", 4: png.depth === 16 ? "RGBA" : "LA", 6: "RGBA" }[png.type];
}

// Of greys and colours it is one of them, of two bytes a channel, which is clear; beside an alpha channel it is nothing.
function readTransparency(type, data) {
  if (type === 4 || type === 6) return undefined;
  if (data.length < { 0: 2, 2: 6 }[type]) throw broken("Truncated tRNS chunk");
  return data;
}

const afterZero = (data) => data.subarray(data.indexOf(0) + 1);

function readProfile(data, png) {
  const rest = afterZero(data);
  checkMethod(rest[0], "iCCP", png);
  return unpackText(rest.subarray(1));
}

// Sets a text of READ in `texts`, by its keyword, in Latin letters: no others matter in it. The last one counts. Each is
// unpacked, to refuse what Pillow refuses.
async function readText(kind, data, png, texts) {
  const end = data.includes(0) ? data.indexOf(0) : data.length;
  let text = data.subarray(end + 1);
  if (kind === "zTXt") {
    checkMethod(text[0], kind, png);
    text = (await unpackText(text.subarray(1))) ?? new Uint8Array();
  } else if (kind === "iTXt") {
    const [isPacked, method] = text;
    const language = text.subarray(2);
    const translated = afterZero(language); // the keyword
    if (!language.includes(0) || !translated.includes(0)) return;
    text = afterZero(translated);
    if (isPacked) text = method === 0 ? await unpackText(text) : null;
    if (!text) return;
  }
  png.letters += kind === "iTXt" ? text.reduce((sum, byte) => sum + ((byte & 0xc0) !== 0x80), 0) : text.length; // of UTF-8 or Latin-1
  if (png.letters > MOST_TEXT) throw broken("more than 64 MB of text");
  const keyword = latin1(data, 0, Math.min(end, 80));
  if (READ.has(keyword)) texts.set(keyword, new TextDecoder("latin1").decode(text));
}

// As Pillow refuses it: before the pixels it takes the file for none that it can read.
function checkMethod(method, kind, png) {
  if (!method) return;
  if (!png.parts.length) throw new RangeError("packed in an unknown way");
  throw broken(`Unknown compression method ${method} in ${kind} chunk`);
}

// null where it is broken
async function unpackText(packed) {
  const text = await inflate(packed, MOST_UNPACKED + 1).catch(() => null);
  if (text?.length > MOST_UNPACKED) throw broken("Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK");
  return text;
}

// EXIF as ImageMagick writes it into a text: after three line breaks, in hexadecimal digits.
function fromHex(text) {
  if (!text) return undefined;
  const digits = text.split("\n").slice(3).join("").replaceAll(/[ \t\r\v\f]/g, "");
  if (digits.length % 2 || /[^0-9a-f]/i.test(digits)) return Uint8Array.of(0); // broken EXIF
  return Uint8Array.from({ length: digits.length / 2 }, (_, n) => parseInt(digits.slice(2 * n, 2 * n + 2), 16));
}

// The pixels of a PNG that was read: RGBA, not multiplied by alpha, and whether there is any alpha. Rejects where they
// are broken.
export async function decodePng({ width, height, png }) {
  const bits = png.depth * CHANNELS[png.type];
  const passes = png.isInterlaced ? ADAM7 : [[0, 0, 1, 1]];
  const size = (most, first, step) => Math.ceil((most - first) / step);
  const sizes = passes.map(([x, y, dx, dy]) => [size(width, x, dx), size(height, y, dy)]);
  const needed = sizes.reduce((sum, [w, h]) => sum + (w > 0 ? h * (1 + Math.ceil((w * bits) / 8)) : 0), 0);
  const raw = await unpack(png.parts, needed);
  const data = new Uint8ClampedArray(4 * width * height);
  const put = painter(png, data);
  let start = 0;
  passes.forEach(([x, y, dx, dy], number) => {
    const [w, h] = sizes[number];
    if (w <= 0 || h <= 0) return;
    const stride = Math.ceil((w * bits) / 8);
    let before = new Uint8Array(stride);
    for (let row = 0; row < h; row += 1) {
      const line = raw.subarray(start + 1, start + 1 + stride);
      unfilter(raw[start], line, before, Math.max(1, bits >> 3));
      put(line, w, 4 * ((y + row * dy) * width + x), 4 * dx);
      before = line;
      start += 1 + stride;
    }
  });
  return { data, hasAlpha: hasAlpha(png) };
}

async function unpack(parts, needed) {
  let raw;
  try {
    raw = await inflate(joined(parts), needed + 1); // one more, as zlib reads on to the checksum
  } catch {
    throw broken("broken data stream when reading image file");
  }
  if (raw.length < needed) throw broken("image file is truncated");
  return raw;
}

function unfilter(kind, line, before, step) {
  if (kind === 1) for (let i = step; i < line.length; i += 1) line[i] += line[i - step];
  else if (kind === 2) for (let i = 0; i < line.length; i += 1) line[i] += before[i];
  else if (kind === 3) for (let i = 0; i < line.length; i += 1) line[i] += ((i < step ? 0 : line[i - step]) + before[i]) >> 1;
  else if (kind === 4) {
    for (let i = 0; i < line.length; i += 1) {
      const a = i < step ? 0 : line[i - step];
      const b = before[i];
      const c = i < step ? 0 : before[i - step];
      const da = Math.abs(b - c);
      const db = Math.abs(a - c);
      const dc = Math.abs(a + b - 2 * c);
      line[i] += da <= db && da <= dc ? a : db <= dc ? b : c;
    }
  } else if (kind) throw broken("an unknown filter");
}

// What Pillow takes for transparent: it compares a tRNS of greys and colours with the pixels that it has made of 2, 4 or
// 16 bits, and of 16 bits grey it forgets it.
function hasAlpha({ type, depth, transparency }) {
  if (type === 4 || type === 6) return true;
  return Boolean(transparency) && !(type === 0 && depth === 16);
}

// A function that writes one line of pixels into `data`, from `to`, `step` apart.
function painter(png, data) {
  const { type, depth, transparency } = png;
  if (type === 3) return paintPalette(png, data);
  const wide = depth === 16 ? 2 : 1;
  const scale = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
  const isSeen = hasAlpha(png) && transparency ? viewOf(transparency) : undefined;
  if (type === 0) {
    let clear = isSeen ? isSeen.getUint16(0) : -1;
    if (isSeen) clear = depth > 1 ? clear & 255 : clear && 255;
    return (line, count, to, step) => {
      for (let n = 0, at = to; n < count; n += 1, at += step) {
        const grey = depth < 8 ? scale * sample(line, n, depth) : line[n * wide];
        data[at] = data[at + 1] = data[at + 2] = grey;
        data[at + 3] = grey === clear ? 0 : 255;
      }
    };
  }
  if (type === 4) {
    return (line, count, to, step) => {
      for (let n = 0, at = to; n < count; n += 1, at += step) {
        data[at] = data[at + 1] = data[at + 2] = line[2 * n * wide];
        data[at + 3] = line[(2 * n + 1) * wide];
      }
    };
  }
  const clear = isSeen ? [0, 2, 4].map((place) => isSeen.getUint16(place) & 255) : undefined;
  const channels = CHANNELS[type];
  return (line, count, to, step) => {
    for (let n = 0, at = to, from = 0; n < count; n += 1, at += step, from += channels * wide) {
      data[at] = line[from];
      data[at + 1] = line[from + wide];
      data[at + 2] = line[from + 2 * wide];
      data[at + 3] = channels === 4 ? line[from + 3 * wide] : 255;
      if (clear && data[at] === clear[0] && data[at + 1] === clear[1] && data[at + 2] === clear[2]) data[at + 3] = 0;
    }
  };
}

const sample = (line, n, depth) => (line[(n * depth) >> 3] >> (8 - depth - ((n * depth) & 7))) & ((1 << depth) - 1);

function paintPalette({ depth, palette = new Uint8Array(), transparency = new Uint8Array() }, data) {
  const colours = new Uint8Array(1024); // of a short palette, the rest is black
  for (let n = 0; n < 256; n += 1) {
    colours.set(palette.subarray(3 * n, 3 * n + 3), 4 * n);
    colours[4 * n + 3] = transparency[n] ?? 255;
  }
  return (line, count, to, step) => {
    for (let n = 0, at = to; n < count; n += 1, at += step) {
      const from = 4 * (depth < 8 ? sample(line, n, depth) : line[n]);
      for (let colour = 0; colour < 4; colour += 1) data[at + colour] = colours[from + colour];
    }
  };
}
