"""What a picture file itself says of how it was made: a claim, which is no evidence.

Anyone can write what is not signed, most programs that people share pictures with remove it, and its absence proves
nothing. So it is told beside the detector's answer and never becomes a part of it.

Said is what names software, a generator's prompt, IPTC's digital source type, and Content Credentials
(detector/credentials.py). Not said is what else a file may hold: names of people, places, captions, the camera.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from detector.containers import parts
from detector.metadata import exif_texts, xmp_texts
from detector.preprocessed import Claim

MOST = 8  # claims of a file
PROMPT, NAME = 200, 80  # characters of a prompt and of a program's or model's name that are shown

# Names that stand for nothing but a generator of pictures, and words that say the same.
GENERATOR = re.compile(
    r"midjourney|dall[-·. ]?e\b|chatgpt|openai|stable[ -]?diffusion|stability ai|comfyui|invoke-?ai|fooocus|novelai"
    r"|adobe firefly|black forest labs|imagen \d|ideogram|leonardo\.ai|recraft|bing image creator|dreamstudio|swarmui"
    r"|draw things|diffusionbee|easy diffusion|\btxt2img\b|\bai[ -]generated|google ai\b|\bmeta ai\b|imagined with ai",
    re.IGNORECASE,
)
MADE = re.compile(
    rf"\b(made|generated|created|imagined)\b.{{0,20}}\b(with|by|using)\b.{{0,40}}({GENERATOR.pattern})", re.I
)
MADE_WITH = re.compile(r"(?:made|created|edited|generated|written) (?:with|using) (?P<name>.+)", re.I | re.DOTALL)
LOOKED_AT = 10_000  # characters of free text in which such words are looked for
SETTINGS = {
    "steps",
    "seed",
    "sampler",
    "scheduler",
    "cfg_scale",
    "guidance_scale",
}  # one of them is among a generator's

# https://cv.iptc.org/newscodes/digitalsourcetype/: the terms that say whether a generator, a person or a camera made it
SOURCE_TYPES = {
    "trainedAlgorithmicMedia": "created by a generative model",
    "compositeWithTrainedAlgorithmicMedia": "composed or edited with a generative model",
    "compositeSynthetic": "composed of parts, synthetic ones among them",
    "algorithmicMedia": "created by an algorithm that is no generative model",
    "algorithmicallyEnhanced": "enhanced by an algorithm",
    "digitalCapture": "captured by a digital camera",
    "computationalCapture": "captured by a digital camera, computed from several exposures",
    "digitalCreation": "created by a person with software",
    "digitalArt": "created by a person with software",
    "humanEdits": "captured, and edited by a person",
    "minorHumanEdits": "captured, and edited a little by a person",
    "screenCapture": "captured from a screen",
}


def read_claims(data: bytes) -> list[Claim]:
    """Return what a picture file says of how it was made, MOST claims at most, each in one printable line.

    Whatever is broken in the file is passed over.
    """
    claims: list[Claim] = []
    for source, says in unsigned_claims(data):
        if says == "C2PA":
            from detector.credentials import read_credentials  # few files have them

            claims.insert(0, read_credentials(data))
        elif all(one.says != says for one in claims):
            claims.append(Claim(source, says, signed=False))
        if len(claims) == MOST:
            break
    return claims


def unsigned_claims(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield pairs: where in the file a claim stands, and what it says; C2PA where there are Content Credentials."""
    seen = set()
    for kind, part in parts(data):
        if kind in seen:  # the first one counts
            continue
        seen.add(kind)
        if kind == "C2PA":
            yield kind, kind
        elif kind in ("EXIF", "XMP"):
            for name, value in exif_texts(part) if kind == "EXIF" else xmp_texts(part):
                if says := claim_of(name, decoded(value)):
                    yield f"{kind} {name}", says
        elif says := claim_of(kind.partition(" ")[2], decoded(part)):
            yield kind, says


def claim_of(name: str, text: str) -> str | None:
    """Return what a field of this name says, None where that is no claim, or something that is nobody's business."""
    text = text.strip("\0 \r\n\t")
    return CLAIMS.get(name, in_free_text)(text) if text else None


def software(text: str) -> str:
    return made_with(text) if GENERATOR.search(text[:LOOKED_AT]) else f"software: {cut(text, NAME)}"


def generator_alone(text: str) -> str | None:
    """Of a field that holds the name of a person, or of a camera's maker, as a rule."""
    return in_json(text) or (quoted(text) if GENERATOR.search(text[:LOOKED_AT]) else None)


def source_type(text: str) -> str:
    term = text.rstrip("/").rpartition("/")[2]
    return f"{SOURCE_TYPES.get(term, 'digital source type')} ({cut(term, NAME)})"


def prompt_alone(text: str) -> str:
    return in_free_text(text) or f"prompt {quoted(text)}"


def dream(text: str) -> str:
    """Of a command of InvokeAI's first releases: the prompt in quotes, then options."""
    return made_with("InvokeAI", text.partition('" -')[0].strip('"'))


def in_free_text(text: str) -> str | None:
    """Return what generators write into captions and comments, None where it is anything else."""
    if (says := in_json(text)) is not None:
        return says
    before, found, after = f"\n{text}".rpartition("\nSteps: ")
    if found and re.match(r"\d+, ", after):
        model = re.search(r"\bModel: ([^,\n]+)", after)
        prompt = before.partition("\nNegative prompt:")[0]
        return made_with("AUTOMATIC1111's web UI or one like it", prompt, model[1] if model else "")
    before, found, after = text.rpartition("Job ID: ")
    if found and re.match(r"[0-9a-f]{8}-[0-9a-f-]{27}", after):
        return made_with("Midjourney", before)
    return quoted(text) if MADE.search(text[:LOOKED_AT]) or text.lower() == "ai generated image" else None


def in_comment(text: str) -> str | None:
    """Of a comment; programs that make GIFs write there that they did."""
    found = MADE_WITH.fullmatch(text[:LOOKED_AT])
    return software(found["name"]) if found else in_free_text(text)


def in_json(text: str) -> str | None:
    """Return what the JSON says that generators write: ComfyUI's nodes, or settings with a prompt."""
    text = re.sub(r"\A(prompt|workflow|Workflow|Prompt):(?={)", "", text)  # as ComfyUI writes it into EXIF
    if text[:1] != "{":
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content.get("nodes"), list) and "links" in content:
        return made_with("ComfyUI")
    nodes = [node for node in content.values() if isinstance(node, dict) and "class_type" in node]
    return in_nodes(nodes) if nodes else in_settings(content)


def in_nodes(nodes: list[dict[str, Any]]) -> str:
    """Return what ComfyUI's nodes say: the texts in them, which are prompts, wanted or not, and the first model."""
    inputs = [node["inputs"] for node in nodes if isinstance(node.get("inputs"), dict)]
    texts = [one["text"] for one in inputs if isinstance(one.get("text"), str) and one["text"].strip()]
    models = [one[key] for one in inputs for key in ("ckpt_name", "unet_name") if isinstance(one.get(key), str)]
    return made_with("ComfyUI", " / ".join(texts), models[0] if models else "")


def in_settings(content: dict[str, Any]) -> str | None:
    """Return what a generator's settings say; None where the object is none."""
    program = "a generator"
    if "invoke" in str(content.get("app_id", "")).lower() or {"app_version", "generation_mode"} <= content.keys():
        program = "InvokeAI"
    elif str(content.get("version")).startswith("Fooocus"):
        program = "Fooocus"
    for inner, name in (("sui_image_params", "SwarmUI"), ("image", program)):  # of InvokeAI's older releases: image
        if isinstance(content.get(inner), dict):
            content, program = {**content, **content[inner]}, name
    prompt = content.get("positive_prompt", content.get("prompt"))
    if isinstance(prompt, list):  # of parts, each with a weight
        prompt = " ".join(str(one["prompt"]) for one in prompt if isinstance(one, dict) and "prompt" in one)
    if not isinstance(prompt, str) or not SETTINGS & content.keys():
        return None
    model = content.get("base_model", content.get("model", content.get("model_weights")))
    if isinstance(model, dict):
        model = model.get("name", model.get("model_name"))
    return made_with(program, prompt, model if isinstance(model, str) else "")


def made_with(program: str, prompt: str = "", model: str = "") -> str:
    says = f"made with {cut(program, NAME)}"
    if model.strip():
        says += f", model {cut(model, NAME)}"
    return f"{says}, prompt {quoted(prompt)}" if prompt.strip() else says


def quoted(text: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{cut(text, PROMPT)}\N{RIGHT DOUBLE QUOTATION MARK}"


def cut(text: str, most: int) -> str:
    """Return a text as one printable line; of a longer one the beginning, and how long it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return line if len(text) <= most else f"{line[:most].rstrip()}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"


def decoded(value: bytes) -> str:
    """Return a text whose encoding is not known: UTF-8 where it is that, else Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


# By the name of a field. Other fields that are read hold free text.
CLAIMS: dict[str, Callable[[str], str | None]] = {
    **dict.fromkeys(("Software", "ProcessingSoftware", "CreatorTool", "AISystemUsed"), software),
    **dict.fromkeys(("Artist", "Author", "XPAuthor", "Make", "Credit"), generator_alone),
    **dict.fromkeys(("prompt", "AIPromptInformation"), prompt_alone),
    "DigitalSourceType": source_type,
    "Dream": dream,
    "comment": in_comment,
}
