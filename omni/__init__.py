"""Small models that read, hear, see and speak, trained from scratch on one machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omni.assistant import Assistant as Assistant
    from omni.classification import classify as classify
    from omni.inference import load as load
    from omni.recognition import transcribe as transcribe
    from omni.synthesis import load_synthesizer as load_synthesizer
    from omni.synthesis import speak as speak

_HOMES = {
    "Assistant": "assistant",
    "classify": "classification",
    "load": "inference",
    "load_synthesizer": "synthesis",
    "speak": "synthesis",
    "transcribe": "recognition",
}
__all__ = ["Assistant", "classify", "load", "load_synthesizer", "speak", "transcribe"]


def __getattr__(name: str) -> Any:
    # Late, because `omni --help` must not wait for PyTorch.
    if name in __all__:
        return getattr(import_module(f"omni.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'omni' has no attribute {name!r}")
