// Pillow's bicubic resampling, in its own fixed-point arithmetic: the same picture to the last bit (libImaging/Resample.c).

const SUPPORT = 2;
const BITS = 22; // of a coefficient, behind the point

function bicubic(at) {
  const x = Math.abs(at);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

// For each pixel of the output: where its pixels of the input begin, and the coefficient of each.
function coefficients(inSize, start, end, outSize) {
  const scale = (end - start) / outSize;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  return Array.from({ length: outSize }, (_, x) => {
    const center = start + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inSize, Math.trunc(center + support + 0.5));
    const weights = Array.from({ length: last - first }, (__, n) => bicubic((n + first - center + 0.5) * (1 / filterScale)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const fixed = weights.map((weight) => (sum ? weight / sum : weight) * (1 << BITS));
    return { first, weights: Int32Array.from(fixed, (weight) => Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5)) };
  });
}

const clip = (sum) => Math.min(255, Math.max(0, sum >> BITS));

// Resample lines of RGBA: `step` apart are the pixels of one line, `line` apart the lines.
function pass(data, count, line, step, weighted) {
  const size = weighted.length;
  const result = new Uint8ClampedArray(4 * count * size);
  for (let n = 0; n < count; n += 1) {
    for (let x = 0; x < size; x += 1) {
      const { first, weights } = weighted[x];
      let from = n * line + first * step;
      let [red, green, blue, alpha] = [1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)];
      for (let k = 0; k < weights.length; k += 1, from += step) {
        const weight = weights[k];
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
        alpha += data[from + 3] * weight;
      }
      const to = 4 * (n * size + x);
      result[to] = clip(red);
      result[to + 1] = clip(green);
      result[to + 2] = clip(blue);
      result[to + 3] = clip(alpha);
    }
  }
  return result; // line by line
}

// picture: {width, height, data}, RGBA. box: left, top, right, bottom, of whole pixels. -> RGBA (size, size, 4).
export function resize({ width, height, data }, size, [left, top, right, bottom]) {
  if (width === size && height === size) return data;
  const across = coefficients(width, left, right, size);
  const down = coefficients(height, top, bottom, size);
  // Pillow 13 begins with the rows where they shrink by much more
  if (height > size && height - size > 2 * (width - size)) {
    const columns = pass(data, width, 4, 4 * width, down); // (width, size)
    return pass(columns, size, 4, 4 * size, across); // its pixels of one row are `size` apart: (size, size)
  }
  const rows = pass(data, height, 4 * width, 4, across); // (height, size)
  return transposed(pass(rows, size, 4, 4 * size, down), size, size);
}

// Lines of pixels, RGBA (lines, length, 4) -> (length, lines, 4).
function transposed(data, lines, length) {
  const from = new Uint32Array(data.buffer);
  const turned = new Uint32Array(lines * length);
  for (let n = 0; n < lines; n += 1) for (let x = 0; x < length; x += 1) turned[x * lines + n] = from[n * length + x];
  return new Uint8ClampedArray(turned.buffer);
}

// Every factor x factor pixels become their mean, as where libjpeg decodes at a half, a quarter or an eighth of the size.
export function shrink({ width, height, data }, factor) {
  const [w, h] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const small = new Uint8ClampedArray(4 * w * h);
  const half = (factor * factor) / 2;
  for (let y = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      let [red, green, blue] = [half, half, half];
      for (let row = 0; row < factor; row += 1) {
        const line = Math.min(height - 1, y * factor + row) * width;
        for (let column = 0; column < factor; column += 1) {
          const from = 4 * (line + Math.min(width - 1, x * factor + column));
          red += data[from];
          green += data[from + 1];
          blue += data[from + 2];
        }
      }
      const to = 4 * (y * w + x);
      small[to] = Math.floor(red / (2 * half));
      small[to + 1] = Math.floor(green / (2 * half));
      small[to + 2] = Math.floor(blue / (2 * half));
      small[to + 3] = 255;
    }
  }
  return { width: w, height: h, data: small };
}
