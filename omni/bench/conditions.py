"""What a benchmark ran on, printed with its results."""

from importlib.metadata import version

import torch

from omni import __version__


def versions(*packages: str) -> str:
    """The versions of omni, PyTorch and other packages."""
    return ", ".join([f"omni {__version__}", *(f"{name} {version(name)}" for name in ("torch", *packages))])


def cpu() -> str:
    """The CPU's instruction set and the number of threads."""
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}), threads: {torch.get_num_threads()}"
