// What a file says its colours mean, and the way from there to sRGB: detector/colours.py, with the same LittleCMS as
// WebAssembly, which is loaded when a file asks for it.

import { latin1, viewOf } from "./bytes.js";
import { fromCodePoints, fromGamma } from "./profiles.js";
import { loaded } from "./unloaded.js";

const LARGEST = 2 ** 22; // bytes of a profile
const SPACES = { "RGB ": "RGB", GRAY: "GRAY", CMYK: "CMYK" };
const FITTING = { RGB: ["RGB", "RGBA", "P", "1", "L", "LA"], GRAY: ["1", "L", "LA"], CMYK: ["CMYK"] };
const PIXELS_AT_A_TIME = 2 ** 20;

// -> {name, profile}, undefined where a file says nothing or sRGB. name: "" where the profile has it. profile: bytes,
// null where it cannot be used.
export function meaningOf(header, format) {
  if (format === "PNG" && header.cicp) {
    const [primaries, transfer, matrix, isFull] = header.cicp;
    if (matrix !== 0 || isFull !== 1) return { name: `coding points ${header.cicp.join("/")}`, profile: null };
    return fromCodePoints(primaries, transfer);
  }
  if (header.icc !== undefined) return { name: "", profile: header.icc?.length ? header.icc : null };
  if (format === "PNG" && !header.isSrgb && (header.gamma !== undefined || header.chromaticities)) return fromGamma(header.gamma, header.chromaticities);
  if (format === "AVIF" && header.codePoints) return fromCodePoints(...header.codePoints);
  return undefined;
}

let lcms;

async function load() {
  const { default: instantiate, ...constants } = await import("./vendor/lcms.js");
  const module = await instantiate({ locateFile: (name) => new URL(`./vendor/${name}`, import.meta.url).href, print: () => {}, printErr: () => {} });
  return { module, ...constants };
}

// How pixels of a mode become sRGB: {name, isUsable, apply, close}, undefined where nothing changes. apply(data): RGBA of
// the mode's colours, in place, and close() when done; both are absent where the profile cannot be used, and for
// printers' colours, which the browser converts.
export async function conversion({ name, profile }, mode) {
  if (profile === null) return { name: name || "a broken profile", isUsable: false };
  const space = SPACES[latin1(profile, 16, 20)];
  lcms ??= loaded(load());
  const { module, ...c } = await lcms;
  const opened = profile.length <= LARGEST ? module.cmsOpenProfileFromMem(profile, profile.length) : 0;
  const said = name || (opened && describe(profile)) || "a profile without a name";
  const fails = { name: `${said}, which cannot be used`, isUsable: false };
  if (!opened) return fails;
  const input = { RGB: c.TYPE_RGBA_8, GRAY: c.TYPE_GRAY_8, CMYK: c.TYPE_CMYK_8 }[space];
  let transform = 0;
  if (input !== undefined && FITTING[space].includes(mode)) {
    const srgb = module.cmsCreate_sRGBProfile();
    const output = space === "RGB" ? c.TYPE_RGBA_8 : c.TYPE_RGB_8;
    transform = module.cmsCreateTransform(opened, input, srgb, output, c.INTENT_RELATIVE_COLORIMETRIC, c.cmsFLAGS_BLACKPOINTCOMPENSATION);
    module.cmsCloseProfile(srgb);
  }
  module.cmsCloseProfile(opened);
  if (!transform) return fails;
  const apply = (data) => (space === "RGB" ? applyRgb : applyGrey)(data, transform, module);
  const close = () => module.cmsDeleteTransform(transform);
  if (space !== "CMYK" && changes(apply, space)) return { name: said, isUsable: true, apply, close };
  close();
  return space === "CMYK" ? { name: said, isUsable: true } : undefined;
}

// A profile's own name, in one short line of printable characters.
function describe(profile) {
  const [name] = nameIn(profile).split("\0", 1);
  return [...name.replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, " ").trim()].slice(0, 60).join("");
}

// What the tag `desc` says, as Pillow has it: of several languages English, else the first; of the older form, which has
// one, ASCII alone. LittleCMS as WebAssembly gives no letters but those of ASCII.
function nameIn(profile) {
  const view = viewOf(profile);
  const tags = Array.from({ length: Math.min(view.getUint32(128), 100) }, (_, n) => 132 + 12 * n); // as LittleCMS reads
  const tag = tags.find((place) => latin1(profile, place, place + 4) === "desc");
  if (tag === undefined) return "";
  const start = view.getUint32(tag + 4);
  const end = Math.min(start + view.getUint32(tag + 8), profile.length);
  const kind = latin1(profile, start, start + 4);
  if (kind === "desc") {
    const text = latin1(profile, start + 12, Math.min(start + 12 + view.getUint32(start + 8), end));
    return /^[\0-\x7f]*$/.test(text) ? text : "";
  }
  if (kind !== "mluc") return "";
  const names = [];
  for (let place = start + 16; place + 12 <= end && names.length < view.getUint32(start + 8); place += 12) {
    const at = start + view.getUint32(place + 8);
    names.push([latin1(profile, place, place + 4), profile.subarray(at, at + view.getUint32(place + 4))]);
  }
  const english = names.find(([code]) => code === "en\0\0") ?? names.find(([code]) => code.startsWith("en"));
  return new TextDecoder("utf-16be").decode((english ?? names[0])?.[1]);
}

function applyRgb(data, transform, module) {
  for (let start = 0; start < data.length; start += 4 * PIXELS_AT_A_TIME) {
    const part = data.subarray(start, start + 4 * PIXELS_AT_A_TIME);
    const converted = module.cmsDoTransform(transform, part, part.length / 4);
    for (let n = 0; n < part.length; n += 4) part.set(converted.subarray(n, n + 3), n); // alpha stays
  }
}

function applyGrey(data, transform, module) {
  const levels = module.cmsDoTransform(transform, Uint8Array.from({ length: 256 }, (_, level) => level), 256);
  for (let n = 0; n < data.length; n += 4) data.set(levels.subarray(3 * data[n], 3 * data[n] + 3), n);
}

// Whether anything changes by more than one level, of the levels 0, 15 ... 255 and their mixtures.
function changes(convert, space) {
  const levels = Array.from({ length: 18 }, (_, n) => 15 * n);
  const colours = space === "GRAY" ? levels.map((level) => [level, level, level]) : levels.flatMap((red) => levels.flatMap((green) => levels.map((blue) => [red, green, blue])));
  const data = Uint8ClampedArray.from(colours.flatMap((colour) => [...colour, 255]));
  const before = data.slice();
  convert(data);
  return data.some((level, place) => Math.abs(level - before[place]) > 1);
}
