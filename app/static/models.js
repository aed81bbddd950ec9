// Which models there are: which of them are asked, and how good they are.

import { element, find } from "./dom.js";
import { engine } from "./engine.js";
import { megabytes, percent } from "./words.js";

const MEASURED = [
  ["accuracy", "right answers, FAKE and REAL alike"],
  ["fake_recall", "FAKE pictures that are found"],
  ["real_recall", "REAL pictures that are recognised"],
  ["coverage", "pictures that get an answer instead of UNSURE"],
  ["selective_accuracy", "right among those answers"],
  ["corrupted_accuracy", "right on pictures corrupted by noise, blur or JPEG"],
  ["rescaled_accuracy", "right on pictures that were made smaller and larger again"],
];

let service;
let meeting;

// Ask once which models there are, and again where that failed. Throws what engine.about throws.
export function meet() {
  meeting ??= engine.about().then(introduce).catch((error) => {
    meeting = undefined;
    find("#models").replaceChildren(element("p", `No model: ${error.message}.`));
    throw error;
  });
  return meeting;
}

// Once met.
export const maxBytes = () => service.limits.max_bytes;
export const chosenModels = () => service.models.filter(({ name }) => find(`#choice [value="${CSS.escape(name)}"]`).checked);

function introduce(said) {
  service = said;
  const { max_bytes: bytes, max_pixels: pixels } = service.limits;
  find("#limits").textContent = `${engine.formats}, up to ${megabytes(bytes)} and ${Number((pixels / 1e6).toPrecision(3))} megapixels each.`;
  const each = (texts) => [...new Set(texts)].join("; ");
  find("#kinds").textContent = each(service.models.map(({ scale: [real, fake] }) => `${real}, or ${fake}`));
  find("#size").textContent = `${each(service.models.map(({ input_size: size }) => `${size}×${size}`))} pixels`;
  find("#choice div").replaceChildren(...service.models.map(checkbox));
  find("#choice").hidden = service.models.length < 2;
  find("#models").replaceChildren(...service.models.map(measurements));
  const drifted = service.models.filter(({ drift }) => drift?.found);
  find("#drift").hidden = !drifted.length;
  find("#drift p").textContent = drifted.map(({ name, drift }) => `The last ${drift.answers} pictures that ${name} was asked about are not like those that it was trained on: its answers may be worth less than the figures below say.`).join(" ");
}

function checkbox({ name }) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked: true });
  const label = element("label", ` ${name}`);
  label.prepend(box);
  return label;
}

function measurements({ title, trained_on: data, test }) {
  const rows = MEASURED.filter(([key]) => key in test).map(([key, words]) => {
    const row = document.createElement("tr");
    const head = element("th", words);
    head.scope = "row";
    row.append(head, element("td", percent(test[key])));
    return row;
  });
  if (!rows.length) return element("p", `${title}. Its model.json has no test figures.`);
  const table = document.createElement("table");
  const where = data === "cifake" ? "CIFAKE's test split of 20,000 pictures" : `the test split of ${data}`;
  const body = document.createElement("tbody");
  body.append(...rows);
  table.append(element("caption", `${title}. On ${where}:`), body);
  return table;
}
