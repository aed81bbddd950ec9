"""What a detector is. `from detector import Detector` asks one; importing it imports no torch."""

import os
from typing import TYPE_CHECKING, Any

# Since 1.29, onnxruntime's builds report to their maker, from the moment they are imported, what runs on which machine,
# and keep a number for the machine in ~/.cache. Not here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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
