// Occlusion maps: detector/explain.py. Each square of 2 x 2 of 8 x 8 cells is inpainted in turn, and a cell's attribution
// is the mean fall of the logit over the squares that contain it.

const GRID = 8;
const SQUARE = 2;
const PLACES = GRID - SQUARE + 1; // of a square, in a row and in a column
const NEIGHBOURS = [-1, 0, 1].flatMap((row) => [-1, 0, 1].map((column) => [row, column]))
  .filter(([row, column]) => row || column)
  .map(([row, column]) => [row, column, Math.fround(row === 0 || column === 0 ? 1 / 6 : 1 / 12)]);

export const COPIES = PLACES * PLACES;

// Which cells square number n covers.
const covers = (n, row, column) => row >= Math.floor(n / PLACES) && row < Math.floor(n / PLACES) + SQUARE && column >= n % PLACES && column < (n % PLACES) + SQUARE;

// pixels: Uint8Array (size, size, 3). -> COPIES pictures like it, each with one square filled from its surroundings.
export function inpaintedCopies(pixels, size) {
  const cell = Array.from({ length: size }, (_, place) => Math.floor((place * GRID) / size));
  return Array.from({ length: COPIES }, (_, n) => inpaint(pixels, size, (y, x) => covers(n, cell[y], cell[x])));
}

// From the border inwards each missing pixel becomes the weighted mean of its known neighbours.
function inpaint(pixels, size, isMissing) {
  const wide = size + 2; // nothing is known outside the picture
  const known = new Float32Array(wide * wide);
  const filled = new Float32Array(3 * wide * wide);
  let missing = [];
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      const place = (y + 1) * wide + x + 1;
      if (isMissing(y, x)) missing.push(place);
      else {
        known[place] = 1;
        filled.set(pixels.subarray(3 * (y * size + x), 3 * (y * size + x) + 3), 3 * place);
      }
    }
  }
  const around = (values, place, step, channel) => NEIGHBOURS.reduce((sum, [row, column, weight]) => Math.fround(sum + Math.fround(weight * values[step * (place + row * wide + column) + channel])), 0);
  while (missing.length) {
    const border = missing.map((place) => [place, around(known, place, 1, 0)]).filter(([, weight]) => weight > 0);
    const values = border.map(([place, weight]) => [0, 1, 2].map((channel) => around(filled, place, 3, channel) / weight));
    border.forEach(([place], n) => {
      filled.set(values[n], 3 * place);
      known[place] = 1;
    });
    missing = missing.filter((place) => !known[place]);
  }
  const copy = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y += 1) {
    for (let n = 0; n < 3 * size; n += 1) copy[3 * y * size + n] = roundHalfEven(filled[3 * ((y + 1) * wide + 1) + n]);
  }
  return copy;
}

function roundHalfEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

// logits: of the picture and of its copies. -> rows of GRID numbers, positive for FAKE.
export function occlusionMap([whole, ...copies]) {
  return Array.from({ length: GRID }, (_, row) => Array.from({ length: GRID }, (__, column) => {
    const falls = copies.map((logit) => whole - logit).filter((___, n) => covers(n, row, column));
    return falls.reduce((sum, fall) => sum + fall, 0) / falls.length;
  }));
}
