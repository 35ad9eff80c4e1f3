"""The device that an option names."""

import torch

from omni.errors import UserError


def resolve(name: str | torch.device, *, option: str = "device") -> torch.device:
    """The device of a name; `auto` is CUDA, else MPS, else the CPU.

    Args:
        name: `auto`, or a name that PyTorch knows: `cpu`, `cuda`, `cuda:1`, `mps`.
        option: Name of the option, for errors.

    Raises:
        UserError: If PyTorch does not know the name, or there is no such device.
    """
    if name == "auto":
        backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
        return torch.device(next((kind for kind, backend in backends.items() if backend.is_available()), "cpu"))
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        raise UserError(f"{option} {str(name)!r} cannot be used: {str(error).splitlines()[0]}") from error
