// ICC profiles of colours that a file names by numbers: the coding points of ITU-T H.273, and a PNG's gAMA and cHRM.
// As detector/colours.py makes them.

const D65 = [0.3127, 0.329];
const PRIMARIES = { // a name, and x and y of red, green, blue and white
  1: ["BT.709", [0.64, 0.33, 0.3, 0.6, 0.15, 0.06, ...D65]],
  5: ["BT.470 BG", [0.64, 0.33, 0.29, 0.6, 0.15, 0.06, ...D65]],
  6: ["BT.601", [0.63, 0.34, 0.31, 0.595, 0.155, 0.07, ...D65]],
  7: ["SMPTE 240M", [0.63, 0.34, 0.31, 0.595, 0.155, 0.07, ...D65]],
  9: ["BT.2020", [0.708, 0.292, 0.17, 0.797, 0.131, 0.046, ...D65]],
  11: ["DCI-P3", [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351]],
  12: ["Display P3", [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, ...D65]],
};
const SRGB_PRIMARIES = PRIMARIES[1][1];
const SRGB_CURVE = [3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045];
const CURVES = {
  1: ["", SRGB_CURVE],
  4: [", gamma 2.2", [0, 2.2]],
  5: [", gamma 2.8", [0, 2.8]],
  6: ["", SRGB_CURVE],
  8: [", linear light", [0, 1]],
  13: ["", SRGB_CURVE],
  14: ["", SRGB_CURVE],
  15: ["", SRGB_CURVE],
};
const HDR = { 16: "PQ", 18: "HLG" };
const UNSPECIFIED = 2;

export function fromCodePoints(givenPrimaries, givenTransfer) {
  const primaries = givenPrimaries === UNSPECIFIED ? 1 : givenPrimaries;
  const transfer = givenTransfer === UNSPECIFIED ? 13 : givenTransfer;
  const [name, chromaticities] = PRIMARIES[primaries] ?? [`primaries ${primaries}`];
  if (!chromaticities || !CURVES[transfer]) return { name: `${name} with ${HDR[transfer] ?? `transfer ${transfer}`}`, profile: null };
  const [ending, curve] = CURVES[transfer];
  return { name: `${name}${ending}`, profile: matrixProfile(chromaticities, curve) };
}

// A gamma within 5 % of 1/2.2 stands for sRGB's curve.
export function fromGamma(gamma, chromaticities) {
  if (gamma !== undefined && !(gamma >= 0.01 && gamma <= 100)) return { name: `gAMA ${Number.isInteger(gamma) ? gamma.toFixed(1) : gamma}`, profile: null };
  const isSrgb = gamma === undefined || Math.abs(gamma * 2.2 - 1) < 0.05;
  const name = !chromaticities ? "PNG's gAMA" : isSrgb ? "PNG's cHRM" : "PNG's gAMA and cHRM";
  const primaries = chromaticities ? [...chromaticities.slice(2), ...chromaticities.slice(0, 2)] : SRGB_PRIMARIES;
  return { name, profile: matrixProfile(primaries, isSrgb ? SRGB_CURVE : [0, 1 / gamma]) };
}

const times = (matrix, vector) => matrix.map((row) => row.reduce((sum, value, n) => sum + value * vector[n], 0));
const product = (one, other) => one.map((row) => other[0].map((_, column) => row.reduce((sum, value, n) => sum + value * other[n][column], 0)));

function inverse([[a, b, c], [d, e, f], [g, h, i]]) {
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const adjugate = [[e * i - f * h, c * h - b * i, b * f - c * e], [f * g - d * i, a * i - c * g, c * d - a * f], [d * h - e * g, b * g - a * h, a * e - b * d]];
  return adjugate.map((row) => row.map((value) => value / determinant));
}

const BRADFORD = [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]];
const D50 = [0.9642, 1, 0.8249];

// The bytes of a profile with these primaries and this curve; null where they are no colours.
function matrixProfile(chromaticities, curve) {
  const [red, green, blue, white] = [0, 2, 4, 6].map((n) => [chromaticities[n] / chromaticities[n + 1], 1, (1 - chromaticities[n] - chromaticities[n + 1]) / chromaticities[n + 1]]);
  const primaries = [0, 1, 2].map((row) => [red[row], green[row], blue[row]]);
  const amounts = times(inverse(primaries), white);
  const scaled = primaries.map((row) => row.map((value, n) => value * amounts[n]));
  const [from, to] = [times(BRADFORD, white), times(BRADFORD, D50)];
  const adapted = product(product(inverse(BRADFORD), BRADFORD.map((row, n) => row.map((value) => (value * to[n]) / from[n]))), scaled);
  if (!adapted.flat().every((value) => Math.abs(value) <= 100)) return null; // and no numbers at all
  const columns = [0, 1, 2].map((n) => adapted.map((row) => row[n]));
  const bodies = [...columns, D50].map((xyz) => [..."XYZ \0\0\0\0", ...xyz.flatMap(fixed)]);
  bodies.push([..."para\0\0\0\0", ...short(curve[0]), ...short(0), ...curve.slice(1).flatMap(fixed)]);
  const names = ["rXYZ", "gXYZ", "bXYZ", "wtpt", "rTRC", "gTRC", "bTRC"];
  const start = 128 + 4 + 12 * names.length;
  const offsets = bodies.map((_, n) => start + bodies.slice(0, n).reduce((sum, body) => sum + body.length, 0));
  const table = names.flatMap((name, n) => [...name, ...long(offsets[Math.min(n, 4)]), ...long(bodies[Math.min(n, 4)].length)]);
  const size = start + bodies.reduce((sum, body) => sum + body.length, 0);
  const header = [...long(size), ...zeros(4), ...long(0x04200000), ..."mntrRGB XYZ ", ...zeros(12), ..."acsp", ...zeros(28), ...D50.flatMap(fixed), ...zeros(48)];
  const all = [...header, ...long(names.length), ...table, ...bodies.flat()];
  return Uint8Array.from(all, (one) => (typeof one === "string" ? one.charCodeAt(0) : one));
}

const zeros = (count) => Array(count).fill(0);
const short = (value) => [(value >> 8) & 255, value & 255];
const long = (value) => [24, 16, 8, 0].map((shift) => (value >> shift) & 255);
const fixed = (value) => long(Math.round(value * 65536));
