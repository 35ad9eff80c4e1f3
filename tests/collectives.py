"""Records what a rank exchanges with the others, in order: ranks that differ in it hang, or mix up their values."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NAMES = (
    *(
        "barrier",
        "monitored_barrier",
        "broadcast",
        "broadcast_object_list",
        "all_reduce",
        "reduce",
        "gather",
        "scatter",
    ),
    *("all_gather", "all_gather_object", "all_gather_into_tensor", "gather_object", "scatter_object_list"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single"),
)


def record(path: Path) -> None:
    """From now on, writes a line to `path` before each collective of this process: name, shapes, caller.

    What `DistributedDataParallel` exchanges in its C++ part is not seen; it follows from the module's parameters.
    """
    file = path.open("w", buffering=1, encoding="utf-8")

    def recorded(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            shapes = [f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)}" for a in args if isinstance(a, Tensor)]
            file.write(f"{' '.join([name, *shapes])}\t{_caller()}\n")
            return function(*args, **kwargs)

        return call

    for name in NAMES:
        if hasattr(dist, name):
            function = recorded(name, getattr(dist, name))
            for module in (dist, dist.distributed_c10d):
                setattr(module, name, function)


def _caller() -> str:
    """The innermost caller that is not part of PyTorch, as `file:line`."""
    frame, torch_folder = sys._getframe(2), str(Path(torch.__file__).parent)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((torch_folder, __file__)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def difference(paths: Sequence[Path]) -> str | None:
    """Where the records of ranks part, in words; None where they agree."""
    records = [path.read_text(encoding="utf-8").splitlines() if path.exists() else [] for path in paths]
    for number in range(max(map(len, records))):
        lines = [lines[number] if number < len(lines) else "nothing more\t-" for lines in records]
        if len({line.partition("\t")[0] for line in lines}) > 1:
            each = [f"rank {rank}: {' at '.join(line.split(chr(9)))}" for rank, line in enumerate(lines)]
            return f"collective {number + 1} differs: {'; '.join(each)}"
    return None
