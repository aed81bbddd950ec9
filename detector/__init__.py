"""What a detector is. `from detector import Detector` asks one; importing it imports no torch."""

from typing import TYPE_CHECKING, Any

__all__ = ["LIMIT", "Answer", "Detector"]

LIMIT = (
    "It knows CIFAR-10 photographs against Stable Diffusion 1.4 at 32x32. "
    "High test accuracy says nothing about pictures from other generators."
)

if TYPE_CHECKING:
    from detector.ask import Answer, Detector
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from detector import ask

            return getattr(ask, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
