// One picture: a row for each model that is asked, and below them what holds for all of it. A screenshot of a card must
// not say more than the models know, so it has their limits in it.

import { copyOf, element, find } from "./dom.js";
import { report } from "./queue.js";
import { Retry } from "./retry.js";
import { Row } from "./row.js";
import { trust } from "./words.js";

export class Card {
  // name: a path, of a picture from a folder; truth: what is known of an example
  constructor({ file, name, truth = "" }) {
    [this.file, this.name, this.rows, this.error] = [file, name, [], null];
    this.element = copyOf("#card");
    this.element.card = this;
    this.part(".name").textContent = name;
    this.part(".truth").textContent = truth;
    this.part(".truth").hidden = !truth;
    this.url = URL.createObjectURL(file);
    const picture = this.part(".picture");
    picture.onload = () => picture.classList.toggle("small", picture.naturalWidth < 96);
    picture.onerror = () => { picture.style.visibility = "hidden"; };
    picture.src = this.url;
    this.part(".remove").setAttribute("aria-label", `Remove ${name}`);
    this.part(".again").setAttribute("aria-label", `Try again with ${name}`);
  }

  part(selector) {
    return find(selector, this.element);
  }

  // Ask those of the models that have not answered, and forget the answers of all others.
  ask(models) {
    this.error = null;
    this.rows = models.map((model) => this.rows.find((row) => row.model === model) ?? new Row(this, model));
    this.part(".rows").replaceChildren(...this.rows.map((row) => row.element));
    this.part(".figures").replaceChildren(...this.rows.map((row) => row.figure));
    for (const row of this.rows) if (!row.answer && !row.isWaiting) row.ask();
    this.gather();
  }

  // No model can be asked.
  fail(error) {
    this.error = error;
    report(this, "without an answer", `${this.name}: no answer, ${error.message}.`);
    this.gather();
  }

  // What the rows have in common: said once, and with the models' names where it is not of all of them.
  gather() {
    const answered = this.rows.filter(({ answer }) => answer);
    const prediction = ({ answer }) => answer.predictions[0];
    const names = (rows) => rows.map(({ model }) => model.name).join(", ");
    const by = (texts) => {
      const rowsOf = new Map();
      for (const row of answered) for (const text of texts(row)) rowsOf.set(text, [...(rowsOf.get(text) ?? []), row]);
      return [...rowsOf];
    };
    const notes = by((row) => prediction(row).notes).map(([note, rows]) => element("li", rows.length === this.rows.length ? note : `${names(rows)}: ${note}`));
    this.part(".notes").replaceChildren(...notes);
    this.part(".notes").hidden = !notes.length;
    this.part(".limits").replaceChildren(...by(({ answer }) => [answer.limit]).map(([limit, rows]) => {
      const line = element("p", ` ${limit}`);
      line.prepend(element("strong", `${names(rows)}:`));
      return line;
    }));
    const claims = answered.length ? prediction(answered[0]).claims : []; // the file's, whichever model is asked
    find("ul", this.part(".claims")).replaceChildren(...claims.map((claim) => element("li", `${claim.says} (${claim.source}; ${trust(claim)})`)));
    this.part(".claims").hidden = !claims.length;
    this.part(".problem").hidden = !this.error;
    this.part(".problem span").textContent = this.error?.message ?? "";
    this.part(".again").hidden = !(this.error instanceof Retry || this.rows.some((row) => row.error instanceof Retry));
    this.element.classList.toggle("failed", Boolean(this.error));
  }

  remove() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}
