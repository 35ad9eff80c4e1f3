"""A guard against deadlocked ranks: each rank records its collectives, and the records must be equal."""

import json
import re
import sys
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

# Methods of a process group, through which all functions of `torch.distributed` go; DDP's own gradient exchange and
# NCCL's are called from C++ and are not recorded. Tensors of a gather and a scatter differ between ranks by design.
_COLLECTIVES = {
    "broadcast": 0,
    "allreduce": 0,
    "allreduce_coalesced": 0,
    "reduce": 0,
    "allgather": 1,
    "_allgather_base": 1,
    "allgather_into_tensor_coalesced": 1,
    "gather": 1,
    "scatter": 0,
    "reduce_scatter": 0,
    "_reduce_scatter_base": 0,
    "alltoall": 1,
    "alltoall_base": 1,
    "barrier": None,
    "monitored_barrier": None,
}
_SHOWN = 6  # stack frames of a call


def record(rank: int) -> None:
    """Makes this process write each of its collectives over all ranks to `collectives-RANK.txt`."""
    _path(rank).unlink(missing_ok=True)
    file = _path(rank).open("w", buffering=1)
    for name, position in _COLLECTIVES.items():
        _wrap(file, name, position)


def _wrap(file: Any, name: str, position: int | None) -> None:
    wrapped = getattr(ProcessGroup, name)

    def collective(group: ProcessGroup, *args: Any, **kwargs: Any) -> Any:
        if group.size() == torch.distributed.get_world_size():
            shapes = [] if position is None else _described(args[position])
            root = [f"root {opts.rootRank}" for opts in args if hasattr(opts, "rootRank")]
            file.write(json.dumps([" ".join([name, *shapes, *root]), _site()]) + "\n")
        return wrapped(group, *args, **kwargs)

    setattr(ProcessGroup, name, collective)


def _described(value: Any) -> list[str]:
    if isinstance(value, Tensor):
        return [f"{value.dtype}{list(value.shape)}".removeprefix("torch.")]
    return [text for one in value for text in _described(one)] if isinstance(value, list | tuple) else []


def _site() -> str:
    """Where a collective is called: stack frames, the innermost first, without PyTorch's own."""
    frame, calls = sys._getframe(2), []
    while frame is not None and len(calls) < _SHOWN:
        path = Path(frame.f_code.co_filename)
        if path.name == "processes.py":  # where ranks start
            break
        if "torch" not in path.parts:
            calls.append(f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return ", called by ".join(calls)


def difference(ranks: int, *, done: Collection[int]) -> str | None:
    """Where the records of ranks first differ; None if they do not.

        Args:
            ranks: Number of ranks.
    done: Ranks that have ended with exit code 0: no other rank may have more collectives.
    """
    records = [_read(rank) for rank in range(ranks)]
    for number, calls in enumerate(zip_longest(*records)):
        made = {(call[0], re.sub(r":\d+", "", call[1])) for call in calls if call is not None}  # lines may differ
        if len(made) > 1 or any(calls[rank] is None for rank in done):
            lines = [f"rank {r}: {': '.join(call) if call else 'none'}" for r, call in enumerate(calls)]
            return "\n  ".join([f"collective {number} differs between ranks:", *lines])
    return None


def last(ranks: int) -> str:
    """The number of collectives that each rank has made, and its last one."""
    lines = []
    for rank in range(ranks):
        calls = _read(rank)
        latest = f", last {': '.join(calls[-1])}" if calls else ""
        lines.append(f"rank {rank} has made {len(calls)} collectives{latest}")
    return "\n".join(lines)


def _read(rank: int) -> list[list[str]]:
    text = _path(rank).read_text(encoding="utf-8") if _path(rank).exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _path(rank: int) -> Path:
    return Path(f"collectives-{rank}.txt")
