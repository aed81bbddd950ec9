// Questions wait here, and a few are asked at a time. What is in work is shown, and can be cancelled.

import { find } from "./dom.js";
import { counted } from "./words.js";

const AT_ONCE = 4; // the service batches them
const waiting = [];
const results = [];
let [running, asked] = [0, 0];
let asking = new AbortController();

// question: {ask(signal), cancel()}; ask never throws, and ends early where the signal says so.
export function enqueue(question) {
  waiting.push(question);
  asked += 1;
  next();
}

export function cancelAll() {
  for (const question of waiting.splice(0)) question.cancel();
  asking.abort();
  asking = new AbortController();
  next();
}

// card: of the picture; kind: a verdict, or why there is none; words: all of the answer
export function report(card, kind, words) {
  results.push({ card, kind, words });
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift().ask(asking.signal).finally(() => {
      running -= 1;
      next();
    });
  }
  showProgress();
  if (!running) {
    asked = 0;
    tell();
  }
}

function showProgress() {
  const done = asked - running - waiting.length;
  const area = find("#progress");
  const isWorthIt = asked > AT_ONCE && done < asked;
  if (!isWorthIt && area.contains(document.activeElement)) find("#save").focus(); // or the focus would be lost
  area.hidden = !isWorthIt;
  [find("progress", area).max, find("progress", area).value] = [asked || 1, done];
  find("span", area).textContent = `${done} of ${asked} answers`;
}

// A screen reader would hear only the last of many answers: of several pictures it is told how many of which there are.
function tell() {
  const told = results.splice(0);
  const pictures = new Set(told.map(({ card }) => card)).size;
  if (pictures === 1) find("#status").textContent = told.map(({ words }) => words).join(" ");
  if (pictures < 2) return;
  const kinds = [...new Set(told.map(({ kind }) => kind))].sort();
  const counts = kinds.map((kind) => `${told.filter((one) => one.kind === kind).length} ${kind}`);
  const answers = told.length > pictures ? `, ${counted(told.length, "answer")}` : "";
  find("#status").textContent = `${pictures} pictures${answers}: ${counts.join(", ")}`;
}
