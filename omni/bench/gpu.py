"""The check of a GPU: every stage, resuming, memory, MFU and decoding, in one table."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

import omni
from omni.bench.device_steps import STAGES, decoding, resume, thinker_mfu, train
from omni.errors import UserError
from omni.files import write_text
from omni.training.memory import format_size

_TOY: dict[str, Any] = {"vocab_size": 128, "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}


class Goal(NamedTuple):
    """What a figure should be.

    Attributes:
        figure: Its name.
        at_least: Whether `limit` is the least; otherwise the figure must be below it.
        limit: The limit.
        text: For the table.
    """

    figure: str
    at_least: bool
    limit: float
    text: str


class Step(NamedTuple):
    """Something to measure.

    Attributes:
        name: For the table.
        measure: Returns figures by name.
        goal: Of one of them.
    """

    name: str
    measure: Callable[[], dict[str, Any]]
    goal: Goal | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a step.

    Attributes:
        name: The step.
        status: `ok`, `failed`, or `skipped` where the time was used up.
        seconds: How long it took.
        figures: By name; bytes, seconds, and amounts a second.
        goal: Of one of them, as text.
        met: Whether it is met; None where there is no goal, or its figure was not measured.
        error: First line of what went wrong.
    """

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    goal: str | None = None
    met: bool | None = None
    error: str | None = None


def check(
    *,
    size: Literal["tiny", "toy"] = "tiny",
    device: Literal["auto", "cuda", "cpu"] = "auto",
    stages: str = ",".join(STAGES),
    minutes: float = 8.0,
    steps: int = 10,
    out: Path = Path("build"),
) -> list[Row]:
    """Train every stage on a GPU for a few steps, resume, measure memory, speed, MFU and decoding, and print a table.

    A step that fails is reported in its row and ends no other. At the end the exit code is 1 if a step failed. It has
    not run on a GPU yet.

    Args:
        size: tiny: the documented tiny size, and medium and large Thinkers; toy: small ones, for a CPU.
        device: cuda, cpu, or auto for a GPU where there is one.
        stages: Which are trained; several with commas between.
        minutes: Time limit, in minutes, after which no step starts; skipped steps are named.
        steps: Training steps that are timed, after three that are not.
        out: Folder of gpu.json and gpu.md.
    """
    names = [name.strip() for name in stages.split(",") if name.strip()]
    if unknown := [name for name in names if name not in STAGES]:
        raise UserError(f"stages: {', '.join(unknown)} is not one of {', '.join(STAGES)}")
    if steps < 1:
        raise UserError(f"steps is {steps}: it must be 1 or more")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: there is no CUDA device: give --device cpu --size toy to try the check itself")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if chosen.type == "cpu" and size != "toy":
        raise UserError("there is no CUDA device: give --device cpu --size toy to try the check itself")
    rows = run(plan_steps(size, chosen, names, steps), minutes=minutes)
    report = {"conditions": _conditions(chosen, size, steps), "rows": [asdict(row) for row in rows]}
    table = markdown(report["conditions"], rows)
    write_text(out / "gpu.json", dumps(report, indent=1) + "\n")
    write_text(out / "gpu.md", table)
    print(table)
    if any(row.status == "failed" for row in rows):
        raise SystemExit(1)
    return rows


def plan_steps(size: str, device: torch.device, stages: list[str], steps: int) -> Iterator[Step]:
    """The steps, the most telling ones first: those at the end are left out where time is short.

    Args:
        size: As of `check`.
        device: Where.
        stages: Which are trained.
        steps: Training steps that are timed.
    """
    toy = size == "toy"
    memory = Goal("peak_memory", False, 12e9, "below 12 GB")
    stage = partial(train, size=size, device=device, steps=steps)
    for name in stages:
        yield Step(f"{name}, bf16-mixed", partial(stage, name, precision="bf16-mixed", compiled=False), memory)
    yield Step("fit, resume, resume on the CPU", partial(resume, size=size, device=device))
    for model, goal, batch in (("medium", 0.42, 32), ("large", 0.50, 16)):
        mfu = partial(thinker_mfu, _TOY if toy else model, batch_size=2 if toy else batch, context=32 if toy else 1024)
        wanted = Goal("mfu", True, goal, f"{goal:.0%} or more")
        yield Step(f"MFU of a {model} Thinker, 32k", partial(mfu, device=device, steps=steps), wanted)
    decode = partial(decoding, _TOY if toy else "medium", device=device, tokens=8 if toy else 256)
    yield Step("decoding, medium, 1 row", decode, Goal("tokens_per_second", True, 3000, "3,000 tokens/s or more"))
    for name in stages:
        yield Step(f"{name}, 16-mixed", partial(stage, name, precision="16-mixed", compiled=False), memory)
    for name in stages if device.type == "cuda" else ():
        yield Step(f"{name}, bf16-mixed, compiled", partial(stage, name, precision="bf16-mixed", compiled=True), memory)


def run(steps: Iterator[Step], *, minutes: float) -> list[Row]:
    """Runs steps one after the other; what is left when the time is used up is skipped.

    Args:
        steps: What to measure.
        minutes: Time limit, in minutes, after which no step starts.
    """
    begun, rows = time.monotonic(), []
    for step in steps:
        if time.monotonic() - begun >= 60 * minutes:
            rows.append(Row(name=step.name, status="skipped"))
            continue
        print(f"{step.name} ...", flush=True)
        rows.append(_row(step))
        gc.collect()
    return rows


def _row(step: Step) -> Row:
    start, goal = time.monotonic(), step.goal
    try:
        figures = step.measure()
    except (Exception, SystemExit) as error:  # whatever it is, it is this row's
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = f"{type(error).__name__}: {lines[0] if lines else ''}"
        print(f"  failed: {message}", flush=True)
        return Row(name=step.name, status="failed", seconds=time.monotonic() - start, error=message)
    met = None
    if goal is not None and goal.figure in figures:
        value = figures[goal.figure]
        met = value >= goal.limit if goal.at_least else value < goal.limit
    text = None if goal is None else goal.text
    return Row(name=step.name, status="ok", seconds=time.monotonic() - start, figures=figures, goal=text, met=met)


def markdown(conditions: dict[str, str], rows: list[Row]) -> str:
    """All of it as a table.

    Args:
        conditions: What was run, and on what.
        rows: What became of the steps.
    """
    lines = [", ".join(f"{name}: {value}" for name, value in conditions.items()), ""]
    lines += ["| step | figures | memory, and as planned | goal | |", "|---|---|---|---|---|"]
    for row in rows:
        status = row.status if row.error is None else row.error.replace("|", "\\|")
        if row.met is not None:
            status = "met" if row.met else "missed"
        lines.append(f"| {row.name} | {_figures(row)} | {_memory(row)} | {row.goal or ''} | {status} |")
    skipped = [row.name for row in rows if row.status == "skipped"]
    if skipped:
        lines += ["", f"Skipped, as the time was used up: {'; '.join(skipped)}."]
    return "\n".join(lines) + "\n"


def _figures(row: Row) -> str:
    shown = []
    for name, value in row.figures.items():
        if name == "mfu":
            shown.append(f"MFU {value:.1%}")
        elif name == "seconds_per_step":
            shown.append(f"{1000 * value:,.1f} ms a step")
        elif name.endswith("_per_second"):
            shown.append(f"{value:,.0f} {name.removesuffix('_per_second').replace('_', ' ')}/s")
        elif not name.endswith("_memory"):
            shown.append(f"{name.replace('_', ' ')} {value:.3g}")
    return ", ".join(shown)


def _memory(row: Row) -> str:
    if row.status != "ok" or "planned_memory" not in row.figures:
        return format_size(row.figures["peak_memory"]) if "peak_memory" in row.figures else ""
    planned = format_size(row.figures["planned_memory"])
    if "peak_memory" not in row.figures:
        return f"not measured on a CPU; {planned} planned"
    return f"{format_size(row.figures['peak_memory'])}; {planned} planned"


def _conditions(device: torch.device, size: str, steps: int) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    versions = {"omni": omni.__version__, "torch": version("torch")}
    return {"device": name, "size": size, "steps": str(steps), **versions}
