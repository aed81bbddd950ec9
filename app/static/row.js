// One model's answer in a card, and its evidence.

import { copyOf, find } from "./dom.js";
import { engine } from "./engine.js";
import { drawOcclusionMap, inWords } from "./occlusion-map.js";
import { enqueue, report } from "./queue.js";
import { Retry } from "./retry.js";
import { saysLittle, scoreText, verdictWords } from "./words.js";

export class Row {
  // model: an entry of /v1/models
  constructor(card, model) {
    [this.card, this.model] = [card, model];
    this.element = copyOf("#row");
    this.figure = copyOf("#figure");
    this.part(".model").textContent = model.name;
    this.part(".explain").onclick = () => this.explain();
  }

  part(selector) {
    return find(selector, this.element);
  }

  ask() {
    this.answer = this.error = null;
    this.isWaiting = true;
    this.explained = false;
    this.element.className = "row waiting";
    this.say("…", "asking");
    this.part(".result").hidden = this.part(".explain").hidden = this.part(".headline").hidden = true;
    this.collapse();
    enqueue({ ask: (signal) => this.predict(signal), cancel: () => this.fail(new Retry("cancelled")) });
  }

  say(verdict, words) {
    find("strong", this.part(".verdict")).textContent = verdict;
    find("span", this.part(".verdict")).textContent = words;
  }

  async predict(signal) {
    if (!this.element.isConnected) return; // removed
    let answer;
    try {
      answer = await engine.predict(this.card.file, this.model.name, signal);
    } catch (error) {
      this.fail(error);
      return;
    }
    if (this.element.isConnected) this.show(answer);
  }

  show(answer) {
    const { verdict, p_fake: p, notes } = answer.predictions[0];
    const { abstention_band: [low, high], scale: [real, fake] } = this.model;
    const isLittle = saysLittle(notes);
    [this.answer, this.isWaiting] = [answer, false];
    this.element.className = `row ${verdict}${isLittle ? " little" : ""}`;
    this.part(".headline").hidden = !isLittle;
    const closer = verdictWords(verdict, this.model.scale);
    this.say(verdict, closer);
    const score = `Score ${scoreText(p)}`;
    this.part(".score").textContent = score;
    const bar = this.part(".bar");
    bar.setAttribute("aria-label", `${score} on a scale from 0, like ${real}, to 1, like ${fake}; UNSURE from ${low.toFixed(3)} to ${high.toFixed(3)}`);
    for (const [name, share] of Object.entries({ p, low, high })) bar.style.setProperty(`--${name}`, `${100 * share}%`);
    this.part(".zero").textContent = `0: like ${real}`;
    this.part(".one").textContent = `1: like ${fake}`;
    this.part(".result").hidden = false;
    this.part(".explain").hidden = false;
    this.collapse(); // its label names the picture
    const headline = isLittle ? "The answer says little. " : "";
    const words = [`${headline}${verdict}, score ${scoreText(p)}: ${closer}`, ...notes.map((note) => `${note}.`), answer.limit].join(" ");
    report(this.card, isLittle ? "of which the answer says little" : verdict, `${this.card.name}, ${this.model.name}: ${words}`);
    this.card.gather();
  }

  fail(error) {
    if (!this.element.isConnected) return;
    [this.error, this.isWaiting] = [error, false];
    this.element.className = "row failed";
    this.say("No answer:", error.message);
    report(this.card, "without an answer", `${this.card.name}, ${this.model.name}: no answer, ${error.message}.`);
    this.card.gather();
  }

  async explain() {
    const button = this.part(".explain");
    if (button.getAttribute("aria-expanded") === "true") return this.collapse();
    const [map, canvas, caption] = [".map", "canvas", "figcaption"].map((part) => find(part, this.figure));
    const { name } = this.card;
    this.figure.hidden = false;
    button.setAttribute("aria-expanded", "true");
    this.label("Hide the evidence");
    if (this.explained) return;
    map.hidden = true;
    caption.textContent = "Asking for the evidence …";
    try {
      const { occlusion_map: values, seen_region: region } = await engine.explain(this.card.file, this.model.name);
      drawOcclusionMap(canvas, this.card.part(".picture"), values, region);
      const isWhole = region.join() === "0,0,1,1";
      const words = `${isWhole ? "" : "This is the middle of the picture, all that the model saw. "}${inWords(values)}`;
      canvas.setAttribute("aria-label", `${name} with the evidence in it. ${words}`);
      map.hidden = false;
      this.explained = true;
      caption.textContent = `${this.model.name}: ${words} It shows where, not why, and is no proof that the answer is right.`;
      if (!this.figure.hidden) find("#status").textContent = `The evidence in ${name} is shown. ${words}`;
    } catch (error) {
      caption.textContent = `No evidence: ${error.message}`;
      find("#status").textContent = `${name}: no evidence, ${error.message}`;
    }
  }

  collapse() {
    this.figure.hidden = true;
    this.part(".explain").setAttribute("aria-expanded", "false");
    this.label("Show the evidence");
  }

  // What is read aloud begins with what is seen, and goes on with what tells one such button from the next.
  label(words) {
    this.part(".explain").textContent = words;
    this.part(".explain").setAttribute("aria-label", `${words} in ${this.card.name}, ${this.model.name}`);
  }
}
