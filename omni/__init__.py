"""Small models that read, hear, see and speak, trained from scratch on one machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from omni import sweeps as sweeps
    from omni.inference.assistant import Assistant as Assistant
    from omni.inference.classifier import classify as classify
    from omni.inference.recognizer import transcribe as transcribe
    from omni.inference.synthesizer import load_synthesizer as load_synthesizer
    from omni.inference.synthesizer import speak as speak
    from omni.inference.text import load as load

_HOMES = {
    "Assistant": "inference.assistant",
    "classify": "inference.classifier",
    "load": "inference.text",
    "load_synthesizer": "inference.synthesizer",
    "speak": "inference.synthesizer",
    "transcribe": "inference.recognizer",
}
__all__ = ["Assistant", "classify", "load", "load_synthesizer", "speak", "sweeps", "transcribe"]


def __getattr__(name: str) -> Any:
    # Late, because `omni --help` must not wait for PyTorch.
    if name == "sweeps":
        return import_module("omni.sweeps")
    if name in __all__:
        return getattr(import_module(f"omni.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'omni' has no attribute {name!r}")
