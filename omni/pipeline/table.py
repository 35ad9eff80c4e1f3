"""The display of a running pipeline: a live table in a terminal, lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any, Self, final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from omni.pipeline.definition import StageSpec, Target
from omni.pipeline.expected_loss import LOSS, LossWatch
from omni.pipeline.scheduler import StageRun
from omni.pipeline.status import read_progress
from omni.pipeline.timings import StageTimings, format_duration


@final
class PipelineTable:
    """Shows the state, step, time and headline metric of stages; a context manager around the calls of `show`.

    Args:
        stages: The stages.
        timings: Their times.
        console: Output; standard output by default.
        every: Seconds between two lines of a running stage, where the output is not a terminal.
    """

    def __init__(
        self,
        stages: Mapping[str, StageSpec],
        timings: StageTimings,
        *,
        console: Console | None = None,
        every: float = 60.0,
    ) -> None:
        self.stages, self.timings, self.every = stages, timings, every
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False)
        self._lines: dict[str, tuple[str, float]] = {}  # the state in a stage's latest line, and when it was printed
        self._metrics: dict[str, dict[str, float]] = {}
        self._losses = LossWatch({name: stage.expected_loss for name, stage in stages.items()})

    def __enter__(self) -> Self:
        if self.console.file.isatty():
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, runs: Mapping[str, StageRun]) -> None:
        """Shows the present state."""
        for name, run in runs.items():
            if run.state == "running" and self.stages[name].expected_loss:
                self._compare_loss(name, run)
        if self._live.is_started:
            table = Table("stage", "", "step", "time", "left", "metric", box=None, pad_edge=False)
            for name in self.stages:
                table.add_row(*(Text(cell, no_wrap=True) for cell in self._row(name, runs)))
            self._live.update(table, refresh=True)
            return
        now = time.monotonic()
        for name, run in runs.items():
            state, printed = self._lines.get(name, ("waiting", 0.0))
            if run.state != state or (state == "running" and now - printed >= self.every):
                self._lines[name] = (run.state, now)
                self.console.out("  ".join(filter(None, self._row(name, runs))), highlight=False)

    def _compare_loss(self, name: str, run: StageRun) -> None:
        """Prints a warning if the stage's loss is far off the expected one."""
        progress = self._progress(name, run)
        step, steps, loss = progress.get("step"), progress.get("steps"), progress.get("metrics", {}).get(LOSS)
        if not step or not steps or loss is None:
            return
        warning = self._losses.add(name, step, steps, loss, first_step=progress["first_step"])
        if warning is not None:
            self.console.print(warning, style="yellow", highlight=False, soft_wrap=True)

    def _progress(self, name: str, run: StageRun) -> dict[str, Any]:
        """The progress of a stage; empty if it is that of an earlier attempt."""
        progress = read_progress(self.stages[name].folder)
        earlier = run.state == "running" and progress.get("seconds", 0.0) > time.monotonic() - run.started
        return {} if earlier else progress

    def _row(self, name: str, runs: Mapping[str, StageRun]) -> tuple[str, ...]:
        stage, run, seconds = self.stages[name], runs[name], self.timings.seconds(name)
        started = run.state not in ("waiting", "blocked")
        progress = self._progress(name, run) if started else {}
        step, steps = progress.get("step"), progress.get("steps")
        metrics = self._metrics[name] = {**self._metrics.get(name, {}), **progress.get("metrics", {})}
        value = metrics.get(stage.target.metric)
        return (
            name,
            _state(stage, run, runs),
            "" if step is None else f"{step:,} of {steps:,}" if steps else f"{step:,}",
            format_duration(seconds) if started and seconds is not None else "",
            _remaining(progress) if run.state == "running" else "",
            "" if value is None else f"{stage.target.metric} {value:.4g}{_verdict(stage.target, metrics)}",
        )


def _state(stage: StageSpec, run: StageRun, runs: Mapping[str, StageRun]) -> str:
    if run.state == "done":
        return "done before" if run.done_before else "done"
    if run.state in ("failed", "stopped"):
        return f"{run.state} ({run.code})"
    if run.state == "running":
        return "resumed" if run.status is not None and run.status.resume else "training"
    needs = ", ".join(need for need in stage.needs if runs[need].state != "done")
    return f"{'blocked by' if run.state == 'blocked' else 'waiting for'} {needs}" if needs else run.state


def _remaining(progress: Mapping[str, float]) -> str:
    """The time for the remaining steps, at the speed of this process so far."""
    made = progress.get("step", 0) - progress.get("first_step", 0)
    if made <= 0 or not progress.get("steps"):
        return ""
    return f"{format_duration(progress['seconds'] / made * (progress['steps'] - progress['step']))} left"


def _verdict(target: Target, metrics: Mapping[str, float]) -> str:
    """The target, and whether it is reached."""
    reached = target.reached(metrics)
    return "" if reached is None else f" ({target} {'✓' if reached else '✗'})"
