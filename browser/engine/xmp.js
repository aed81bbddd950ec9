// XMP: what a packet says of the picture itself, as detector/metadata.py reads it.
//
// A worker has no DOMParser, so XML is read here: strictly, in one pass, and without document types, whose entities
// could unfold to gigabytes.

import { LONGEST } from "./metadata.js";

const RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const XMP_NAMES = new Map([
  ["http://ns.adobe.com/xap/1.0/ CreatorTool", "CreatorTool"],
  ["http://ns.adobe.com/tiff/1.0/ Software", "Software"],
  ["http://ns.adobe.com/photoshop/1.0/ Credit", "Credit"],
  ["http://ns.adobe.com/exif/1.0/ UserComment", "UserComment"],
  ["http://purl.org/dc/elements/1.1/ description", "description"],
  ["http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourceType", "DigitalSourceType"],
  ["http://iptc.org/std/Iptc4xmpExt/2008-02-29/ AISystemUsed", "AISystemUsed"],
  ["http://iptc.org/std/Iptc4xmpExt/2008-02-29/ AIPromptInformation", "AIPromptInformation"],
]);

const NC = "[\\p{L}_][\\p{L}\\p{N}\\p{M}_.·\\-]*";
const NAME = `(${NC}(?::${NC})?)`;
const BEGIN = new RegExp(`<${NAME}`, "uy");
const ATTRIBUTE = new RegExp(`[ \\t\\n]+${NAME}[ \\t\\n]*=[ \\t\\n]*(?:"([^"<]*)"|'([^'<]*)')`, "uy");
const CLOSE = /[ \t\n]*(\/?)>/y;
const END = new RegExp(`</${NAME}[ \\t\\n]*>`, "uy");
const TEXT = /[^<]+/y;
// The encoding that it names is not used: the text is one of Unicode's. One that nobody knows is a fault.
const DECLARATION = /^xml[ \t\n]+version[ \t\n]*=[ \t\n]*(["'])1\.[0-9]\1([ \t\n]+(encoding|standalone)[ \t\n]*=[ \t\n]*(["'])[A-Za-z][\w.-]*\4){0,2}[ \t\n]*$/;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
const NO_CHARACTER = /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/; // in XML

// Those of XMP_NAMES that a packet says of the picture: [name, text]. They are attributes and elements of
// rdf:Description right below rdf:RDF; what is said of ingredients and of history is nested deeper.
export function xmpTexts(packet) {
  const found = [];
  const path = [];
  let texts = [];
  const depth = () => { // below rdf:Description
    const root = path[0] === "adobe:ns:meta/ xmpmeta" ? 1 : 0;
    return path[root] === `${RDF} RDF` && path[root + 1] === `${RDF} Description` ? path.length - root - 2 : undefined;
  };
  const begin = (name, attributes) => {
    path.push(name);
    if (depth() === 0) {
      for (const [key, value] of attributes) if (XMP_NAMES.has(key)) found.push([XMP_NAMES.get(key), value]);
    } else if (depth() === 1) texts = [attributes.get(`${RDF} resource`) ?? ""];
  };
  const end = (name) => {
    if (depth() === 1 && XMP_NAMES.has(name)) found.push([XMP_NAMES.get(name), texts.join("")]);
    path.pop();
  };
  try {
    readXml(decoded(packet), begin, end, (text) => texts.push(text));
  } catch {
    // what came before the fault stands
  }
  return found;
}

// Up to the first byte that is no text.
function decoded(packet) {
  let length = Math.min(packet.length, LONGEST);
  while (length && !packet[length - 1]) length -= 1;
  const bytes = packet.subarray(0, length);
  const [one, two] = bytes; // a mark of the order of bytes, or what begins a packet
  const encoding = (one === 0xff && two === 0xfe) || two === 0 ? "utf-16le" : (one === 0xfe && two === 0xff) || one === 0 ? "utf-16be" : "utf-8";
  let text;
  try {
    text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    [text] = new TextDecoder(encoding).decode(bytes).split("\ufffd", 1);
  }
  return text.split(NO_CHARACTER, 1)[0].replaceAll(/\r\n?/g, "\n");
}

function fault() {
  throw new Error("no XML");
}

// Calls begin(name, attributes), end(name) and said(text) in their order. Names are those of their namespaces: its
// address, a space, the local name. attributes: a Map. Throws at the first fault.
function readXml(xml, begin, end, said) {
  let place = 0;
  let isOver = false;
  const open = []; // elements: {tag, name, prefixes}
  const bound = new Map([["xml", ["http://www.w3.org/XML/1998/namespace"]]]); // addresses by prefix, the innermost last

  const match = (pattern) => {
    pattern.lastIndex = place;
    const found = pattern.exec(xml);
    if (found) place = pattern.lastIndex;
    return found;
  };
  const passTo = (mark, start) => {
    const stop = xml.indexOf(mark, start);
    if (stop < 0) fault();
    place = stop + mark.length;
    return xml.slice(start, stop);
  };
  const expanded = (tag, standard) => {
    const [local, prefix] = tag.split(":").reverse();
    const address = prefix === undefined ? standard : bound.get(prefix)?.at(-1) ?? fault();
    return address ? `${address} ${local}` : local;
  };
  const close = (tag) => {
    if (open.at(-1)?.tag !== tag) fault();
    const { name, prefixes } = open.pop();
    end(name);
    for (const prefix of prefixes) bound.get(prefix).pop();
    isOver = !open.length;
  };
  const openElement = (tag) => {
    if (isOver) fault();
    const given = new Map();
    for (let one = match(ATTRIBUTE); one; one = match(ATTRIBUTE)) {
      if (given.has(one[1])) fault();
      given.set(one[1], unescaped((one[2] ?? one[3]).replaceAll(/[\t\n]/g, " ")));
    }
    const [, isEmpty] = match(CLOSE) ?? fault();
    const prefixes = [];
    for (const [key, value] of given) {
      if (!/^xmlns(:|$)/.test(key)) continue;
      const prefix = key.slice(6);
      if (prefix === "xml" || prefix === "xmlns" || (prefix && !value) || value.includes(" ")) fault();
      if (!bound.has(prefix)) bound.set(prefix, []);
      bound.get(prefix).push(value);
      prefixes.push(prefix);
      given.delete(key);
    }
    const attributes = new Map([...given].map(([key, value]) => [expanded(key, ""), value]));
    if (attributes.size < given.size) fault(); // twice the same
    const name = expanded(tag, bound.get("")?.at(-1));
    open.push({ tag, name, prefixes });
    begin(name, attributes);
    if (isEmpty) close(tag);
  };

  while (place < xml.length) {
    const start = place;
    const ending = match(END);
    if (ending) close(ending[1]);
    else if (xml.startsWith("<!--", start)) {
      passTo("--", start + 4);
      if (xml[place] !== ">") fault();
      place += 1;
    } else if (xml.startsWith("<?", start)) {
      const instruction = passTo("?>", start + 2);
      if (/^xml([ \t\n]|$)/i.test(instruction)) {
        if (start || !DECLARATION.test(instruction)) fault();
        const [, , encoding] = /encoding[ \t\n]*=[ \t\n]*(["'])([^"']*)/.exec(instruction) ?? [];
        if (encoding) new TextDecoder(encoding); // throws for an unknown one
      }
    } else if (xml.startsWith("<![CDATA[", start)) {
      if (!open.length) fault();
      said(passTo("]]>", start + 9));
    } else if (xml[start] === "<") {
      openElement((match(BEGIN) ?? fault())[1]); // <!DOCTYPE is no name
    } else {
      const [text] = match(TEXT);
      if (text.includes("]]>") || (!open.length && /[^ \t\n]/.test(text))) fault();
      if (open.length) said(unescaped(text));
    }
  }
}

function unescaped(text) {
  return text.replaceAll(/&(?:#x([0-9a-fA-F]+)|#([0-9]+)|(amp|lt|gt|quot|apos));|&/g, (_, hexadecimal, decimal, name) => {
    if (name) return ENTITIES[name];
    const code = hexadecimal ? parseInt(hexadecimal, 16) : Number(decimal ?? 0);
    if (!code || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) fault();
    const character = String.fromCodePoint(code);
    return NO_CHARACTER.test(character) ? fault() : character;
  });
}
