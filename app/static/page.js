// The page: a card for each picture, one question for each card, a few at a time. engine.js answers.

import { engine } from "./engine.js";
import { drawOcclusionMap, inWords } from "./occlusion-map.js";
import { Retry } from "./retry.js";

const AT_ONCE = 4;
const SAID = {
  FAKE: "looks like an image by Stable Diffusion 1.4",
  REAL: "looks like a photograph",
  UNSURE: "the model cannot tell",
};
const MEASURED = [
  ["accuracy", "right answers, FAKE and REAL alike"],
  ["fake_recall", "FAKE pictures that are found"],
  ["real_recall", "REAL pictures that are recognised"],
  ["coverage", "pictures that get an answer instead of UNSURE"],
  ["selective_accuracy", "right among those answers"],
  ["corrupted_accuracy", "right on pictures corrupted by noise, blur or JPEG"],
  ["rescaled_accuracy", "right on pictures that were made smaller and larger again"],
];

const find = (selector, inside = document) => inside.querySelector(selector);
const status = find("#status");
const list = find("#list");
const choice = find("#model");
let service = { models: [], limits: {} };
const queue = [];
let running = 0;

function percent(share) {
  if (share > 0.9999) return "over 99.99 %";
  if (share < 0.0001) return "under 0.01 %";
  return `${(100 * share).toFixed(share > 0.999 || share < 0.001 ? 2 : 1)} %`;
}

const megabytes = (bytes) => `${Number((bytes / 1e6).toPrecision(3))} MB`;

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    queue.shift()().finally(() => { running -= 1; next(); });
  }
  if (!running) tell();
}

// A screen reader would hear only the last of many answers: of several it is told how many of which there are.
const results = [];

function tell() {
  const told = results.splice(0);
  if (told.length === 1) status.textContent = told[0].words;
  if (told.length < 2) return;
  const kinds = [...new Set(told.map(({ kind }) => kind))].sort();
  const counts = kinds.map((kind) => `${told.filter((one) => one.kind === kind).length} ${kind}`);
  status.textContent = `${told.length} pictures: ${counts.join(", ")}`;
}

function add(files, truth = "") {
  const cards = [...files].map((file) => new Card(file, truth));
  if (!cards.length) return;
  find("#answers").hidden = false;
  list.prepend(...cards.map((card) => card.element));
  status.textContent = cards.length === 1 ? `Asking about ${cards[0].name}` : `Asking about ${cards.length} pictures`;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("#answers").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "nearest" });
  for (const card of cards) card.enqueue();
}

class Card {
  constructor(file, truth) {
    this.file = file;
    this.name = file.name || "pasted picture";
    this.element = find("#answer").content.cloneNode(true).firstElementChild;
    this.element.card = this;
    this.part(".name").textContent = this.name;
    this.part(".truth").textContent = truth;
    this.part(".truth").hidden = !truth;
    this.url = URL.createObjectURL(file);
    const picture = this.part(".picture");
    picture.onload = () => picture.classList.toggle("small", picture.naturalWidth < 96);
    picture.onerror = () => { picture.style.visibility = "hidden"; };
    picture.src = this.url;
    this.part(".remove").onclick = () => this.remove();
    this.part(".remove").setAttribute("aria-label", `Remove ${this.name}`);
    this.part(".again").onclick = () => this.enqueue();
    this.part(".explain").onclick = () => this.explain();
  }

  part(selector) {
    return find(selector, this.element);
  }

  enqueue() {
    this.element.className = "answer waiting";
    this.say("…", "asking");
    this.part(".again").hidden = true;
    this.part(".result").hidden = this.part(".notes").hidden = this.part(".explain").hidden = true;
    this.collapse();
    this.explained = false;
    queue.push(() => this.answer());
    next();
  }

  say(verdict, words) {
    find("strong", this.part(".verdict")).textContent = verdict;
    find("span", this.part(".verdict")).textContent = words;
  }

  async answer() {
    if (!this.url) return; // removed
    try {
      await meet();
      const most = service.limits.max_bytes;
      if (this.file.size > most) throw new Error(`the file is larger than ${megabytes(most)}`);
      const { model, predictions: [prediction] } = await engine.predict(this.file, choice.value);
      this.show(prediction, service.models.find(({ name }) => name === model));
    } catch (error) {
      this.fail(error);
    }
  }

  show(prediction, model) {
    const [low, high] = model.abstention_band;
    this.element.className = `answer ${prediction.verdict}`;
    this.say(prediction.verdict, SAID[prediction.verdict]);
    const said = `P(FAKE) ${percent(prediction.p_fake)}`;
    this.part(".probability").textContent = said;
    const bar = this.part(".bar");
    bar.setAttribute("aria-label", `${said}; UNSURE from ${percent(low)} to ${percent(high)}`);
    for (const [name, share] of Object.entries({ p: prediction.p_fake, low, high })) bar.style.setProperty(`--${name}`, `${100 * share}%`);
    this.part(".result").hidden = false;
    this.part(".notes").replaceChildren(...prediction.notes.map((note) => element("li", note)));
    this.part(".notes").hidden = !prediction.notes.length;
    this.part(".explain").hidden = false;
    this.part(".explain").setAttribute("aria-label", `Show the evidence in ${this.name}`);
    results.push({ kind: prediction.verdict, words: [`${this.name}: ${prediction.verdict}, ${said}`, ...prediction.notes].join(". ") });
  }

  fail(error) {
    this.element.className = "answer failed";
    this.say("No answer:", error.message);
    this.part(".again").hidden = !(error instanceof Retry);
    results.push({ kind: "without an answer", words: `${this.name}: no answer, ${error.message}` });
  }

  async explain() {
    const button = this.part(".explain");
    if (button.getAttribute("aria-expanded") === "true") return this.collapse();
    const caption = find("figcaption", this.part(".explanation"));
    this.part(".explanation").hidden = false;
    button.setAttribute("aria-expanded", "true");
    button.textContent = "Hide the evidence";
    button.setAttribute("aria-label", `Hide the evidence in ${this.name}`);
    if (this.explained) return;
    this.part(".map").hidden = true;
    caption.textContent = "Asking for the evidence …";
    try {
      const { occlusion_map: map, seen_region: region } = await engine.explain(this.file, choice.value);
      const canvas = this.part("canvas");
      drawOcclusionMap(canvas, this.part(".picture"), map, region);
      const isWhole = region.join() === "0,0,1,1";
      const words = `${isWhole ? "" : "This is the middle of the picture, all that the model saw. "}${inWords(map)}`;
      canvas.setAttribute("aria-label", `${this.name} with the evidence in it. ${words}`);
      this.part(".map").hidden = false;
      this.explained = true;
      caption.textContent = `${words} It shows where, not why, and is no proof that the answer is right.`;
      status.textContent = `The evidence in ${this.name} is shown. ${words}`;
    } catch (error) {
      caption.textContent = `No evidence: ${error.message}`;
      status.textContent = `${this.name}: no evidence, ${error.message}`;
    }
  }

  collapse() {
    const button = this.part(".explain");
    this.part(".explanation").hidden = true;
    button.setAttribute("aria-expanded", "false");
    button.textContent = "Show the evidence";
    button.setAttribute("aria-label", `Show the evidence in ${this.name}`);
  }

  remove() {
    const neighbour = this.element.nextElementSibling || this.element.previousElementSibling;
    URL.revokeObjectURL(this.url);
    this.url = null;
    this.element.remove();
    status.textContent = `${this.name} is removed`;
    find("#answers").hidden = !list.children.length;
    (neighbour ? find(".remove", neighbour) : find("#files")).focus();
  }
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

function measurements({ title, trained_on: data, test }) {
  const rows = MEASURED.filter(([key]) => key in test).map(([key, words]) => {
    const row = document.createElement("tr");
    const head = element("th", words);
    head.scope = "row";
    row.append(head, element("td", percent(test[key])));
    return row;
  });
  if (!rows.length) return [element("p", `${title}. Its model.json has no test figures.`)];
  const table = document.createElement("table");
  const where = data === "cifake" ? "CIFAKE's test split of 20,000 pictures" : `the test split of ${data}`;
  const body = document.createElement("tbody");
  body.append(...rows);
  table.append(element("caption", `${title}. On ${where}:`), body);
  return [table];
}

// Ask once which models there are, and again where that failed.
let met;

function meet() {
  met ??= engine.about().then(introduce).catch((error) => {
    met = undefined;
    find("#models").replaceChildren(element("p", `No model: ${error.message}.`));
    throw error;
  });
  return met;
}

function introduce(said) {
  service = said;
  const { max_bytes: bytes, max_pixels: pixels } = service.limits;
  find("#limits").textContent = `JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF, up to ${megabytes(bytes)} and ${Math.floor(pixels / 1e6)} megapixels each.`;
  choice.replaceChildren(...service.models.map(({ name }) => element("option", name)));
  find("#choice").hidden = service.models.length < 2;
  find("#models").replaceChildren(...service.models.flatMap(measurements));
  const drifted = service.models.filter(({ drift }) => drift?.found);
  find("#drift").hidden = !drifted.length;
  find("#drift p").textContent = drifted.map(({ name, drift }) => `The last ${drift.answers} pictures that ${name} was asked about are not like those that it was trained on: its answers may be worth less than the figures below say.`).join(" ");
}

const drop = find("#drop");
find("#files").onchange = ({ target }) => { add(target.files); target.value = ""; };
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
  if (!event.dataTransfer.files.length) status.textContent = "That was no file: save the picture first, then drop it";
});
addEventListener("paste", (event) => add(event.clipboardData.files));
find(".examples").onclick = async ({ target }) => {
  const chosen = target.closest("button");
  if (!chosen) return;
  const { example: name, truth } = chosen.dataset;
  try {
    const response = await fetch(`static/examples/${name}`);
    if (!response.ok) throw new Error(response.statusText);
    const blob = await response.blob();
    add([new File([blob], name, { type: blob.type })], truth);
  } catch {
    status.textContent = "The example could not be fetched: try again in a moment";
  }
};
find("#clear").onclick = () => {
  for (const { card } of [...list.children]) card.remove();
  status.textContent = "All answers are removed";
};
choice.onchange = () => { for (const { card } of list.children) card.enqueue(); };
find("#place").textContent = engine.place;
meet().catch(() => {}); // it is told where the models would be
