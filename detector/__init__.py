"""What ships: from a picture's bytes to an answer, without torch and without DVC.

`from detector import Detector` is all that asking takes; the name is imported where it is first used, so that
`import detector` itself costs nothing.
"""

import os
from typing import TYPE_CHECKING, Any

# Since 1.29, onnxruntime's builds report to their maker, from the moment they are imported, what runs on which machine,
# and keep a number for the machine in ~/.cache. Not here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Detector", "Prediction"]

if TYPE_CHECKING:
    from detector.detector import Detector, Prediction
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from detector import detector

            return getattr(detector, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
