// Who answers the page: here the service that it comes from. A page that answers by itself has another module in this
// place, with the same three functions. Each throws an Error whose message is for people, a Retry where asking again may
// help.

import { Retry } from "./retry.js";

async function fetchJson(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Retry("the service does not answer");
  }
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({ detail: `the service says ${response.status}` }));
  throw new (response.status >= 500 || response.status === 408 ? Retry : Error)(problem.detail);
}

function post(path, file, model) {
  const body = new FormData();
  body.append("files", file, file.name || "pasted");
  return fetchJson(`${path}?model=${encodeURIComponent(model)}`, { method: "POST", body, headers: { Accept: "application/json" } });
}

export const engine = {
  formats: "JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF", // that it reads
  about: () => fetchJson("v1/models"), // -> {models, limits, limit}
  predict: (file, model) => post("v1/predict", file, model), // -> {model, model_sha256, predictions: [one], limit}
  explain: (file, model) => post("v1/explain", file, model), // -> {model, ..., prediction, occlusion_map, seen_region}
};
