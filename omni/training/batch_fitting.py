"""The largest batch that fits a GPU, with gradient accumulation that keeps the effective batch."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from omni.data.loading.statistics import DataStatistics
from omni.errors import UserError
from omni.training.configuration import Configuration
from omni.training.memory import format_size
from omni.training.memory_plan import plan_of

# Share of a GPU's memory that a plan may use: the rest is for CUDA's context, workspaces of libraries, fragmentation.
USABLE = 0.9
BATCH_ARGUMENTS = ("batch_size", "batch_seconds", "batch_tokens")


@final
@dataclass(kw_only=True)
class BatchFit:
    """A batch and how it comes about.

    Attributes:
        batch_size: Size of a micro-batch on each device.
        accumulate: Micro-batches of an optimizer step.
        settings: New value and reason, by key of the configuration.
        notes: What was kept, and why.
    """

    batch_size: float
    accumulate: int
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fit_batch(
    configuration: Configuration,
    statistics: DataStatistics | None,
    *,
    gpu_memory: int | None,
    devices_before: int,
    devices: int,
    strategy: str,
) -> BatchFit:
    """Finds the fewest micro-batches whose memory, by `omni plan`, fits; and whether activations must be recomputed.

    The effective batch (size × accumulation × devices) is kept. Recomputing activations costs about a third of the time
    and accumulation almost none, so it is turned on only if the smallest batch does not fit without.

    Args:
        configuration: The configuration of a stage.
        statistics: Of its data; None if it cannot be read yet.
        gpu_memory: Bytes on each device; None: batches are only distributed over the devices.
        devices_before: Number of devices that the configuration is for.
        devices: Number of devices of the run.
        strategy: `ddp` or `model_parallel`.

    Raises:
        UserError: If the smallest batch does not fit, or the data module has no size of a batch.
    """
    argument, batch, smallest = _batch(configuration, statistics)
    accumulate = configuration.get("trainer.accumulate_grad_batches")
    effective = batch * accumulate * devices_before
    if gpu_memory is None and devices == devices_before:
        return BatchFit(batch_size=batch, accumulate=accumulate)
    candidates = _candidates(effective / devices, smallest, whole=isinstance(batch, int))
    if gpu_memory is None:  # as many micro-batches as before, or more if that makes them no larger
        chosen = next((each for each in candidates if each[0] <= batch), candidates[-1])
        return _result(argument, chosen, None, f"{devices} devices", effective, devices)
    room = int(USABLE * gpu_memory)
    planned = partial(plan_of, configuration, devices=devices, strategy=strategy)

    def fits(candidate: tuple[float, int], checkpointing: bool) -> bool:
        size, count = candidate
        plan = planned(data={argument: size}, accumulating=count > 1, gradient_checkpointing=checkpointing)
        needed.append(plan.per_device)
        return plan.per_device <= room

    needed: list[int] = []
    keys = _checkpointing_keys(configuration)
    for checkpointing in (False, True) if keys else (False,):
        first = bisect_left(candidates, True, key=lambda each: fits(each, checkpointing))
        if first < len(candidates):
            reason = f"the largest that fits {format_size(gpu_memory)}, with {1 - USABLE:.0%} to spare"
            fit = _result(argument, candidates[first], reason, "", effective, devices)
            why = "the smallest batch does not fit without" if checkpointing else "fits without, which is faster"
            fit.settings |= dict.fromkeys(keys, (checkpointing, why))
            return fit
    raise UserError(
        f"--gpu_memory {format_size(gpu_memory)}: the smallest batch, data.init_args.{argument} {candidates[-1][0]:g}, "
        f"takes {format_size(min(needed))}, and {1 - USABLE:.0%} must stay free: take a smaller model"
        + ("" if strategy == "model_parallel" else ", or several devices with --strategy model_parallel"),
        page="scaling.md",
    )


def _batch(configuration: Configuration, statistics: DataStatistics | None) -> tuple[str, Any, float]:
    """The argument that sets the size of a batch, its value and its least value."""
    arguments = configuration.get("data.init_args") or {}
    argument = statistics.batch_argument if statistics else next((a for a in BATCH_ARGUMENTS if a in arguments), None)
    if argument is None:
        raise UserError(f"data.init_args has none of {', '.join(BATCH_ARGUMENTS)}: a batch cannot be fitted")
    if statistics is not None:
        return argument, arguments[argument], statistics.smallest_batch
    least = {"batch_size": 1, "batch_tokens": arguments.get("max_tokens", 1)}
    seconds = arguments.get("max_duration", 1) + 2 * arguments.get("silence", 0)
    return argument, arguments[argument], least.get(argument, seconds)


def _candidates(effective: float, smallest: float, *, whole: bool) -> list[tuple[float, int]]:
    """Sizes of a micro-batch and their number, the largest first; their product is the effective batch of a device.

    Sizes that count rows divide it; seconds and tokens may be fractions of it, rounded down.
    """
    count = max(1, int(effective / max(smallest, 1e-9)))
    found: list[tuple[float, int]] = []
    for number in range(1, count + 1):
        size = effective / number
        if smallest == 1 and size != int(size):
            continue
        found.append((int(size) if whole or number > 1 else size, number))
    return found or [(effective, 1)]


def _result(
    argument: str, chosen: tuple[float, int], reason: str | None, other: str, effective: float, devices: int
) -> BatchFit:
    size, number = chosen
    on = f" on each of {devices} devices" if devices > 1 else ""
    settings: dict[str, tuple[Any, str]] = {
        f"data.init_args.{argument}": (size, reason or other),
        "trainer.accumulate_grad_batches": (number, f"keeps the effective batch of {effective:g}{on and ' in all'}"),
    }
    return BatchFit(batch_size=size, accumulate=number, settings=settings)


def _checkpointing_keys(configuration: Configuration) -> list[str]:
    """Keys of `gradient_checkpointing` of all parts that are trained."""
    parts = configuration.get("model.init_args") or {}
    frozen = parts.get("frozen") or ()
    keys: Sequence[str] = [f"{name}.{rest}gradient_checkpointing" for name in vars(parts) if name not in frozen
                           for rest in ("", "init_args.")]  # fmt: skip
    return [f"model.init_args.{key}" for key in keys if configuration.get(f"model.init_args.{key}") is not None]
