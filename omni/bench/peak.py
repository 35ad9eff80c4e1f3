"""Peak of a process's resident memory."""

import sys
from contextlib import suppress
from pathlib import Path


def peak_resident(*, reset: bool = False) -> int:
    """Peak bytes of this process so far, or since a reset.

    Args:
        reset: Start the next peak now, where the system can (Linux).
    """
    status = Path("/proc/self/status")
    if not status.exists():  # macOS
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # Not `ru_maxrss`: on Linux a new process starts with that of its parent.
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
