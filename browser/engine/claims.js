// What a picture file itself says of how it was made: a claim, which is no evidence. detector/claims.py, in its words and
// in its order; tests/test_browser.py compares both. That the file has Content Credentials is said; their signatures are
// not checked here.

import { latin1 } from "./bytes.js";
import { parts } from "./containers.js";
import { exifTexts } from "./metadata.js";
import { xmpTexts } from "./xmp.js";

const MOST = 8; // claims of a file
const PROMPT = 200; // characters of a prompt that are shown
const NAME = 80; // and of a program's or model's name

const CREDENTIALS = "Content Credentials, not read in the browser: `python -m detector` reads and checks them with c2pa-python";

// Python's \b and \d, which know more letters and digits than JavaScript's
const LETTER = "[\\p{L}\\p{N}_]";
const [B, E] = [`(?<!${LETTER})`, `(?!${LETTER})`];
const NAMES = "midjourney|dall[-·. ]?e" + E + "|chatgpt|openai|stable[ -]?diffusion|stability ai|comfyui|invoke-?ai|fooocus|novelai"
  + "|adobe firefly|black forest labs|imagen \\p{Nd}|ideogram|leonardo\\.ai|recraft|bing image creator|dreamstudio|swarmui"
  + `|draw things|diffusionbee|easy diffusion|${B}txt2img${E}|google ai${E}|${B}meta ai${E}`;
const WORDS = `${B}ai[ \\-]generated|${B}(?:made|generated|created|imagined) (?:with|by|using) ai${E}`;
const GENERATOR = new RegExp(`${NAMES}|${WORDS}`, "iu");
const MADE = new RegExp(`${B}(?:made|generated|created|imagined)${E}[^\\n]{0,20}${B}(?:with|by|using)${E}[^\\n]{0,40}(?:${NAMES})|${WORDS}`, "iu");
const MODEL = new RegExp(`${B}Model: ([^,\\n]+)`, "u");
const LOOKED_AT = 10_000; // characters of a text in which they are looked for
const folded = (text) => text.replaceAll(/[İı]/g, "i"); // Python counts both as i where case does not matter
const SETTINGS = ["steps", "seed", "sampler", "scheduler", "cfg_scale", "guidance_scale"];

const SOURCE_TYPES = new Map(Object.entries({
  trainedAlgorithmicMedia: "created by a generative model",
  compositeWithTrainedAlgorithmicMedia: "composed or edited with a generative model",
  compositeSynthetic: "composed of parts, synthetic ones among them",
  algorithmicMedia: "created by an algorithm that is no generative model",
  algorithmicallyEnhanced: "enhanced by an algorithm",
  digitalCapture: "captured by a digital camera",
  computationalCapture: "captured by a digital camera, computed from several exposures",
  digitalCreation: "created by a person with software",
  digitalArt: "created by a person with software",
  humanEdits: "captured, and edited by a person",
  minorHumanEdits: "captured, and edited a little by a person",
  screenCapture: "captured from a screen",
}));

// bytes: a picture file. -> [{source, says, signed}], MOST at most. Whatever is broken in the file is passed over.
export async function readClaims(bytes) {
  const claims = [];
  for await (const [source, says] of fileClaims(bytes)) {
    if (source === "C2PA") claims.unshift({ source, says, signed: false });
    else if (claims.every((one) => one.says !== says)) claims.push({ source, says, signed: false });
    if (claims.length === MOST) break;
  }
  return claims;
}

async function* fileClaims(bytes) {
  const seen = new Set();
  for await (const [kind, part] of parts(bytes)) {
    if (seen.has(kind)) continue; // the first one counts
    seen.add(kind);
    if (kind === "C2PA") yield [kind, CREDENTIALS];
    else if (kind === "EXIF" || kind === "XMP") {
      for (const [name, value] of kind === "EXIF" ? exifTexts(part) : xmpTexts(part)) {
        const says = claimOf(name, typeof value === "string" ? value : decoded(value));
        if (says) yield [`${kind} ${name}`, says];
      }
    } else {
      const says = claimOf(kind.slice(kind.indexOf(" ") + 1), decoded(part));
      if (says) yield [kind, says];
    }
  }
}

// What a field of this name says; undefined where that is no claim, or something that is nobody's business.
function claimOf(name, text) {
  const bare = strip(text, "\0 \r\n\t");
  return bare ? (CLAIMS.get(name) ?? inFreeText)(bare) : undefined;
}

const namesGenerator = (text) => GENERATOR.test(folded(beginning(text, LOOKED_AT)));

const software = (text) => (namesGenerator(text) ? madeWith(text) : `software: ${cut(text, NAME)}`);

// Of a field that holds the name of a person, or of a camera's maker, as a rule.
const generatorAlone = (text) => inJson(text) ?? (namesGenerator(text) ? quoted(text) : undefined);

function sourceType(text) {
  const term = text.split("/").findLast(Boolean) ?? "";
  return `${SOURCE_TYPES.get(term) ?? "digital source type"} (${cut(term, NAME)})`;
}

const promptAlone = (text) => inFreeText(text) ?? `prompt ${quoted(text)}`;

// Of a command of InvokeAI's first releases: the prompt in quotes, then options.
const dream = (text) => madeWith("InvokeAI", strip(text.split('" -', 1)[0], '"'));

// What generators write into captions and comments, undefined where it is anything else.
function inFreeText(text) {
  const said = inJson(text);
  if (said) return said;
  const steps = `\n${text}`.lastIndexOf("\nSteps: "); // in `text` it is there without the line's end
  const after = text.slice(steps + 7);
  if (steps >= 0 && /^\p{Nd}+, /u.test(after)) {
    const prompt = `\n${text}`.slice(0, steps).split("\nNegative prompt:", 1)[0];
    return madeWith("AUTOMATIC1111's web UI or one like it", prompt, after.match(MODEL)?.[1]);
  }
  const job = text.lastIndexOf("Job ID: ");
  if (job >= 0 && /^[0-9a-f]{8}-[0-9a-f-]{27}/.test(text.slice(job + 8))) return madeWith("Midjourney", text.slice(0, job));
  return MADE.test(folded(beginning(text, LOOKED_AT))) ? quoted(text) : undefined;
}

// Of a comment; programs that make GIFs write there that they did.
function inComment(text) {
  const start = beginning(text, LOOKED_AT);
  const found = folded(start).match(/^((?:made|created|edited|generated|written) (?:with|using) )[^]/iu);
  return found ? software(start.slice(found[1].length)) : inFreeText(text);
}

const textOf = (value) => (typeof value === "string" ? value : "");
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
// The value of the first of the keys that an object has.
const first = (content, ...keys) => content[keys.find((key) => key in content) ?? keys[0]];

// What the JSON says that generators write: ComfyUI's nodes, or settings with a prompt.
function inJson(text) {
  const bare = text.replace(/^(?:prompt|workflow|Workflow|Prompt):(?=\{)/, ""); // as ComfyUI writes it into EXIF
  if (bare[0] !== "{") return undefined;
  let content;
  try {
    content = JSON.parse(forJavaScript(bare));
  } catch {
    return undefined;
  }
  if (Array.isArray(content.nodes) && "links" in content) return madeWith("ComfyUI");
  const nodes = Object.values(content).filter((node) => isObject(node) && "class_type" in node);
  return nodes.length ? inNodes(nodes) : inSettings(content);
}

// As Python's json reads it: with NaN, which ComfyUI writes, and with keys that are numbers in their order, which
// JavaScript sorts; a space before them keeps it from that.
function forJavaScript(json) {
  return json.replaceAll(/"([^"\\]*(?:\\[^][^"\\]*)*)(?:"(\s*:)?|\\?$)|(-?\bInfinity|\bNaN)\b/g, (token, string, colon, number) => {
    if (number) return "null";
    return colon && /^\d+$/.test(string) ? `" ${string}"${colon}` : token;
  });
}

// The texts in ComfyUI's nodes, which are prompts, wanted or not, and the first model.
function inNodes(nodes) {
  const inputs = nodes.map((node) => node.inputs).filter(isObject);
  const texts = inputs.map(({ text }) => text).filter((text) => typeof text === "string" && text.trim());
  const models = inputs.flatMap((one) => [one.ckpt_name, one.unet_name]).filter((name) => typeof name === "string");
  return madeWith("ComfyUI", texts.join(" / "), models[0]);
}

// What a generator's settings say; undefined where the object is none.
function inSettings(settings) {
  let [content, program] = [settings, "a generator"];
  if (/invoke/i.test(textOf(content.app_id)) || ("app_version" in content && "generation_mode" in content)) program = "InvokeAI";
  else if (textOf(content.version).startsWith("Fooocus")) program = "Fooocus";
  for (const [inner, name] of [["sui_image_params", "SwarmUI"], ["image", program]]) { // of InvokeAI's older releases: image
    if (isObject(content[inner])) [content, program] = [{ ...content, ...content[inner] }, name];
  }
  let prompt = first(content, "positive_prompt", "prompt");
  if (Array.isArray(prompt)) prompt = prompt.filter((one) => isObject(one) && "prompt" in one).map((one) => textOf(one.prompt)).join(" "); // parts, each with a weight
  if (typeof prompt !== "string" || !SETTINGS.some((key) => key in content)) return undefined;
  let model = first(content, "base_model", "model", "model_weights");
  if (isObject(model)) model = first(model, "name", "model_name");
  return madeWith(program, prompt, textOf(model));
}

function madeWith(program, prompt = "", model = "") {
  const says = `made with ${cut(program, NAME)}${model.trim() ? `, model ${cut(model, NAME)}` : ""}`;
  return prompt.trim() ? `${says}, prompt ${quoted(prompt)}` : says;
}

const quoted = (text) => `“${cut(text, PROMPT)}”`;

// A text as one printable line; of a longer one the beginning, and how long it is. Characters are Unicode's.
function cut(text, most) {
  const line = beginning(text, 4 * most).replaceAll(/[\p{C}\p{Z}]/gu, " ").split(" ").filter(Boolean).join(" ");
  const length = text.length - (text.match(/[\ud800-\udbff][\udc00-\udfff]/g)?.length ?? 0);
  return length <= most ? line : `${beginning(line, most).trimEnd()}… (${length.toLocaleString("en")} characters)`;
}

const beginning = (text, most) => [...text.slice(0, 2 * most)].slice(0, most).join("");

function strip(text, letters) { // a regular expression would look through each run of them again and again
  let [start, end] = [0, text.length];
  while (start < end && letters.includes(text[start])) start += 1;
  while (start < end && letters.includes(text[end - 1])) end -= 1;
  return text.slice(start, end);
}

// A text whose encoding is not known: UTF-8 where it is that, else Latin-1.
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    let text = "";
    for (let start = 0; start < bytes.length; start += 2 ** 14) text += latin1(bytes, start, start + 2 ** 14);
    return text;
  }
}

// By the name of a field. Other fields that are read hold free text.
const CLAIMS = new Map([
  ...["Software", "ProcessingSoftware", "CreatorTool", "AISystemUsed"].map((name) => [name, software]),
  ...["Artist", "Author", "XPAuthor", "Make", "Credit"].map((name) => [name, generatorAlone]),
  ...["prompt", "AIPromptInformation"].map((name) => [name, promptAlone]),
  ["DigitalSourceType", sourceType],
  ["Dream", dream],
  ["comment", inComment],
]);
