"""Small models that read, hear, see and speak, trained from scratch on one machine."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omni.inference import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Late, because `omni --help` must not wait for PyTorch.
    if name in __all__:
        from omni import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'omni' has no attribute {name!r}")
