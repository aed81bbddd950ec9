"""Content Credentials (C2PA): signed claims in a picture file, read and checked by C2PA's own library, c2pa-python.

The library is no part of the requirements: `pip install c2pa-python`. Without it a claim says that there are some.

A signature says that the file is as it was signed, and by which certificate. Whose certificate that is, a list of
trusted ones would have to say; none is asked here, and anyone can make a certificate in any name.
"""

import io
import json
from typing import Any

from detector.claims import NAME, cut, source_type
from detector.preprocessed import Claim
from detector.sources import format_of

INSTALL = "Content Credentials, not read: `pip install c2pa-python` lets them be read and checked"
# Nothing is fetched, whatever address a file has: neither a manifest nor whether a certificate was revoked.
SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}


def read_credentials(data: bytes) -> Claim:
    """Return what the Content Credentials of a picture file say, and whether they fit it."""
    try:
        from c2pa import C2paError, Context, Reader
    except ImportError:
        return Claim("C2PA", INSTALL, signed=False)
    try:
        with (
            Context.from_dict(SETTINGS) as context,
            Reader(f"image/{format_of(data[:16])}".lower(), io.BytesIO(data), context=context) as reader,
        ):
            return claim_of_store(json.loads(reader.json()))
    except (C2paError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Claim("C2PA", f"Content Credentials that cannot be read ({cut(str(error), NAME)})", signed=False)


def claim_of_store(store: dict[str, Any]) -> Claim:
    """store: the reader's JSON, a manifest of the picture and, where it has some, those of its ingredients."""
    manifests = dict(store["manifests"])
    active = manifests.pop(store["active_manifest"])
    infos = active.get("claim_generator_info") or [{"name": active.get("claim_generator", "")}]
    program = " ".join(str(infos[0][key]) for key in ("name", "version") if infos[0].get(key))
    says = [f"made with {cut(program, NAME)}"] if program else []
    says += source_types(active)
    own = set(says)
    says += [f"an ingredient {one}" for other in manifests.values() for one in source_types(other) if one not in own]

    failures = [one["code"] for one in store.get("validation_status", [])]
    signature = active.get("signature_info") or {}
    name = cut(str(signature.get("issuer") or signature.get("common_name") or "nobody"), NAME)
    if store.get("validation_state") in ("Valid", "Trusted"):
        says.append(f"signed in the name of “{name}”, which no list of trusted certificates was asked about")
        return Claim("C2PA", "; ".join(["Content Credentials", *dict.fromkeys(says)]), signed=True)
    wrong = ", ".join(cut(str(code), NAME) for code in failures if code != "signingCredential.untrusted")
    says.append(f"the file or the signature was changed ({wrong or 'no valid signature'})")
    return Claim(
        "C2PA", "; ".join(["Content Credentials that do not fit the file", *dict.fromkeys(says)]), signed=False
    )


def source_types(manifest: dict[str, Any]) -> list[str]:
    """Return the digital source types of the actions in a manifest, in words."""
    found = []
    for assertion in manifest.get("assertions", []):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            actions = assertion["data"].get("actions", [])
            found += [str(one["digitalSourceType"]) for one in actions if "digitalSourceType" in one]
    return list(dict.fromkeys(source_type(one) for one in found))
