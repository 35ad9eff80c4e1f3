"""The time that each stage of a pipeline has taken, over all its attempts."""

import json
import time
from pathlib import Path
from typing import Any, final

from omni.errors import UserError
from omni.files import write_text


@final
class StageTimings:
    """Seconds and attempts of stages, kept in a file, so that a kill at any moment loses a few seconds at most.

    Args:
        path: The file.
        every: Seconds between two writes while stages run.
    """

    def __init__(self, path: Path, *, every: float = 2.0) -> None:
        self.path, self.every = path, every
        self._stages: dict[str, dict[str, Any]] = {}
        self._earlier: dict[str, float] = {}  # seconds of earlier attempts
        self._written = 0.0
        if path.is_file():
            try:
                self._stages = {
                    name: {"seconds": float(entry["seconds"]), "attempts": int(entry["attempts"])}
                    for name, entry in json.loads(path.read_text(encoding="utf-8")).items()
                }
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{path} does not hold the times of stages: delete it; only times are lost") from error

    def start(self, name: str, *, from_scratch: bool) -> None:
        """Counts a further attempt; `from_scratch` discards the earlier ones."""
        if from_scratch or name not in self._stages:
            self._stages[name] = {"seconds": 0.0, "attempts": 0}
        self._stages[name]["attempts"] += 1
        self._earlier[name] = self._stages[name]["seconds"]
        self._write()

    def update(self, name: str, seconds: float, *, ended: bool = False) -> None:
        """Sets the seconds of the present attempt."""
        self._stages[name]["seconds"] = self._earlier[name] + seconds
        if ended or time.monotonic() - self._written >= self.every:
            self._write()

    def seconds(self, name: str) -> float | None:
        """Seconds of a stage over its attempts; None if no pipeline has trained it."""
        return self._stages[name]["seconds"] if name in self._stages else None

    def attempts(self, name: str) -> int | None:
        """Number of attempts; None likewise."""
        return self._stages[name]["attempts"] if name in self._stages else None

    def _write(self) -> None:
        self._written = time.monotonic()
        write_text(self.path, json.dumps(self._stages, indent=1) + "\n")


def format_duration(seconds: float) -> str:
    """Minutes and seconds, or hours too: 3:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
