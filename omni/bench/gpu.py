"""The check of a GPU: every stage, resuming, memory, MFU and decoding."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import torch

from omni import __version__
from omni.bench.gpu_measures import STAGES, decoding, resume, thinker_mfu, train
from omni.errors import UserError
from omni.training.memory import format_size

_TOY: dict[str, Any] = {"vocab_size": 128, "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}


class Target(NamedTuple):
    """A limit of a figure.

    Attributes:
        figure: Name of the figure.
        at_least: Whether `limit` is the least; otherwise the figure must be below it.
        limit: The limit.
        text: The limit in the table.
    """

    figure: str
    at_least: bool
    limit: float
    text: str

    def is_met(self, figures: dict[str, Any]) -> bool | None:
        """Whether the figure keeps to the limit; None if it was not measured."""
        value = figures.get(self.figure)
        if value is None:
            return None
        return value >= self.limit if self.at_least else value < self.limit


class Measurement(NamedTuple):
    """Something to measure.

    Attributes:
        name: Name in the table.
        measure: Returns figures by name.
        target: For one of them.
    """

    name: str
    measure: Callable[[], dict[str, Any]]
    target: Target | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a measurement.

    Attributes:
        name: Name of the measurement.
        status: `ok`, `failed`, or `skipped` after the time limit.
        seconds: How long it took.
        figures: Figures by name; bytes, seconds, and amounts per second.
        target: The target of one of them, as text.
        met: Whether it is met; None if there is no target, or its figure was not measured.
        error: First line of the error.
    """

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    met: bool | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """A few training steps of every stage, resuming, memory, speed, MFU and decoding.

    Attributes:
        size: tiny: the documented tiny size, and medium and large Thinkers; toy: small ones, for a CPU.
        device: cuda, cpu, or auto for a GPU if there is one.
        stages: Stages to train, separated by commas.
        minutes: Time limit in minutes, after which no measurement starts; skipped ones are named.
        steps: Number of timed training steps, after three that are not.
    """

    size: Literal["tiny", "toy"] = "tiny"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    stages: str = ",".join(STAGES)
    minutes: float = 8.0
    steps: int = 10

    @property
    def _stages(self) -> list[str]:
        return [name.strip() for name in self.stages.split(",") if name.strip()]

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def conditions(self) -> dict[str, str]:
        """What is run, and on what."""
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        versions = {"omni": __version__, "torch": version("torch")}
        return {"device": name, "size": self.size, "steps": str(self.steps), **versions}

    def run(self) -> Iterator[Result]:
        """The results, each when it is there.

        Raises:
            UserError: If there is no GPU, or no such stage.
        """
        if unknown := [name for name in self._stages if name not in STAGES]:
            raise UserError(f"stages: {', '.join(unknown)} is not one of {', '.join(STAGES)}")
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}: it must be 1 or more")
        if self._device.type == "cpu" and (self.device == "cuda" or self.size != "toy"):
            raise UserError("there is no CUDA device: give --device cpu --size toy to try the check itself")
        return run_all(self._measurements(), minutes=self.minutes)

    def _measurements(self) -> Iterator[Measurement]:
        """The most informative ones first, as the last are skipped if time is short."""
        toy, device = self.size == "toy", self._device
        memory = Target("peak_memory", False, 12e9, "below 12 GB")
        stage = partial(train, size=self.size, device=device, steps=self.steps)
        for name in self._stages:
            measure = partial(stage, name, precision="bf16-mixed", compiled=False)
            yield Measurement(f"{name}, bf16-mixed", measure, memory)
        yield Measurement("fit, resume, resume on the CPU", partial(resume, size=self.size, device=device))
        for model, limit, batch in (("medium", 0.42, 32), ("large", 0.50, 16)):
            shape = {"batch_size": 2, "context": 32} if toy else {"batch_size": batch, "context": 1024}
            mfu = partial(thinker_mfu, _TOY if toy else model, **shape, device=device, steps=self.steps)
            yield Measurement(f"MFU of a {model} Thinker, 32k", mfu, Target("mfu", True, limit, f"{limit:.0%} or more"))
        decode = partial(decoding, _TOY if toy else "medium", device=device, tokens=8 if toy else 256)
        speed = Target("tokens_per_second", True, 3000, "3,000 tokens/s or more")
        yield Measurement("decoding, medium, 1 row", decode, speed)
        for name in self._stages:
            measure = partial(stage, name, precision="16-mixed", compiled=False)
            yield Measurement(f"{name}, 16-mixed", measure, memory)
        for name in self._stages if device.type == "cuda" else ():
            measure = partial(stage, name, precision="bf16-mixed", compiled=True)
            yield Measurement(f"{name}, bf16-mixed, compiled", measure, memory)


def run_all(measurements: Iterable[Measurement], *, minutes: float) -> Iterator[Result]:
    """Runs measurements one after the other; after the time limit they are skipped.

    Args:
        measurements: What to measure.
        minutes: The time limit in minutes.
    """
    start = time.monotonic()
    for measurement in measurements:
        if time.monotonic() - start >= 60 * minutes:
            yield Result(name=measurement.name, status="skipped")
        else:
            yield _run(measurement)
            gc.collect()


def _run(measurement: Measurement) -> Result:
    start, target = time.monotonic(), measurement.target
    try:
        figures = measurement.measure()
    except (Exception, SystemExit) as error:  # any error is the result of this measurement alone
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = f"{type(error).__name__}: {lines[0] if lines else ''}"
        return Result(name=measurement.name, status="failed", seconds=time.monotonic() - start, error=message)
    return Result(
        name=measurement.name,
        status="ok",
        seconds=time.monotonic() - start,
        figures=figures,
        target=None if target is None else target.text,
        met=None if target is None else target.is_met(figures),
    )


def markdown(conditions: dict[str, str], results: list[Result]) -> str:
    """Results as a table.

    Args:
        conditions: What was run, and on what.
        results: The results.
    """
    lines = [", ".join(f"{name}: {value}" for name, value in conditions.items()), ""]
    lines += ["| step | figures | memory, and as planned | target | |", "|---|---|---|---|---|"]
    for result in results:
        status = result.status if result.error is None else result.error.replace("|", "\\|")
        if result.met is not None:
            status = "met" if result.met else "missed"
        cells = (result.name, _figures(result), _memory(result), result.target or "", status)
        lines.append(f"| {' | '.join(cells)} |")
    skipped = [result.name for result in results if result.status == "skipped"]
    if skipped:
        lines += ["", f"Skipped after the time limit: {'; '.join(skipped)}."]
    return "\n".join(lines) + "\n"


def _figures(result: Result) -> str:
    shown = []
    for name, value in result.figures.items():
        if name == "mfu":
            shown.append(f"MFU {value:.1%}")
        elif name == "seconds_per_step":
            shown.append(f"{1000 * value:,.1f} ms a step")
        elif name.endswith("_per_second"):
            shown.append(f"{value:,.0f} {name.removesuffix('_per_second').replace('_', ' ')}/s")
        elif not name.endswith("_memory"):
            shown.append(f"{name.replace('_', ' ')} {value:.3g}")
    return ", ".join(shown)


def _memory(result: Result) -> str:
    sizes = {name: format_size(size) for name, size in result.figures.items() if name.endswith("_memory")}
    if "planned_memory" not in sizes:
        return sizes.get("peak_memory", "")
    return f"{sizes.get('peak_memory', 'not measured on a CPU')}; {sizes['planned_memory']} planned"
