// What a picture file says before it is decoded: its size, the kind of its pixels, its frames, EXIF and colours.
//
// Each reader returns {width, height, mode, sixteen, animated, exif, xmp, icc, ...}. mode: what Pillow would call the
// pixels. icc: the profile's bytes, null where it is broken, undefined without one. Orders of precedence are Pillow's.

import { broken, find, joined, latin1, viewOf } from "./bytes.js";
import { readPng } from "./png.js";

const MOST_SCANS = 100; // of a JPEG, as in detector/costs.py
const MOST_BLOCKS = 1000;

export async function readHeader(bytes, format) {
  const readers = { JPEG: readJpeg, PNG: readPng, GIF: readGif, WEBP: readWebp, BMP: readBmp, AVIF: readAvif };
  try {
    return await readers[format](bytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // past the end
    throw new Error(`broken picture, or ${format} of a kind that is not read, such as 32 bits a colour: save it as PNG`);
  }
}

const tooLong = (what, most) => new Error(`${what}, more than ${most.toLocaleString("en")}: it would take too long, save it again as PNG or JPEG`);

function readJpeg(bytes) {
  const view = viewOf(bytes);
  const header = { sixteen: false, animated: false };
  const exif = [];
  const icc = [];
  let place = 2;
  let segments = 0;
  for (;;) {
    while (bytes[place] !== 0xff || bytes[place + 1] === 0xff) {
      if (place >= bytes.length) throw new RangeError("no scan");
      place += 1;
    }
    const marker = bytes[place + 1];
    if (marker === 0xda) break;
    if (marker === 0 || marker === 1 || (marker >= 0xd0 && marker <= 0xd9)) { // without a segment
      place += 2;
      continue;
    }
    segments += 1;
    if (segments > MOST_BLOCKS) throw tooLong("a JPEG of very many segments", MOST_BLOCKS);
    const segment = bytes.subarray(place + 4, place + 2 + view.getUint16(place + 2));
    if (marker === 0xe1 && latin1(segment, 0, 6) === "Exif\0\0") exif.push(exif.length ? segment.subarray(6) : segment);
    if (marker === 0xe1 && latin1(segment, 0, 29) === "http://ns.adobe.com/xap/1.0/\0") header.xmp = new TextDecoder("latin1").decode(segment.subarray(29));
    if (marker === 0xe2 && latin1(segment, 0, 12) === "ICC_PROFILE\0") icc.push(segment);
    if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      const mode = { 1: "L", 3: "RGB", 4: "CMYK" }[segment[5]];
      if (segment[0] !== 8 || !mode) throw new RangeError("of another depth, or of other colours");
      Object.assign(header, { mode, height: view.getUint16(place + 5), width: view.getUint16(place + 7) });
    }
    place += 2 + view.getUint16(place + 2);
  }
  if (!header.mode) throw new RangeError("no frame");
  let scans = 0;
  for (let at = place; at >= 0; at = bytes.indexOf(0xff, at + 1)) scans += bytes[at + 1] === 0xda;
  if (scans > MOST_SCANS) throw tooLong(`a JPEG of ${scans.toLocaleString("en")} scans`, MOST_SCANS);
  if (exif.length) header.exif = joined(exif);
  if (icc.length) {
    icc.sort((one, other) => one[12] - other[12]);
    header.icc = icc[0][13] === icc.length ? joined(icc.map((segment) => segment.subarray(14))) : null;
  }
  return header;
}

// A palette of greys, each at its own place, is no palette.
const isGrey = (palette, step, values) => values.every((value, number) => [0, 1, 2].every((colour) => palette[step * number + colour] === value));

function readGif(bytes) {
  const view = viewOf(bytes);
  let [width, height] = [view.getUint16(6, true), view.getUint16(8, true)];
  let place = 13;
  const readPalette = (flags) => {
    if (!(flags & 0x80)) return undefined;
    const palette = bytes.subarray(place, (place += 3 << ((flags & 7) + 1)));
    return isGrey(palette, 3, [...Array(palette.length / 3).keys()]) ? null : palette;
  };
  const passBlocks = () => {
    while (view.getUint8(place)) place += 1 + bytes[place];
    place += 1;
  };
  const global = readPalette(bytes[10]);
  let [frames, isTransparent, header] = [0, false];
  while (frames < 2 && place < bytes.length && bytes[place] !== 0x3b) {
    const kind = bytes[place];
    place += 1;
    if (kind === 0x21) {
      if (bytes[place] === 0xf9 && !frames) isTransparent = Boolean(bytes[place + 2] & 1);
      place += 1;
      passBlocks();
    } else if (kind === 0x2c) {
      frames += 1;
      if (frames === 2) break;
      const [left, top, across, down] = [0, 2, 4, 6].map((offset) => view.getUint16(place + offset, true));
      [width, height] = [Math.max(width, left + across), Math.max(height, top + down)];
      const flags = view.getUint8(place + 8);
      place += 9;
      const palette = readPalette(flags);
      const colours = palette === undefined ? global : palette;
      const ground = isTransparent ? undefined : colours ? [...colours.subarray(0, 3)] : [0, 0, 0];
      header = { width, height, mode: colours ? "P" : "L", sixteen: false, ground };
      place += 1;
      try {
        passBlocks();
      } catch {
        break; // the only frame, and not whole
      }
    }
  }
  if (!header) throw new RangeError("no frame");
  return { ...header, animated: frames > 1 };
}

function readBmp(bytes) {
  const view = viewOf(bytes);
  const size = view.getUint32(14, true);
  const isOld = size === 12;
  if (![12, 40, 52, 56, 64, 108, 124].includes(size)) throw new RangeError("another header");
  const [width, down] = isOld ? [view.getUint16(18, true), view.getUint16(20, true)] : [view.getUint32(18, true), view.getInt32(22, true)];
  const bits = view.getUint16(isOld ? 24 : 28, true);
  let mode = { 1: "P", 4: "P", 8: "P", 16: "RGB", 24: "RGB", 32: "RGB" }[bits];
  if (!mode) throw new RangeError("another depth");
  if (mode === "P") {
    const count = (isOld ? 0 : view.getUint32(46, true)) || 1 << bits;
    const values = count === 2 ? [0, 255] : [...Array(Math.min(count, 256)).keys()];
    if (isGrey(bytes.subarray(14 + size), isOld ? 3 : 4, values)) mode = count <= 2 ? "1" : "L";
  } else if (bits === 32 && view.getUint32(30, true) === 3 && size >= 56 && view.getUint32(66, true)) mode = "RGBA";
  return { width, height: Math.abs(down), mode, sixteen: false, animated: false };
}

function readWebp(bytes) {
  const view = viewOf(bytes);
  const header = { sixteen: false, mode: "RGB" };
  let [frames, still] = [0, 0];
  for (let place = 12; place + 8 <= bytes.length;) {
    const [kind, length] = [latin1(bytes, place, place + 4), view.getUint32(place + 4, true)];
    const body = place + 8;
    const data = bytes.subarray(body, body + length);
    if (kind === "VP8X") {
      header.width = 1 + (view.getUint32(body + 4, true) & 0xffffff);
      header.height = 1 + (view.getUint32(body + 6, true) >>> 8);
      if (bytes[body] & 0x10) header.mode = "RGBA";
    } else if (kind === "VP8 " && !frames) {
      still += 1;
      header.width ??= view.getUint16(body + 6, true) & 0x3fff;
      header.height ??= view.getUint16(body + 8, true) & 0x3fff;
    } else if (kind === "VP8L" && !frames) {
      still += 1;
      const packed = view.getUint32(body + 1, true);
      header.width ??= 1 + (packed & 0x3fff);
      header.height ??= 1 + ((packed >>> 14) & 0x3fff);
      if (packed & 0x10000000) header.mode = "RGBA";
    } else if (kind === "ANMF") frames += 1;
    else if (kind === "ICCP") header.icc ??= data;
    else if (kind === "EXIF") header.exif ??= data;
    else if (kind === "XMP ") header.xmp ??= new TextDecoder("latin1").decode(data);
    place = body + length + (length % 2);
  }
  if (!header.width || !(frames + still)) throw new RangeError("no picture");
  return { ...header, animated: frames > 1 };
}

const BOXES = ["meta", "iprp"]; // that hold others, each in the one before: looked into nowhere else, it takes one pass

function readAvif(bytes) {
  const view = viewOf(bytes);
  const [properties, associations] = [[], new Map()];
  let [primary, profile, frames, turns, isMirrored] = [undefined, undefined, 1, 0, false];
  const read = (start, end, depth) => {
    for (let place = start; place + 8 <= end;) {
      const [length, kind] = [view.getUint32(place), latin1(bytes, place + 4, place + 8)];
      const next = length >= 8 ? Math.min(place + length, end) : end; // 0: to the end
      const body = place + 8;
      if (kind === "pitm") primary = bytes[body] ? view.getUint32(body + 4) : view.getUint16(body + 4);
      if (kind === "ipma") readAssociations(body);
      if (kind === "ipco") for (let at = body; at + 8 <= next; at += Math.max(8, view.getUint32(at))) properties.push(at);
      if (kind === BOXES[depth]) read(kind === "meta" ? body + 4 : body, next, depth + 1);
      place = next;
    }
  };
  const readAssociations = (body) => {
    const [version, wide] = [bytes[body], bytes[body + 3] & 1];
    let place = body + 8;
    for (let entry = view.getUint32(body + 4); entry; entry -= 1) {
      const item = version ? view.getUint32(place) : view.getUint16(place);
      place += version ? 4 : 2;
      const count = view.getUint8(place);
      place += 1;
      associations.set(item, Array.from({ length: count }, (_, n) => (wide ? view.getUint16(place + 2 * n) & 0x7fff : bytes[place + n] & 0x7f)));
      place += wide ? 2 * count : count;
    }
  };
  read(0, bytes.length, 0);
  const header = { mode: find(bytes, "auxiliary:alpha") < 0 ? "RGB" : "RGBA", sixteen: false };
  for (const number of associations.get(primary) ?? []) {
    const at = properties[number - 1];
    if (at === undefined) continue;
    const kind = latin1(bytes, at + 4, at + 8);
    if (kind === "ispe") [header.width, header.height] = [view.getUint32(at + 12), view.getUint32(at + 16)];
    if (kind === "irot") turns = bytes[at + 8] & 3;
    if (kind === "imir") isMirrored = true;
    if (kind === "av1C" && bytes[at + 10] & 0x10 && header.mode === "RGB") header.mode = "L"; // it has no colours
    if (kind === "colr" && /^(prof|rICC)$/.test(latin1(bytes, at + 8, at + 12))) profile = bytes.slice(at + 12, at + view.getUint32(at));
  }
  if (!header.width) throw broken("an AVIF without a size");
  if (profile) header.icc = profile;
  const codes = find(bytes, "colrnclx");
  if (codes >= 0) header.codePoints = [view.getUint16(codes + 8), view.getUint16(codes + 10)];
  if (latin1(bytes, 8, 12) === "avis") {
    const table = find(bytes, "stsz");
    if (table >= 0) frames = view.getUint32(table + 12);
  }
  // browsers turn it while they decode it: EXIF, which Pillow makes of irot and imir, has no say in an AVIF
  return { ...header, animated: frames > 1, isSideways: turns % 2 === 1, isTurned: turns > 0 || isMirrored };
}
