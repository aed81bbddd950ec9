// Who answers the page: here the service that it comes from. A page that answers by itself has another module in this
// place, with the same three functions. Each throws an Error whose message is for people, a Retry where asking again may
// help. signal: ends the question.

import { Retry } from "./retry.js";

const PATIENCE = 60_000; // milliseconds in which a busy service is asked again

// A busy service, or a proxy before it, says how many seconds to wait: then it is asked again.
// Throws where options.signal ends it, also while it waits.
async function fetchPatiently(path, options) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const response = await fetch(path, options);
    const wait = 1000 * Math.max(1, Number(response.headers.get("Retry-After")) || 5);
    if (![429, 503].includes(response.status) || Date.now() + wait > end) return response;
    await new Promise((resolve) => {
      setTimeout(resolve, wait);
      options?.signal?.addEventListener("abort", resolve, { once: true });
    });
  }
}

// field: one that the answer has, if it is the service's
async function fetchJson(field, path, options) {
  let [response, text] = [];
  try {
    response = await fetchPatiently(path, options);
    text = await response.text();
  } catch {
    throw new Retry(options?.signal?.aborted ? "cancelled" : "the service does not answer");
  }
  const said = parsed(text);
  const { ok, status } = response;
  if (ok && said?.[field]) return said;
  if (ok) throw new Retry("another program than the service answers here: reload the page");
  const reason = typeof said?.detail === "string" ? said.detail : `the service says ${status}`;
  throw new (status >= 500 || status === 408 || status === 429 ? Retry : Error)(reason);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function post(field, path, file, model, signal) {
  await file.slice(0, 1).arrayBuffer().catch(() => { throw new Error("the file cannot be read: it was changed or removed"); });
  const body = new FormData();
  body.append("files", file, file.name || "pasted");
  return fetchJson(field, `${path}?model=${encodeURIComponent(model)}`, { method: "POST", body, signal, headers: { Accept: "application/json" } });
}

export const engine = {
  formats: "JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF", // that it reads
  about: () => fetchJson("models", "v1/models"), // -> {models, limits, limit}
  predict: (file, model, signal) => post("predictions", "v1/predict", file, model, signal), // -> {model, model_sha256, predictions: [one], limit}
  explain: (file, model) => post("occlusion_map", "v1/explain", file, model), // -> {model, ..., prediction, occlusion_map, seen_region}
};
