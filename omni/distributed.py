"""Collectives, and the random number generators of each rank."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

RandomState = dict[str, Tensor]  # by device type: the CPU's and, on a GPU, the rank's device's


def is_distributed() -> bool:
    """Whether this process is one of several connected ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def num_ranks() -> int:
    """Number of connected ranks; 1 for a single process."""
    return dist.get_world_size() if is_distributed() else 1


def gather_objects(value: T) -> list[T]:
    """The values of all ranks, in the order of their ranks. A collective: every rank must call it.

    Args:
        value: This rank's value, picklable.
    """
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_agree(decision: bool) -> bool:
    """Whether the decision is true on all ranks. A collective of the hosts: no device synchronisation."""
    if not is_distributed():
        return decision
    vote = torch.tensor(int(decision))
    group = None if dist.get_backend() == "gloo" else _hosts(dist.group.WORLD)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN, group=group)
    return bool(vote)


@cache
def _hosts(world: Any) -> Any:
    """A gloo group of the ranks of `world`."""
    return dist.new_group(backend="gloo")


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradients. A collective: every rank must call it.

    Args:
        tensor: Of the same shape on every rank.
    """
    if not is_distributed():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, fp32, without gradients. A collective: every rank must call it."""
    return sum_over_ranks(tensor.float()) / num_ranks()


def local_share(tensor: Tensor) -> Tensor:
    """This rank's shard of a `DTensor`, sharing its memory; any other tensor unchanged."""
    sharded: Any = tensor
    return sharded.to_local() if hasattr(tensor, "to_local") else tensor


def on_whole_matrices(function: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Applies a function of stacked matrices to tensors that may be sharded along their first axis.

    Sharded matrices are redistributed: each rank gets all rows of some of the matrices, and the results are exchanged
    back. A stack of matrices, as of experts, that is sharded between matrices needs no exchange.

    Args:
        function: Maps (tensors, ..., rows, columns) to results of the same shape, each matrix independently.
        tensors: Of one shape, (..., rows, columns), all sharded alike or none.

    Returns:
        This rank's shard of each result.
    """
    stack = torch.stack([local_share(tensor) for tensor in tensors])
    first: Any = tensors[0]
    if not hasattr(first, "placements") or first.dim() > 2:
        return list(function(stack))
    from torch.distributed.tensor import DTensor, Shard  # the import takes half a second

    shape = torch.Size((len(tensors), *first.shape))
    stride = torch.empty(shape, device="meta").stride()
    sharded: Any = DTensor.from_local(stack, first.device_mesh, [Shard(1)], run_check=False, shape=shape, stride=stride)
    whole = sharded.redistribute(placements=[Shard(0)]).to_local()
    done = DTensor.from_local(
        function(whole), first.device_mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
    )
    return list(done.redistribute(placements=[Shard(1)]).to_local())


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, in the order of the ranks, with gradients. A collective, and its backward pass is one.

    Args:
        rows: (rows, ...), of the same shape on every rank.

    Returns:
        (ranks × rows, ...). The gradient of a rank's rows is summed over all ranks.
    """
    return _GatherRows.apply(rows) if is_distributed() else rows  # pyright: ignore[reportReturnType]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_over_ranks(gradient).chunk(dist.get_world_size())[dist.get_rank()]


def random_state(device: torch.device) -> RandomState:
    """States of this rank's random number generators: the CPU's and, on a GPU, that of `device`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def start_random_numbers(*, rank: int) -> None:
    """Gives each rank its own random numbers at the start of a run; rank 0 has those of a single process."""
    if rank > 0:
        _seed(torch.initial_seed(), 0, rank)


def resume_random_numbers(rng: Mapping[str, Any], device: torch.device, *, step: int) -> str | None:
    """Restores the random numbers of each rank from a checkpoint; draws new seeds if the number of ranks differs.

    Args:
        rng: The checkpoint's `rng`: `ranks`, a list of states in the order of the ranks. Older ones hold the states of
            rank 0 alone: `cpu`, and `cuda` with one entry per device.
        device: This rank's device.
        step: Optimizer steps made so far.

    Returns:
        None, or the reason why they could not be restored.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if is_distributed() else (1, 0)
    states: list[RandomState] = rng["ranks"] if "ranks" in rng else [_of_rank_0(rng, device)]
    there, here = _described(len(states), states[0]), _described(ranks, random_state(device))
    if there != here:
        _seed(torch.initial_seed(), step, rank)
        return f"the checkpoint is of {there}, this run is on {here}"
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[rank]["cuda"], device)
    return None


def _of_rank_0(rng: Mapping[str, Any], device: torch.device) -> RandomState:
    """The state for a run of one rank on `device`, from a checkpoint without `ranks`."""
    if device.type != "cuda" or not rng["cuda"]:
        return {"cpu": rng["cpu"]}
    return {"cpu": rng["cpu"], "cuda": rng["cuda"][(device.index or 0) % len(rng["cuda"])]}


def _described(ranks: int, state: RandomState) -> str:
    device = "CUDA" if "cuda" in state else "the CPU"
    return f"{ranks} rank{'s' if ranks > 1 else ''} of {device}"


def _seed(seed: int, step: int, rank: int) -> None:
    """Seeds all generators of this process, differently for each rank and step."""
    (own,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(own))
