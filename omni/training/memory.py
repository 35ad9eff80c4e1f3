"""Memory: counted during a computation, parsed and formatted in human units."""

import re
from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omni.errors import UserError

_UNITS = {"k": 1, "m": 2, "g": 3, "t": 4}


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of all tensors created while it is active, each storage once, until it is freed.

    Fake tensors (`FakeTensorMode`) count like real ones. Only results of operations are seen, not the temporary memory
    of kernels.

    Attributes:
        live: Bytes now.
        peak: Most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts its results."""
        if func in FAKES and isinstance(args[0], FakeTensor):
            func = FAKES[func]
        result = func(*args, **(kwargs or {}))
        self.add(result)
        return result

    def add(self, tensors: Any) -> int:
        """Counts tensors in any nested containers, and returns the number of new bytes."""
        before = self.live
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return self.live - before

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def forget(_: Any) -> None:
            self.live -= size
            del self._storages[key]

        self._storages[key] = ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


def _fake_grouped_mm(a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """`grouped_mm` of fake tensors of any type: PyTorch's own version refuses fp32."""
    if a.dim() == b.dim() == 2:
        assert offs is not None
        return a.new_empty(len(offs), a.shape[0], b.shape[1])
    groups = a.shape[:1] if a.dim() == b.dim() == 3 else ()
    return a.new_empty(*groups, a.shape[-2], b.shape[-1])


def _fake_ctc(log_probs: Tensor, targets: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """CTC of fake tensors: a loss per row, and the table of alignments that the backward pass needs."""
    subframes, rows = log_probs.shape[:2]
    return log_probs.new_empty(rows), log_probs.new_empty(rows, subframes, 2 * targets.shape[1] + 1)


def _fake_ctc_backward(_: Tensor, log_probs: Tensor, *__: Any, **___: Any) -> Tensor:
    return torch.empty_like(log_probs)


# Operations that PyTorch cannot run on fake tensors, or only for some types.
FAKES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._grouped_mm.default: _fake_grouped_mm,
    torch.ops.aten._ctc_loss.Tensor: _fake_ctc,
    torch.ops.aten._ctc_loss_backward.Tensor: _fake_ctc_backward,
}


def memory_error(error: BaseException) -> UserError | None:
    """The error that a user can correct, of a device that had no memory left; None for any other error."""
    if not isinstance(error, torch.OutOfMemoryError):
        return None
    return UserError(
        f"{' '.join(str(error).partition(' GPU ')[0].split()).rstrip('.')}: take a smaller batch, which "
        "`omni plan --suggest --gpu_memory 12GB` finds, or a smaller model",
        page="howto/run.md#plan-before-training",
    )


def parse_size(text: str) -> int:
    """Bytes of a size such as `12GB` (powers of 1000) or `24GiB` (of 1024).

    Raises:
        UserError: If it is not a number with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(i?)b\s*", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"{text!r} is not an amount of memory: give a number and a unit, such as 12GB, 24GiB or 800MB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _UNITS[unit.lower()])


def parse_count(count: str | int) -> int:
    """A number of parameters such as `5M`, `800k` or 5000000.

    Raises:
        UserError: If it is not a number, or has another unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmb]?)\s*", str(count), re.IGNORECASE)
    if match is None:
        raise UserError(f"{count!r} is not a number of parameters: give one such as 5M or 800k")
    return round(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[match[2].lower()])


def format_size(size: float) -> str:
    """Formats a number of bytes, such as `3.1 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_count(count: int) -> str:
    """Formats a number of parameters, such as `20.32 M`."""
    for divisor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= divisor:
            return f"{count / divisor:.2f} {unit}"
    return str(count)
