// What a picture file holds beside its pixels: EXIF, XMP, texts, comments, and whether there are Content Credentials.
// detector/containers.py, for the formats that a browser opens.
//
// The containers are walked from part to part, and nothing is searched for: the same bytes among the pixels, or in a part
// that is not meant for them, are nothing. Every walk ends with the file, and of one part no more than LONGEST bytes are
// taken, packed and unpacked.

import { find, formatOf, joined, latin1, viewOf } from "./bytes.js";
import { inflate } from "./inflate.js";
import { LONGEST } from "./metadata.js";

const MOST_ITEMS = 100; // of an AVIF; more is no photograph
const MOST_BOXES = 1000; // of it, in one box
const XMP_IN_PNG = "XML:com.adobe.xmp";
// Keywords of PNG texts that say what made a picture. Others are not even unpacked.
const PNG_TEXTS = new Set([
  "Software", "Description", "Comment", "Title", "Author", // of the PNG specification
  "parameters", // AUTOMATIC1111's web UI, and many others
  "prompt", "workflow", // ComfyUI
  "Dream", "sd-metadata", "invokeai_metadata", // InvokeAI
  XMP_IN_PNG,
]);
// The box of C2PA's manifests: in JUMBF's own form, and as a uuid box of AVIF.
const JUMBF_C2PA = "c2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71";
const UUID_C2PA = "\xd8\xfe\xc3\xd6\x1b\x0e\x48\x3c\x92\x97\x58\x28\x87\x7e\xc4\x81";

// Yields the parts of a file that may say what made it, in their order: [kind, bytes]. kind: EXIF, XMP, C2PA (which says
// no more than that it is there), `PNG KEYWORD`, or a comment.
export async function* parts(bytes) {
  const walk = { PNG: pngParts, JPEG: jpegParts, WEBP: webpParts, GIF: gifParts, AVIF: avifParts }[formatOf(bytes)];
  if (walk) yield* walk(bytes);
}

const taken = (bytes, start, length) => bytes.subarray(start, start + Math.min(length, LONGEST));
const C2PA = ["C2PA", new Uint8Array()];

// Whether a JUMBF superbox begins here whose description is C2PA's.
const isC2pa = (box) => latin1(box, 4, 8) === "jumb" && latin1(box, 12, 16) === "jumd" && latin1(box, 16, 32) === JUMBF_C2PA;

async function* pngParts(bytes) {
  const view = viewOf(bytes);
  for (let place = 8; place + 8 <= bytes.length;) {
    const [length, kind] = [view.getUint32(place), latin1(bytes, place + 4, place + 8)];
    const chunk = taken(bytes, place + 8, length);
    if (kind === "IEND") return;
    if (kind === "tEXt" || kind === "zTXt" || kind === "iTXt") {
      const [keyword, text] = await pngText(kind, chunk);
      if (text) yield [keyword === XMP_IN_PNG ? "XMP" : `PNG ${keyword}`, text];
    } else if (kind === "eXIf") yield ["EXIF", chunk];
    else if (kind === "caBX" && isC2pa(chunk)) yield C2PA;
    place += 12 + length;
  }
}

// The keyword of a text chunk, and its text; undefined where that is broken or none of PNG_TEXTS.
async function pngText(kind, chunk) {
  const end = chunk.indexOf(0);
  const keyword = latin1(chunk, 0, Math.min(end < 0 ? chunk.length : end, 80)); // which has 79 bytes at most
  if (!PNG_TEXTS.has(keyword)) return [keyword];
  let rest = end < 0 ? chunk.subarray(chunk.length) : chunk.subarray(end + 1);
  let [isPacked, method] = [kind === "zTXt", rest[0]];
  if (kind === "zTXt") rest = rest.subarray(1);
  else if (kind === "iTXt") {
    [isPacked, method] = [rest[0] === 1, rest[1]];
    rest = rest.subarray(2);
    for (let n = 0; n < 2; n += 1) rest = rest.subarray(rest.indexOf(0) + 1); // past language and translated keyword
  }
  if (!isPacked) return [keyword, rest];
  return [keyword, method === 0 ? await inflate(rest, LONGEST).catch(() => undefined) : undefined];
}

function* jpegParts(bytes) {
  const view = viewOf(bytes);
  for (let place = 2; place + 4 <= bytes.length && bytes[place] === 0xff;) {
    const marker = bytes[place + 1];
    if (marker === 0xff) { // a byte that fills
      place += 1;
      continue;
    }
    const length = view.getUint16(place + 2);
    if (marker === 0xda || length < 2) return; // the pixels begin; what stands behind them is another picture's
    const segment = bytes.subarray(place + 4, place + 2 + length);
    if (marker === 0xe1 && latin1(segment, 0, 6) === "Exif\0\0") yield ["EXIF", segment.subarray(6)];
    else if (marker === 0xe1 && latin1(segment, 0, 29) === "http://ns.adobe.com/xap/1.0/\0") yield ["XMP", segment.subarray(29)];
    else if (marker === 0xeb && latin1(segment, 0, 2) === "JP" && isC2pa(segment.subarray(8))) yield C2PA; // JPEG XT: "JP", numbers of the box and of its part, the box
    else if (marker === 0xfe) yield ["JPEG comment", segment];
    place += 2 + length;
  }
}

function* webpParts(bytes) {
  const view = viewOf(bytes);
  for (let place = 12; place + 8 <= bytes.length;) {
    const [kind, length] = [latin1(bytes, place, place + 4), view.getUint32(place + 4, true)];
    const chunk = taken(bytes, place + 8, length);
    if (kind === "EXIF") yield ["EXIF", latin1(chunk, 0, 6) === "Exif\0\0" ? chunk.subarray(6) : chunk];
    else if (kind === "XMP ") yield ["XMP", chunk];
    else if (kind === "C2PA" && isC2pa(chunk)) yield C2PA;
    place += 8 + length + (length % 2);
  }
}

// Of what stands before the first frame, the one that is read.
function* gifParts(bytes) {
  let place = 13 + (bytes[10] & 0x80 ? 3 << ((bytes[10] & 7) + 1) : 0);
  while (bytes[place] === 0x21) {
    const [kind, start] = [bytes[place + 1], place + 2];
    const blocks = [];
    let size = 0;
    place = start;
    while (bytes[place]) {
      if (size < LONGEST) blocks.push(bytes.subarray(place + 1, place + 1 + bytes[place]));
      size += bytes[place];
      place += 1 + bytes[place];
    }
    place += 1;
    const program = kind === 0xff && blocks.length ? latin1(blocks[0], 0, blocks[0].length) : "";
    if (kind === 0xfe) yield ["GIF comment", joined(blocks)];
    else if (program === "XMP DataXMP") yield ["XMP", taken(bytes, start + 12, place - 258 - start - 12)]; // as it is, and then 258 bytes on which any walk ends
    else if (program === "C2PA_GIF\x01\0\0" && blocks.length > 1 && isC2pa(blocks[1])) yield C2PA;
  }
}

function* avifParts(bytes) {
  for (const [kind, start, end] of boxes(bytes, 0, bytes.length)) {
    if (kind === "uuid" && latin1(bytes, start, start + 16) === UUID_C2PA && latin1(bytes, start + 20, start + 29) === "manifest\0") yield C2PA;
    if (kind !== "meta") continue;
    let [infos, places] = [[0, 0], [0, 0]];
    for (const [inner, ...range] of boxes(bytes, start + 4, end)) {
      if (inner === "iinf") infos = range;
      else if (inner === "iloc") places = range;
    }
    const items = avifItems(bytes, ...infos);
    for (const [number, body] of avifExtents(bytes, ...places, items)) {
      if (items.get(number) === "XMP") yield ["XMP", body];
      else if (body.length >= 4) yield ["EXIF", body.subarray(4 + viewOf(body).getUint32(0))]; // four bytes say where in it the TIFF header is
    }
  }
}

// Yields the boxes of an ISO base media file (ISO/IEC 14496-12): type, and where the content begins and ends.
function* boxes(bytes, from, end) {
  const view = viewOf(bytes);
  for (let [place, count] = [from, 0]; place + 8 <= end && count < MOST_BOXES; count += 1) {
    const [size, kind] = [view.getUint32(place), latin1(bytes, place + 4, place + 8)];
    let [start, stop] = [place + 8, size ? place + size : end];
    if (size === 1) {
      if (place + 16 > end) return;
      [start, stop] = [place + 16, place + Number(view.getBigUint64(place + 8))];
    }
    if (start > stop || stop > end) return;
    yield [kind, start, stop];
    place = stop;
  }
}

// Which of the items in a box iinf are EXIF or XMP, by number: the first MOST_ITEMS.
function avifItems(bytes, start, end) {
  const items = new Map();
  for (const [kind, begin, stop] of boxes(bytes, start + (bytes[start] === 0 ? 6 : 8), end)) {
    const width = bytes[begin] === 2 ? 2 : 4;
    const entry = bytes.subarray(begin + 6 + width, Math.min(stop, begin + 99));
    const type = latin1(entry, 0, 4);
    if (kind === "infe" && type === "Exif") items.set(numberAt(bytes, begin + 4, width), "EXIF");
    else if (kind === "infe" && type === "mime" && find(entry, "\0application/rdf+xml\0") >= 0) items.set(numberAt(bytes, begin + 4, width), "XMP");
    if (items.size === MOST_ITEMS) break;
  }
  return items;
}

// A number of so many bytes, or of those of them that lie before the end.
const numberAt = (bytes, start, width, end = bytes.length) => bytes.subarray(start, Math.max(start, Math.min(start + width, end))).reduce((number, byte) => 256 * number + byte, 0);

// Yields the wanted items of a box iloc, by number: those that lie in the file itself, in one piece.
function* avifExtents(bytes, start, end, wanted) {
  let place = start;
  const take = (width) => numberAt(bytes, (place += width) - width, width, end);
  const version = take(1);
  take(3);
  const [widths, more] = [take(1), take(1)];
  const count = Math.min(take(version < 2 ? 2 : 4), MOST_ITEMS);
  for (let n = 0; n < count; n += 1) {
    const number = take(version < 2 ? 2 : 4);
    const method = version ? take(2) & 15 : 0;
    take(2); // in which file the item is; 0 is this one
    const offset = take(more >> 4);
    const pieces = Array.from({ length: Math.min(take(2), MOST_ITEMS) }, () => {
      take(version ? more & 15 : 0);
      return [offset + take(widths >> 4), take(widths & 15)];
    });
    if (wanted.has(number) && method === 0 && pieces.length === 1) yield [number, taken(bytes, ...pieces[0])];
  }
}
