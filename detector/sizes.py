"""Numbers that were chosen for images of 32 px, and what they are for images of another side."""

REFERENCE_SIDE = 32  # px, width and height of CIFAKE's images


def images_at_a_time(number: int, side: int) -> int:
    """Return how many images of `side` px have as many pixels as `number` images of 32 px: 1 at least.

    Memory is bounded by pixels: 1,000 images of 32 px take as much as 20 of 224 px or 3 of 512 px.
    """
    return max(1, number * REFERENCE_SIDE**2 // side**2)
