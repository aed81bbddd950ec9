// The page: how pictures come in, and what is done with all answers. A card is one picture, engine.js answers.

import { Card } from "./card.js";
import { csvOf } from "./csv.js";
import { find } from "./dom.js";
import { chosenModels, maxBytes, meet } from "./models.js";
import { picturesOfDrop, picturesOfFiles, picturesOfFolder } from "./pictures.js";
import { cancelAll, enqueue } from "./queue.js";
import { counted, megabytes } from "./words.js";

const status = find("#status");
const list = find("#list");
const cards = () => [...list.children].map((element) => element.card);

function add({ pictures, passedOver, unreadable }, truth) {
  const added = pictures.map((picture) => new Card({ ...picture, truth }));
  const others = (passedOver ? `Passed over: ${counted(passedOver, "file")} that ${passedOver === 1 ? "is no picture" : "are no pictures"}. ` : "")
    + (unreadable.length ? `Cannot be read: ${unreadable.slice(0, 3).join(", ")}${unreadable.length > 3 ? ` and ${unreadable.length - 3} more` : ""}. ` : "");
  find("#passed-over").textContent = others;
  find("#passed-over").hidden = !others;
  if (!added.length) {
    status.textContent = `${others}No picture was chosen`;
    return;
  }
  for (const card of added) {
    card.part(".again").onclick = () => {
      card.element.focus(); // the button goes
      ask(card);
    };
    card.part(".remove").onclick = () => remove(card);
  }
  find("#answers").hidden = false;
  list.prepend(...added.map((card) => card.element));
  status.textContent = `${others}Asking about ${added.length === 1 ? added[0].name : `${added.length} pictures`}`;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("#answers").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "nearest" });
  for (const card of added) ask(card);
}

async function ask(card) {
  try {
    await meet();
    if (card.file.size > maxBytes()) throw new Error(`the file is larger than ${megabytes(maxBytes())}`);
    card.ask(chosenModels());
  } catch (error) {
    const fail = () => card.fail(error);
    enqueue({ ask: async () => fail(), cancel: fail });
  }
}

function remove(card) {
  const neighbour = card.element.nextElementSibling || card.element.previousElementSibling;
  card.remove();
  status.textContent = `${card.name} is removed`;
  find("#answers").hidden = !list.children.length;
  (neighbour ? neighbour.card.part(".remove") : find("#files")).focus();
}

for (const [id, picturesOf] of [["#files", picturesOfFiles], ["#folder", picturesOfFolder], ["#camera", picturesOfFiles]]) {
  find(id).onchange = ({ target }) => {
    add(picturesOf(target.files));
    target.value = ""; // so that the same can be chosen again
  };
}
const drop = find("#drop");
addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) add(await picturesOfDrop(event.dataTransfer));
  else status.textContent = "That was no file: save the picture first, then drop it";
});
addEventListener("paste", ({ clipboardData: { files } }) => { if (files.length) add(picturesOfFiles(files)); });
find(".examples").onclick = async ({ target }) => {
  const chosen = target.closest("button");
  if (!chosen) return;
  const { example: name, truth } = chosen.dataset;
  try {
    const response = await fetch(`static/examples/${name}`);
    if (!response.ok) throw new Error(response.statusText);
    const blob = await response.blob();
    add(picturesOfFiles([new File([blob], name, { type: blob.type })]), truth);
  } catch {
    status.textContent = "The example could not be fetched: try again in a moment";
  }
};
find("#choice").onchange = ({ target }) => {
  if (!chosenModels().length) {
    target.checked = true;
    status.textContent = "One model at least has to answer";
    return;
  }
  for (const card of cards()) ask(card);
};
find("#cancel").onclick = cancelAll;
find("#clear").onclick = () => {
  for (const card of cards()) card.remove();
  cancelAll();
  find("#answers").hidden = true;
  find("#files").focus();
  status.textContent = "All answers are removed";
};
find("#save").onclick = () => {
  const url = URL.createObjectURL(new Blob([csvOf(cards())], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: url, download: "answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  const isWhole = find("#progress").hidden;
  status.textContent = isWhole ? "The answers are saved as answers.csv" : "The answers so far are saved as answers.csv";
};

for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
meet().catch(() => {}); // it is told where the models would be
