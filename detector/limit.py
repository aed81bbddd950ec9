"""What an answer means and where it ends: the words that are shown beside each."""

KNOWN = {  # by the data set that a model was trained on, an entry of `datasets` in params.yaml
    "cifake": "CIFAR-10 photographs against Stable Diffusion 1.4",
    "sample": "seven photographs and the images of one tiny generator",
}

SCALES = {  # what P(FAKE) of 0 and of 1 stand for, by the data set
    "cifake": ("CIFAKE's photographs", "Stable Diffusion 1.4's images"),
    "sample": ("the sample's photographs", "the images of its tiny generator"),
}
ADAPTED_SCALE = ("your photographs", "your fakes")


def scale_of(dataset: str) -> tuple[str, str]:
    """Return what a picture is like whose P(FAKE) is 0, and one whose P(FAKE) is 1."""
    return SCALES.get(dataset, (f"the photographs of {dataset}", f"the fakes of {dataset}"))


CLOSER = {  # by verdict; app/static/words.js says the same
    "FAKE": "closer to {fake} than to {real}. It may be a photograph all the same.",
    "REAL": "closer to {real} than to {fake}. It need not be genuine.",
    "UNSURE": "not clearly closer to {real} or to {fake}.",
}


def closer(verdict: str, scale: tuple[str, str]) -> str:
    """Return a verdict in words that promise nothing of where the picture comes from. scale: see `scale_of`."""
    return CLOSER[verdict].format(real=scale[0], fake=scale[1])


def limit_of(dataset: str, size: int) -> str:
    """Return the limit of a model that was trained on a data set, at so many pixels a side."""
    known = KNOWN.get(dataset, f"the pictures of the data set {dataset}")
    return f"It knows {known} at {size}x{size}. High test accuracy says nothing about pictures from other generators."


LIMIT = limit_of("cifake", 32)  # of the released models


def limit_of_adapted(real: int, fake: int, size: int) -> str:
    """Return the limit of a model that was adapted to so many photographs and fakes, at so many pixels a side."""
    return (
        f"Adapted to {real:,} photographs and {fake:,} fakes of yours at {size}x{size}, it knows pictures like those. "
        "High accuracy in cross-validation says nothing about other generators and other photographs."
    )
