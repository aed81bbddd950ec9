// Weights as tools/small_model.py stores them, made float32: what onnxruntime reads as the graph's external data.

import { viewOf } from "./bytes.js";

const SCALES = "/scales";

// buffer: a safetensors file. -> [{path, data}], data the bytes of float32 numbers.
export function expand(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const bytesOf = (name) => new Uint8Array(buffer, 8 + length + header[name].data_offsets[0], header[name].data_offsets[1] - header[name].data_offsets[0]);
  const names = Object.keys(header).filter((name) => !name.endsWith(SCALES) && name !== "__metadata__");
  return names.map((name) => {
    const { dtype } = header[name];
    if (dtype === "F32") return { path: name, data: bytesOf(name) };
    const numbers = dtype === "I8" ? fromInt8(bytesOf(name), viewOf(bytesOf(`${name}${SCALES}`))) : fromFloat16(bytesOf(name));
    return { path: name, data: new Uint8Array(numbers.buffer) };
  });
}

function fromInt8(bytes, scales) {
  const steps = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const numbers = new Float32Array(steps.length);
  const across = (4 * steps.length) / scales.byteLength; // numbers with one scale
  for (let row = 0; row * across < steps.length; row += 1) {
    const scale = scales.getFloat32(4 * row, true);
    for (let n = row * across; n < (row + 1) * across; n += 1) numbers[n] = steps[n] * scale;
  }
  return numbers;
}

let halves; // the number of each of the 65,536 patterns

function fromFloat16(bytes) {
  halves ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
  const view = viewOf(bytes);
  return Float32Array.from({ length: bytes.length / 2 }, (_, n) => halves[view.getUint16(2 * n, true)]);
}
