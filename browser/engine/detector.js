// A detector in the browser: onnxruntime's answer for pixels, and what is said of it. detector/detector.py, session.py
// and labels.py, for one released model.

import { inpaintedCopies, occlusionMap } from "./occlusion.js";
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { expand } from "./weights.js";

const OOD_LEVELS = [
  [1.5, "the answer is less certain than it looks"],
  [Infinity, "the answer says little"],
];
const AT_A_TIME = 10; // copies of a picture that are scored together

export class Detector {
  // record: of model.json. graph, weights: addresses of what tools/small_model.py wrote.
  static async load(record, graph, weights) {
    ort.env.wasm.numThreads = 1; // more take headers that a static host does not send
    ort.env.wasm.wasmPaths = { wasm: new URL("./vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };
    ort.env.logLevel = "error";
    const [model, stored] = await Promise.all([graph, weights].map(fetchBytes));
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "basic", externalData: expand(stored) };
    return new Detector(record, await ort.InferenceSession.create(new Uint8Array(model), options));
  }

  constructor(record, session) {
    this.record = record;
    this.session = session;
  }

  // one: {pixels, notes}, from preprocess.js, and {claims}, from claims.js. -> {verdict, p_fake, notes,
  // out_of_distribution, claims}.
  async predict({ pixels, notes, claims }) {
    const { temperature, out_of_distribution: { threshold }, flip_tta_margin: margin, abstention_band: [low, high] } = this.record;
    const { logits: [logit], oodScores: [oodScore] } = await this.score([pixels], margin);
    const p = 1 / (1 + Math.exp(-logit / temperature));
    const excess = oodScore / threshold;
    const far = excess > 1 ? [`out of distribution (far from the training images), ${times(excess)} times the threshold: ${OOD_LEVELS.find(([limit]) => excess <= limit)[1]}`] : [];
    return { verdict: p < low ? "REAL" : p > high ? "FAKE" : "UNSURE", p_fake: p, notes: [...notes, ...far], out_of_distribution: excess > 1, claims };
  }

  async occlusionMap({ pixels }) {
    const pictures = [pixels, ...inpaintedCopies(pixels, this.record.input_size)];
    const logits = [];
    for (let start = 0; start < pictures.length; start += AT_A_TIME) {
      logits.push(...(await this.score(pictures.slice(start, start + AT_A_TIME), Infinity)).logits);
    }
    return occlusionMap(logits);
  }

  // Where |logit| is below the margin, the flipped picture is scored as well, and their mean is the logit.
  async score(pictures, margin) {
    const { logits, oodScores } = await this.run(pictures);
    const close = logits.flatMap((logit, n) => (Math.abs(logit) < margin ? [n] : []));
    if (close.length) {
      const flipped = await this.run(close.map((n) => flip(pictures[n], this.record.input_size)));
      close.forEach((n, place) => { logits[n] = Math.fround(Math.fround(logits[n] + flipped.logits[place]) / 2); });
    }
    if (![...logits, ...oodScores].every(Number.isFinite)) throw new Error("the model gives scores that are not finite");
    return { logits, oodScores };
  }

  async run(pictures) {
    const size = this.record.input_size;
    const data = new Uint8Array(pictures.length * 3 * size * size);
    pictures.forEach((pixels, n) => data.set(pixels, n * 3 * size * size));
    const input = new ort.Tensor("uint8", data, [pictures.length, size, size, 3]);
    const outputs = await this.session.run({ images: input });
    const [logits, oodScores] = this.session.outputNames.map((name) => [...outputs[name].data]); // by their position
    return { logits, oodScores };
  }
}

async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the model cannot be fetched (${response.status})`);
  return response.arrayBuffer();
}

function flip(pixels, size) {
  const flipped = new Uint8Array(pixels.length);
  for (let n = 0; n < size * size; n += 1) {
    const x = n % size;
    flipped.set(pixels.subarray(3 * n, 3 * n + 3), 3 * (n - x + size - 1 - x));
  }
  return flipped;
}

function times(excess) {
  if (excess >= 10) return excess.toFixed(0);
  return excess >= 1.1 ? String(Number(excess.toPrecision(2))) : "just over 1";
}
