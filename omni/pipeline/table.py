"""What is seen of a chain at work: a table that is written anew in a terminal, and lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO, final

from omni.pipeline.definition import StageSpec, Target
from omni.pipeline.scheduler import Status
from omni.pipeline.status import read_progress
from omni.pipeline.timings import StageTimings

_HEADINGS = ("stage", "", "step", "time", "left", "measured")
_WORDS = {"waiting": "waits", "running": "trains", "blocked": "held up"}


@final
class Table:
    """Shows stages, their steps, times and headline metrics.

    Args:
        links: The stages.
        journal: Their times.
        stream: Where to write; by default standard output.
        every: Seconds between two lines of a stage at work, where it is no terminal.
    """

    def __init__(
        self,
        links: Mapping[str, StageSpec],
        journal: StageTimings,
        *,
        stream: TextIO | None = None,
        every: float = 60.0,
    ) -> None:
        self.links, self.journal = links, journal
        self.stream = stream or sys.stdout
        self.every = every
        self._height, self._shown = 0, 0.0
        self._said: dict[str, tuple[str, float]] = {}
        self._metrics: dict[str, dict[str, float]] = {}

    def show(self, statuses: Mapping[str, Status]) -> None:
        """Shows how things are now."""
        if not self.stream.isatty():
            self._tell(statuses)
        elif time.monotonic() - self._shown >= 0.5 or not any(s.state == "running" for s in statuses.values()):
            self._shown = time.monotonic()
            lines = aligned([_HEADINGS, *(self._row(name, statuses) for name in self.links)])
            width = shutil.get_terminal_size().columns
            up = f"\x1b[{self._height}F" if self._height else ""
            self.stream.write(up + "".join(f"\x1b[2K{line[: width - 1]}\n" for line in lines))
            self.stream.flush()
            self._height = len(lines)

    def _tell(self, statuses: Mapping[str, Status]) -> None:
        """A line where a stage's state changes, and now and then of those at work."""
        for name, status in statuses.items():
            said, at = self._said.get(name, ("waiting", 0.0))
            now = time.monotonic()
            if status.state == said and (said != "running" or now - at < self.every):
                continue
            self._said[name] = (status.state, now)
            self.stream.write("  ".join(filter(None, self._row(name, statuses))) + "\n")
            self.stream.flush()

    def _row(self, name: str, statuses: Mapping[str, Status]) -> tuple[str, ...]:
        link, status = self.links[name], statuses[name]
        running, seconds = status.state == "running", self.journal.seconds(name)
        progress = read_progress(link.folder) if status.state in ("running", "done", "failed", "stopped") else {}
        if running and progress.get("seconds", 0.0) > time.monotonic() - status.began:
            progress = {}  # of an earlier attempt
        step, steps = progress.get("step"), progress.get("steps")
        measured = self._metrics[name] = {**self._metrics.get(name, {}), **progress.get("metrics", {})}
        value = measured.get(link.goal.metric)
        return (
            name,
            _state(link, status, statuses),
            "" if step is None else f"{step:,} of {steps:,}" if steps else f"{step:,}",
            "" if seconds is None or status.state in ("waiting", "blocked") else clock(seconds),
            _left(progress) if running else "",
            "" if value is None else f"{link.goal.metric} {value:.4g}{verdict(link.goal, measured)}",
        )


def _state(link: StageSpec, status: Status, statuses: Mapping[str, Status]) -> str:
    if status.state == "done":
        return "done before" if status.kept else "done"
    if status.state in ("failed", "stopped"):
        return f"{status.state} ({status.code})"
    if status.state == "running" and status.standing is not None and status.standing.resume:
        return "goes on"
    waiting = [need for need in link.needs if statuses[need].state != "done"]
    if status.state in ("waiting", "blocked") and waiting:
        return f"{'held up by' if status.state == 'blocked' else 'waits for'} {', '.join(waiting)}"
    return _WORDS[status.state]


def _left(progress: Mapping[str, float]) -> str:
    """The time that the steps ahead will take, if they are like those that were made."""
    made = progress.get("step", 0) - progress.get("first_step", 0)
    if made <= 0 or not progress.get("steps"):
        return ""
    return f"{clock(progress['seconds'] / made * (progress['steps'] - progress['step']))} left"


def verdict(goal: Target, metrics: Mapping[str, float]) -> str:
    """What is to be reached, and whether it is."""
    reached = goal.reached(metrics)
    return "" if reached is None else f" ({goal} {'✓' if reached else '✗'})"


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours too: 3:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, with columns below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
