// Who answers the page where no service does: a worker in this browser. The same functions as the service's engine.js.

import { Retry } from "./retry.js";

const FAILED = "a part of the page could not be loaded: try again, or reload it";
const REPLACED = "the model was replaced meanwhile: save the answers, then reload the page";
const CANCELLED = "cancelled";

// A worker from a blob has the Content-Security-Policy of the page; one from an address has that of its own headers,
// which a static host does not send.
const code = `import ${JSON.stringify(new URL("../engine/worker.js", import.meta.url).href)};`;
const source = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));

let worker;
const waiting = new Map();
let last = 0;

function start() {
  worker = new Worker(source, { type: "module" });
  worker.onmessage = ({ data: { id, answer, problem, isUnloaded } }) => {
    if (isUnloaded) return giveUp();
    if (problem) waiting.get(id)?.reject(new Error(problem)); // unless it was cancelled
    else waiting.get(id)?.resolve(answer);
    waiting.delete(id);
  };
  worker.onerror = giveUp;
}

// The next question starts another worker. Of this one nothing is heard any more, also nothing that it has sent.
function giveUp() {
  worker.onmessage = worker.onerror = null;
  worker.terminate();
  worker = undefined;
  for (const { reject } of waiting.values()) reject(new Retry(FAILED));
  waiting.clear();
}

// signal: ends the question. What the worker is doing for it goes on, unheard; what it has not begun, it passes over.
export async function ask(question, file, signal) {
  if (signal?.aborted) throw new Retry(CANCELLED);
  if (!worker) start();
  last += 1;
  const id = last;
  const cancel = () => {
    waiting.get(id)?.reject(new Retry(CANCELLED));
    waiting.delete(id);
    worker?.postMessage({ id });
  };
  signal?.addEventListener("abort", cancel);
  try {
    return await new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, question, file });
    });
  } finally {
    signal?.removeEventListener("abort", cancel); // a signal is that of many questions
  }
}

let met;

function meet() {
  met ??= fetch("model.json").then((response) => response.json()).catch(() => {
    met = undefined;
    throw new Retry("the page is not whole: reload it");
  });
  return met;
}

async function answered(question, file, signal) {
  const { summary: { name, model_sha256: sha256 } } = await meet();
  const { prediction, ...more } = await ask(question, file, signal);
  // A worker that was started anew has the files of a new release, where there is one since the page was opened. What
  // the page shows beside an answer, from the abstention band to the figures, is that of the model that it met.
  if (more.model_sha256 !== sha256) throw new Error(REPLACED);
  return { model: name, ...more, prediction: { file: file.name || "pasted", error: null, ...prediction } };
}

export const engine = {
  formats: "JPEG, PNG, GIF, WebP, AVIF or BMP",
  async about() {
    if (!worker) start(); // it loads the model meanwhile
    const { summary, limits, limit } = await meet();
    return { models: [summary], limits, limit };
  },
  async predict(file, model, signal) {
    const { prediction, ...rest } = await answered("predict", file, signal);
    return { ...rest, predictions: [prediction] };
  },
  explain: (file) => answered("explain", file),
};

if ("serviceWorker" in navigator && location.protocol !== "file:") {
  navigator.serviceWorker.register("service-worker.js").catch(() => {}); // without it, it works while there is a network
}
