"""The display of a running sweep: a live table in a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Self, final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from omni.pipeline.status import read_progress
from omni.pipeline.timings import format_duration
from omni.sweeps.definition import Sweep
from omni.sweeps.ranking import best_first, mean_of_folds
from omni.sweeps.study import Trial
from omni.sweeps.trial_run import TrialRun


@final
class SweepTable:
    """Shows the running trials, how many have ended, the best one and the time left; a context manager.

    Args:
        sweep: The sweep.
        trials: Finds all its trials.
        console: Output; standard output by default.
        every: Seconds between two looks at all trials.
    """

    def __init__(
        self,
        sweep: Sweep,
        trials: Callable[[], list[Trial]],
        *,
        console: Console | None = None,
        every: float = 1.0,
    ) -> None:
        self.sweep, self.trials, self.every = sweep, trials, every
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False)
        self._printed: set[tuple[int, str]] = set()
        self._summary, self._looked = "", 0.0

    def __enter__(self) -> Self:
        if self.console.file.isatty():
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, running: list[TrialRun], ended: list[TrialRun]) -> None:
        """Shows the present state.

        Args:
            running: The trials that run here.
            ended: Those that have ended here.
        """
        for run in ended:
            self._print(run, run.trial.state)
        if not self._live.is_started:
            for run in running:
                self._print(run, "running")
            return
        if time.monotonic() - self._looked >= self.every:
            self._summary, self._looked = self._summarised(running), time.monotonic()
        table = Table("trial", "stage", "step", "time", self.sweep.metric, "values", box=None, pad_edge=False)
        for run in running:
            table.add_row(*(Text(cell, no_wrap=True) for cell in self._row(run)))
        table.caption, table.caption_justify = self._summary, "left"
        self._live.update(table, refresh=True)

    def _print(self, run: TrialRun, state: str) -> None:
        """Prints a line about a trial that has started or ended, once."""
        if (run.trial.index, state) in self._printed:
            return
        self._printed.add((run.trial.index, state))
        outcome = run.error if state == "failed" else format_value(run.trial.value)
        seconds = "" if state == "running" else format_duration(run.seconds)
        parts = (f"trial {run.trial.index}", state, outcome or "", seconds, format_values(run.trial.values))
        self.console.out("  ".join(filter(None, parts)), highlight=False)
        if state != "running":
            self.console.out(self._summarised([]), highlight=False)

    def _row(self, run: TrialRun) -> tuple[str, ...]:
        stage = run.current.stage if run.current is not None else None
        progress = {} if stage is None else read_progress(stage.folder)
        step, steps = progress.get("step"), progress.get("steps")
        return (
            str(run.trial.index),
            "" if stage is None else stage.name,
            "" if step is None else f"{step:,} of {steps:,}" if steps else f"{step:,}",
            format_duration(run.seconds),
            format_value(progress.get("metrics", {}).get(self.sweep.metric)),
            format_values(run.trial.values),
        )

    def _summarised(self, running: list[TrialRun]) -> str:
        trials = self.trials()
        ended = [trial for trial in trials if trial.state != "running"]
        states = {state: sum(trial.state == state for trial in ended) for state in ("pruned", "failed", "infeasible")}
        details = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        total = "" if self.sweep.trials is None else f" of {self.sweep.trials}"
        parts = [f"{len(ended)}{total} trials" + (f" ({details})" if details else "")]
        if self.sweep.file.folds:
            parts.append(mean_of_folds(self.sweep, trials))
        elif best := next(iter(best_first(self.sweep, trials)), None):
            parts.append(f"best {self.sweep.metric} {format_value(best.value)} (trial {best.index})")
        if (left := self._seconds_left(ended, running)) is not None:
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self, ended: list[Trial], running: list[TrialRun]) -> float | None:
        """Time for the remaining trials, if they take as long as the others; None if that is unknown."""
        taken = [trial.facts["seconds"] for trial in ended if trial.facts.get("seconds")]
        if self.sweep.trials is None or not taken:
            return None
        mean = sum(taken) / len(taken)
        waiting = self.sweep.trials - len(ended) - len(running)
        work = waiting * mean + sum(max(0.0, mean - run.seconds) for run in running)
        return work / max(1, len(running) or self.sweep.file.jobs)


def format_values(values: Mapping[str, Any]) -> str:
    """The values of a trial, such as `lr=0.003 optimizer=muon`; keys by their last part where that is unique."""
    names = short_names(list(values))
    return " ".join(f"{names[key]}={format_one(value)}" for key, value in values.items())


def short_names(keys: list[str]) -> dict[str, str]:
    """For each key, its shortest end that no other key shares."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
    return found


def format_one(value: Any) -> str:
    """A value of a parameter: numbers with four digits, mappings as `dim=128 num_layers=2`."""
    if isinstance(value, dict):
        return " ".join(f"{name}={format_one(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_value(value: float | None) -> str:
    """A metric; empty if there is none."""
    return "" if value is None else f"{value:.4g}"
