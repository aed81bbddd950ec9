// Pixels of a picture file: RGBA, as Pillow decodes them.
//
// PNG is read in png.js and JPEG by libjpeg as WebAssembly, so that no browser's colour management, orientation or
// protection against fingerprints changes a pixel. The other formats, and JPEG for printers, go through the browser,
// with all of its conversions switched off.

import { broken, latin1, viewOf } from "./bytes.js";
import { decodePng } from "./png.js";
import { loaded } from "./unloaded.js";
import mozjpeg from "./vendor/mozjpeg_dec.js";

const LARGE = 2 ** 26; // pixels x 4: more memory than that is given back

// -> {width, height, data, hasAlpha}. data: Uint8ClampedArray (height, width, 4), colours not multiplied by alpha. What
// the decoder noticed is appended to notes. convert: let the browser convert the colours to sRGB. Throws where the
// picture is broken.
export async function decode(bytes, format, header, notes, convert = false) {
  const { width, height } = header;
  notes.push(...(header.notes ?? []));
  if (format === "PNG") return { width, height, ...(await decodePng(header)) };
  if (format === "JPEG" && header.mode !== "CMYK") return decodeJpeg(bytes, notes);
  return decodeByBrowser(bytes, format, header, convert);
}

let libjpeg;
let said = [];

async function decodeJpeg(bytes, notes) {
  libjpeg ??= await loaded(mozjpeg({ locateFile: (name) => new URL(`./vendor/${name}`, import.meta.url).href, print: () => {}, printErr: (line) => said.push(line) }));
  said = [];
  let image;
  try {
    image = libjpeg.decode(bytes, false);
  } catch {
    libjpeg = undefined; // it has left through exit()
    throw broken(said[0] ?? "no pixels");
  }
  const isCut = said.some((line) => /premature end of jpeg file/i.test(line)) || (said.length && !hasEnd(bytes));
  if (!image || isCut) throw broken("image file is truncated");
  if (said.length) notes.push(`damaged file (${said[0].replaceAll(/\d+ /g, "")}): part of the picture may be wrong`);
  if (image.data.length > LARGE) libjpeg = undefined;
  return { width: image.width, height: image.height, data: image.data, hasAlpha: false };
}

// Whether the end of the picture is marked behind its first scan. libjpeg says the first of its warnings alone, which need
// not be that the file is cut.
function hasEnd(bytes) {
  const view = viewOf(bytes);
  let place = 2;
  while (place + 4 <= bytes.length && (bytes[place] !== 0xff || bytes[place + 1] !== 0xda)) {
    const isSegment = bytes[place] === 0xff && bytes[place + 1] >= 0xc0 && bytes[place + 1] !== 0xff;
    place = isSegment ? place + 2 + view.getUint16(place + 2) : place + 1; // bytes of nothing may lie between segments
  }
  for (place = bytes.indexOf(0xff, place); place >= 0; place = bytes.indexOf(0xff, place + 1)) if (bytes[place + 1] === 0xd9) return true;
  return false;
}

// Without the segments that say what its colours mean and which side is up.
function bareJpeg(bytes, convert) {
  const view = viewOf(bytes);
  const parts = [bytes.subarray(0, 2)];
  let place = 2;
  while (bytes[place] === 0xff && bytes[place + 1] !== 0xda && place + 4 < bytes.length) {
    const next = place + 2 + view.getUint16(place + 2);
    const isColour = bytes[place + 1] === 0xe2 && latin1(bytes, place + 4, place + 16) === "ICC_PROFILE\0";
    if (bytes[place + 1] !== 0xe1 && (convert || !isColour)) parts.push(bytes.subarray(place, next));
    place = next;
  }
  return [...parts, bytes.subarray(place)];
}

async function decodeByBrowser(bytes, format, header, convert) {
  const { mode, ground } = header;
  const [width, height] = header.isSideways ? [header.height, header.width] : [header.width, header.height];
  const parts = format === "JPEG" ? bareJpeg(bytes, convert) : [bytes];
  const options = { imageOrientation: "none", premultiplyAlpha: "none", colorSpaceConversion: convert ? "default" : "none" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob(parts, { type: `image/${format.toLowerCase()}` }), options);
  } catch {
    throw broken(`this browser cannot decode the ${format}`);
  }
  try {
    if (bitmap.width !== width || bitmap.height !== height) {
      throw broken(`the header of this ${format} says ${width}x${height}, the picture in it has ${bitmap.width}x${bitmap.height}`);
    }
    const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    if (ground) { // a GIF's first frame need not cover all of it
      pen.fillStyle = `rgb(${ground.join()})`;
      pen.fillRect(0, 0, width, height);
    }
    pen.drawImage(bitmap, 0, 0);
    const { data } = pen.getImageData(0, 0, width, height);
    return { width, height, data, hasAlpha: mode === "RGBA" || (format === "GIF" && !ground) };
  } finally {
    bitmap.close();
  }
}
