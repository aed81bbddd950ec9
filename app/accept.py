"""What a client wants to be answered with: its `Accept` (RFC 9110, 12.5.1)."""

import re

from starlette.datastructures import Headers


def prefers(headers: Headers, kind: str, usual: str) -> bool:
    """Return whether a client would rather have the media type `kind` than the usual one; where it wants both alike,
    whether it names that one more exactly."""
    accept = ",".join(headers.getlist("accept"))
    return wanted(accept, kind) > wanted(accept, usual)


def wanted(accept: str, kind: str) -> tuple[float, int]:
    """Return the weight that the most exact of the ranges in `accept` gives a media type, and how exact it is."""
    exactness = {"*/*": 0, f"{kind.partition('/')[0]}/*": 1, kind: 2}
    found = []
    for part in accept.lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() in exactness:
            weight = re.search(r"\bq=([01](\.\d*)?)", parameters)
            found.append((exactness[name.strip()], float(weight[1]) if weight else 1.0))
    exact, most = max(found, default=(0, 0.0))
    return (most, exact) if most else (0.0, 0)  # what is refused exactly is not wanted more
