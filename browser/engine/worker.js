// The worker in which pictures are decoded and scored, one after the other, so that the page stays awake.

import { readClaims } from "./claims.js";
import { Detector } from "./detector.js";
import { preprocess } from "./preprocess.js";
import { Unloaded, loaded } from "./unloaded.js";

const beside = (name) => new URL(`../${name}`, import.meta.url);

const about = loaded(fetch(beside("model.json")).then((response) => response.json()));
const detector = about.then(({ record }) => loaded(Detector.load(record, beside("model.onnx"), beside("model.safetensors"))));
const giveUp = () => postMessage({ isUnloaded: true });
detector.catch(giveUp);

const ANSWERS = {
  async predict(one) {
    return { prediction: await (await detector).predict(one) };
  },
  async explain(one) {
    const opened = await detector;
    const map = await opened.occlusionMap(one);
    return { prediction: await opened.predict(one), occlusion_map: map.map((row) => row.map((value) => Number(value.toFixed(4)))), seen_region: one.region };
  },
  // what the network is shown: for tests
  preprocess: ({ pixels, notes, region }) => ({ pixels, notes, seen_region: region }),
};

let last = Promise.resolve();
const waiting = new Set(); // questions that are not begun

// data: {id, question, file}, or {id} of a question that was cancelled. One at a time: two large pictures would take the
// memory of both. Each answer says by which model it is.
onmessage = ({ data: { id, question, file } }) => {
  if (!question) {
    waiting.delete(id);
    return;
  }
  waiting.add(id);
  last = last.then(async () => {
    try {
      const { record, summary: { model_sha256 }, limit } = await about;
      const bytes = new Uint8Array(await file.arrayBuffer()); // meanwhile the worker hears what was cancelled
      if (!waiting.delete(id)) return;
      const one = await preprocess(bytes, record.input_size, record.fit);
      const claims = await readClaims(bytes);
      postMessage({ id, answer: { model_sha256, limit, ...await ANSWERS[question]({ ...one, claims }) } });
    } catch (error) {
      if (error instanceof Unloaded) giveUp();
      else postMessage({ id, problem: problemOf(error) });
    }
  });
};

function problemOf(error) {
  if (error instanceof RangeError || /memory/i.test(error.message)) return "not enough memory for this picture: save it as JPEG, or make it smaller";
  if (error.name === "NotReadableError") return "the file cannot be read: it was changed or removed";
  return error.message || String(error);
}
