// All answers as CSV (RFC 4180), with the columns of `python -m detector --csv`: detector/output.py.

import { trust } from "./words.js";

const COLUMNS = ["file", "verdict", "p_fake", "out_of_distribution", "notes", "claims", "error", "model_sha256"];

export function csvOf(cards) {
  const rows = cards.flatMap((card) => (card.error ? [{ file: card.name, error: card.error.message }] : card.rows.flatMap(cells)));
  return [COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))].map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

// none of a row that waits
function cells({ card, model, answer, error }) {
  if (error) return [{ file: card.name, error: error.message, model_sha256: model.model_sha256 }];
  if (!answer) return [];
  const prediction = answer.predictions[0];
  const outside = prediction.out_of_distribution ? "True" : "False"; // as Python writes it
  const claims = prediction.claims.map((claim) => `${claim.says} (${claim.source}; ${trust(claim)})`);
  return [{ ...prediction, file: card.name, out_of_distribution: outside, notes: prediction.notes.join("; "), claims: claims.join("; "), model_sha256: answer.model_sha256 }];
}

function quoted(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r\n]/.test(text)) text = `'${text}`; // a spreadsheet would take it for a formula
  if (typeof value === "string") text = text.replace(/[;\t]\s*(?=[=+\-@\uff1d\uff0b\uff0d\uff20])|(^|,)(?=[\uff1d\uff0b\uff0d\uff20])/g, "$&'"); // as detector/written.py
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
