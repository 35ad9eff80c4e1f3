"""The device that a name such as `auto`, `cpu` or `cuda:1` stands for."""

import torch

from omni.errors import UserError


def resolve(name: str, *, option: str = "device") -> torch.device:
    """The device of that name, after a tensor was put on it.

    Args:
        name: A name that PyTorch knows, or `auto`: the first GPU, or the CPU where there is none.
        option: What the user set, for the error message.

    Raises:
        UserError: If PyTorch does not know the name, or the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{option} {name!r} cannot be used: {str(error).splitlines()[0]}") from error
