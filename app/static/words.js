// What the page says of an answer. Not "92 % FAKE", which reads as the odds for this picture, but a score on a scale whose
// two ends are named: what a picture there is like. app/pages.py has the same words for browsers without scripts.

const SAYS_LITTLE = "the answer says little"; // the end of such notes

// P(FAKE), 0 to 1, never rounded to certainty
export function scoreText(p) {
  if (p > 0.999) return "over 0.999";
  if (p < 0.001) return "under 0.001";
  return p.toFixed(3);
}

// scale: what a picture is like whose score is 0, and one whose score is 1
export function verdictWords(verdict, [real, fake]) {
  if (verdict === "FAKE") return `closer to ${fake} than to ${real}. It may be a photograph all the same.`;
  if (verdict === "REAL") return `closer to ${real} than to ${fake}. It need not be genuine.`;
  return `not clearly closer to ${real} or to ${fake}.`;
}

export const saysLittle = (notes) => notes.some((note) => note.endsWith(SAYS_LITTLE));

// What the signature of a claim is worth: {source, says, signed}. detector/output.py has the same words.
export function trust({ source, signed }) {
  if (source !== "C2PA") return "unsigned, anyone can write it";
  return signed ? "its signature fits the file" : "no signature that was found to fit the file";
}

export const percent = (share) => `${(100 * share).toFixed(share > 0.999 || share < 0.001 ? 2 : 1)} %`;

export const megabytes = (bytes) => `${Number((bytes / 1e6).toPrecision(3))} MB`;

export const counted = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
