"""The device that an option names, and whether code can be compiled for it."""

import os
import shutil

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


def has_compiler(kind: str = "cpu") -> bool:
    """Whether PyTorch can compile for a kind of device: with a C++ compiler, on CUDA with Triton and a C compiler."""
    if kind == "cuda":
        from torch.utils._triton import has_triton

        return has_triton() and any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
