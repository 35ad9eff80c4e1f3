"""Memory of a training process on a CPU: forecast, resident, and free on this machine."""

import os
from pathlib import Path

from omni.training.memory_plan import Plan

# Resident bytes of a training process for each byte that the plan counts: blocks that the C library's allocator keeps
# between others, scratch memory and copies of kernels. Measured on the world's stages: 0.5 (codec) to 1.65 (Thinker).
ALLOCATOR = 1.3
LOADED_LATER = 200 << 20  # kernels, compiled primitives, TensorBoard and what else is first used in training


def process_bytes(plan: Plan, data: int = 0, *, resident: int | None = None) -> int:
    """Forecast of the peak resident memory of `omni fit` on a CPU.

    Args:
        plan: Of its configuration.
        data: Bytes of data that are kept in memory, see `DataStatistics.memory`.
        resident: Interpreter and libraries; None: of this process, which should not have built anything large.
    """
    libraries = resident_bytes() if resident is None else resident
    return libraries + LOADED_LATER + data + int(ALLOCATOR * plan.training)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    return _kib(Path("/proc/self/status"), "VmRSS")


def free_bytes() -> int:
    """Memory that a new process can use without swapping; where the system does not say, all of it."""
    available = _kib(Path("/proc/meminfo"), "MemAvailable")
    return available or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kib(path: Path, key: str) -> int:
    """Bytes of a line such as `VmRSS:  840 kB`; 0 without the file."""
    if not path.exists():
        return 0
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == f"{key}:")
