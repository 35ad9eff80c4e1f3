"""A forecast of a pipeline: parameters, memory and hours of each stage, without data and without training."""

from typing import NamedTuple

from omni.pipeline.definition import Pipeline, StageSpec
from omni.training.memory import format_count, format_size
from omni.training.memory_plan import Plan, plan_of
from omni.training.step_flops import step_flops


class Gpu(NamedTuple):
    """A GPU.

    Attributes:
        name: Its name.
        peak: Peak of dense bf16 products with fp32 sums, in TFLOP/s, as its maker states it.
        mfu: Share of the peak that training is assumed to use. Small models use little of a large GPU.
    """

    name: str
    peak: float
    mfu: float


# Assumptions, not measurements: these models have not been trained on these GPUs.
LEAST_SECONDS = 0.05  # of a batch, however small: launches of kernels, and loading data
GPUS = (Gpu("RTX 3060", 25.5, 0.25), Gpu("RTX 4090", 165, 0.10), Gpu("A100", 312, 0.06), Gpu("H100", 989, 0.03))


class StageForecast(NamedTuple):
    """What a stage needs.

    Attributes:
        name: Of the stage.
        plan: Its parameters and memory.
        steps: Its optimizer steps.
        batches: Batches of all steps: several where gradients are accumulated.
        flops: Operations of all steps.
    """

    name: str
    plan: Plan
    steps: int
    batches: int
    flops: float

    def hours(self, gpu: Gpu) -> float:
        """Hours of training, without validation."""
        return max(self.flops / (gpu.peak * 1e12 * gpu.mfu), self.batches * LEAST_SECONDS) / 3600


def forecast(pipeline: Pipeline, *, gpu_memory: int) -> list[StageForecast]:
    """Parameters, memory and operations of each stage; no file of data is opened.

    Args:
        pipeline: The pipeline.
        gpu_memory: Memory of the GPU in bytes.

    Raises:
        UserError: If a configuration cannot be planned.
    """
    return [_stage(stage, gpu_memory) for stage in pipeline.stages.values()]


def forecast_table(stages: list[StageForecast], *, gpu_memory: str) -> str:
    """A forecast as lines."""
    head = ("stage", "parameters", "steps", "batch", "memory", f"fits {gpu_memory}", *(gpu.name for gpu in GPUS))
    rows = [head, *map(_row, stages)]
    total = ("all", *[""] * 5, *(_hours(sum(one.hours(gpu) for one in stages)) for gpu in GPUS))
    widths = [max(map(len, column)) for column in zip(*rows, total, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in (*rows, total))
    ]
    assumed = ", ".join(f"{gpu.name} {gpu.mfu:.0%} of {gpu.peak:g} TFLOP/s" for gpu in GPUS)
    return "\n".join(
        [
            *lines,
            "",
            "Hours of training, not measured: operations of the steps with full batches / (peak × assumed MFU), and at",
            f"least {LEAST_SECONDS:g} s a batch. Assumed MFU: {assumed}.",
            "Validation, and data that loads slower than that, come on top.",
        ]
    )


def _stage(stage: StageSpec, gpu_memory: int) -> StageForecast:
    steps = int(stage.configuration.get("trainer.max_steps"))
    batches = steps * int(stage.configuration.get("trainer.accumulate_grad_batches"))
    plan = plan_of(stage.configuration, gpu_memory=gpu_memory)
    return StageForecast(stage.name, plan, steps, batches, float(steps) * step_flops(stage.configuration))


def _row(one: StageForecast) -> tuple[str, ...]:
    plan = one.plan
    _, shape = max(plan.batch.items(), key=lambda item: len(item[1]))
    count = format_count(plan.total_parameters).strip()
    memory, fits = format_size(plan.training).strip(), "yes" if plan.fits else "no"
    return one.name, count, f"{one.steps:,}", " × ".join(map(str, shape)), memory, fits, *map(_hours, _each(one))


def _each(one: StageForecast) -> list[float]:
    return [one.hours(gpu) for gpu in GPUS]


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 0.05 else "< 0.1 h"
