// Turn any picture file into a detector's input, and note what was done to it: detector/pictures.py, for a browser.
// tests/test_browser.py compares both over 500 pictures.

import { FORMATS, formatOf, latin1 } from "./bytes.js";
import { conversion, meaningOf } from "./colours.js";
import { decode } from "./decode.js";
import { orientationOf } from "./exif.js";
import { readHeader } from "./headers.js";
import { resize, shrink } from "./resize.js";

export const MAX_BYTES = 2 ** 28;
export const MAX_PIXELS = 25_000_000; // of a file; a JPEG may have twice as many
const MAX_SIDE = 65_535;
const SPARE = 16; // a JPEG is made smaller first where that leaves so many times the input

const MODES = { 1: "black and white", L: "grey", LA: "grey", P: "palette" };
const SMALLER = [
  [2, "some detail is lost"],
  [8, "much detail is lost, the answer is less certain than it looks"],
  [Infinity, "nearly all detail is lost, the answer says little"],
];
const LARGER = [
  [1.5, "the finest detail is missing, the answer is less certain than it looks"],
  [Infinity, "there is no fine detail to judge by, the answer says little"],
];

// bytes: a picture file. size, fit: of the model's record. -> {pixels, notes, region}. pixels: Uint8Array (size, size,
// 3), RGB. region: what they show of the upright picture: left, top, right, bottom, in shares. Throws an Error that says
// what is wrong and what to do.
export async function preprocess(bytes, size, fit) {
  const format = check(bytes);
  const header = await readHeader(bytes, format);
  const { width, height, mode } = header;
  checkSize(width, height, format === "JPEG" ? 2 * MAX_PIXELS : MAX_PIXELS);
  const meaning = meaningOf(header, format);
  const toSrgb = meaning && (await conversion(meaning, mode));
  try {
    return await toInput(bytes, format, header, toSrgb, size, fit);
  } finally {
    toSrgb?.close?.();
  }
}

async function toInput(bytes, format, header, toSrgb, size, fit) {
  const { width, height, mode } = header;
  const notes = [];
  if (header.animated) notes.push("only frame 1 of several");
  const letsBrowser = Boolean(toSrgb?.isUsable && !toSrgb.apply);
  let picture = await decode(bytes, format, header, notes, letsBrowser);
  if (format === "JPEG" && fit !== "crop") {
    const factor = [8, 4, 2].find((times) => Math.min(Math.floor(width / (SPARE * size)), Math.floor(height / (SPARE * size))) >= times);
    if (factor) picture = shrink(picture, factor);
  }
  if (header.sixteen) notes.push("16 bits made 8");
  if (!["RGB", "RGBA"].includes(mode)) notes.push(`${MODES[mode] ?? mode} made RGB`);
  if (toSrgb && !toSrgb.isUsable) notes.push(`its colours (${toSrgb.name}) are not converted to sRGB`);
  if (toSrgb?.isUsable) {
    toSrgb.apply?.(picture.data);
    notes.push(`colours converted to sRGB from ${toSrgb.name}`);
  }
  if (picture.hasAlpha) multiplyByAlpha(picture.data);
  const orientation = orientationOf(header.exif, header.xmp);
  if (orientation > 1) picture = { ...picture, ...upright(picture, orientation) };
  if (orientation > 1 || header.isTurned) notes.push("turned upright as its EXIF orientation says");

  const box = seenBox(picture.width, picture.height, size, fit);
  const small = resize(picture, size, box);
  const pixels = new Uint8Array(3 * size * size);
  let opaque = true;
  for (let n = 0; n < size * size; n += 1) {
    const clear = picture.hasAlpha ? 255 - small[4 * n + 3] : 0; // through which white is seen
    if (clear) opaque = false;
    for (let colour = 0; colour < 3; colour += 1) pixels[3 * n + colour] = Math.min(255, small[4 * n + colour] + clear);
  }
  if (!opaque) notes.push("transparency put on white");
  const [left, top, right, bottom] = box;
  const region = [left / picture.width, top / picture.height, right / picture.width, bottom / picture.height];
  return { pixels, notes: [...notes, ...notesOnSize(width, height, size, fit)], region };
}

function check(bytes) {
  if (!bytes.length) throw new Error("the file is empty");
  if (bytes.length > MAX_BYTES) throw new Error(`more than ${MAX_BYTES / 2 ** 20} MB`);
  const format = formatOf(bytes);
  if (format === "TIFF") throw new Error("a TIFF, which browsers do not open: save it as PNG or JPEG");
  if (format) return format;
  if (latin1(bytes, 4, 8) === "ftyp") throw new Error("HEIC or a film, which cannot be read: save it as JPEG");
  throw new Error(`not a picture that can be read (${FORMATS.join(", ")})`);
}

function checkSize(width, height, most) {
  if (width * height > most) throw new Error(`${width}x${height} is more than ${most / 1e6} megapixels`);
  if (Math.max(width, height) > MAX_SIDE) throw new Error(`${width}x${height} is more than ${MAX_SIDE.toLocaleString("en")} pixels in a row`);
  if (!(width * height)) throw new Error(`${width}x${height}: there are no pixels in it`);
}

function multiplyByAlpha(data) { // as Pillow rounds it
  for (let n = 0; n < data.length; n += 4) {
    const alpha = data[n + 3];
    if (alpha === 255) continue;
    for (let colour = n; colour < n + 3; colour += 1) {
      const product = data[colour] * alpha + 128;
      data[colour] = ((product >> 8) + product) >> 8;
    }
  }
}

// Where in the stored picture of w x h pixels the pixel (x, y) of the upright one is.
const STORED = {
  2: (x, y, w) => [w - 1 - x, y],
  3: (x, y, w, h) => [w - 1 - x, h - 1 - y],
  4: (x, y, w, h) => [x, h - 1 - y],
  5: (x, y) => [y, x],
  6: (x, y, w, h) => [y, h - 1 - x],
  7: (x, y, w, h) => [w - 1 - y, h - 1 - x],
  8: (x, y, w) => [w - 1 - y, x],
};

function upright({ width, height, data }, orientation) {
  const [w, h] = orientation > 4 ? [height, width] : [width, height];
  const from = new Uint32Array(data.buffer, data.byteOffset, width * height);
  const turned = new Uint32Array(w * h);
  const stored = STORED[orientation];
  for (let y = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      const [column, row] = stored(x, y, width, height);
      turned[y * w + x] = from[row * width + column];
    }
  }
  return { width: w, height: h, data: new Uint8ClampedArray(turned.buffer) };
}

function seenBox(width, height, size, fit) {
  if (fit === "stretch") return [0, 0, width, height];
  const side = fit === "crop" && Math.min(width, height) >= size ? size : Math.min(width, height);
  const [left, top] = [(width - side) >> 1, (height - side) >> 1];
  return [left, top, left + side, top + side];
}

// A number with three digits, as Python writes it: halves go to the even neighbour.
function threeDigits(value) {
  const unit = value >= 10 ? 1 : 100;
  const scaled = value * unit;
  const below = Math.floor(scaled);
  const rounded = scaled - below === 0.5 ? below + (below % 2) : Math.round(scaled);
  return String(rounded / unit);
}

export function notesOnSize(width, height, size, fit) {
  if (width === size && height === size) return [];
  const given = `${width}x${height}`;
  if (fit === "crop" && Math.min(width, height) >= size) return [`only the middle ${size}x${size} of ${given}`];
  const lost = width === height ? "" : fit === "stretch" ? ", proportions not kept" : ", only its middle square";
  const [w, h] = fit === "stretch" ? [width, height] : Array(2).fill(Math.min(width, height));
  const notes = [`${given} made ${size}x${size}${lost}`];
  for (const [direction, factor, levels] of [["smaller", Math.max(w, h) / size, SMALLER], ["larger", size / Math.min(w, h), LARGER]]) {
    if (factor <= 1) continue;
    notes.push(`${threeDigits(factor)} times ${direction}: ${levels.find(([limit]) => factor <= limit)[1]}`);
  }
  return notes;
}
