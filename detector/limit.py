"""The limit of every answer, shown beside each."""

LIMIT = (
    "It knows CIFAR-10 photographs against Stable Diffusion 1.4 at 32x32. "
    "High test accuracy says nothing about pictures from other generators."
)
