"""How long each stage of a chain has taken, over all its attempts."""

import json
import time
from pathlib import Path
from typing import Any, final

from omni.errors import UserError
from omni.files import write_text


@final
class StageTimings:
    """Seconds and attempts of stages, kept in a file, so that a cut at any moment loses a few seconds at most.

    Args:
        path: The file.
        every: Seconds between two writes while stages run.
    """

    def __init__(self, path: Path, *, every: float = 2.0) -> None:
        self.path, self.every = path, every
        self._stages: dict[str, dict[str, Any]] = {}
        self._base: dict[str, float] = {}
        self._written = 0.0
        if path.is_file():
            try:
                self._stages = {
                    name: {"seconds": float(entry["seconds"]), "attempts": int(entry["attempts"])}
                    for name, entry in json.loads(path.read_text(encoding="utf-8")).items()
                }
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{path} is no journal of a chain: delete it, and only the times are lost") from error

    def begin(self, name: str, *, anew: bool) -> None:
        """A stage begins, or goes on."""
        if anew or name not in self._stages:
            self._stages[name] = {"seconds": 0.0, "attempts": 0}
        self._stages[name]["attempts"] += 1
        self._base[name] = self._stages[name]["seconds"]
        self._write()

    def tick(self, name: str, seconds: float, *, ended: bool = False) -> None:
        """A stage has now been at work for so many seconds, in this attempt."""
        self._stages[name]["seconds"] = self._base[name] + seconds
        if ended or time.monotonic() - self._written >= self.every:
            self._write()

    def seconds(self, name: str) -> float | None:
        """How long a stage has been at work; None where it was not trained by a chain."""
        return self._stages[name]["seconds"] if name in self._stages else None

    def attempts(self, name: str) -> int | None:
        """How often it was begun or gone on with."""
        return self._stages[name]["attempts"] if name in self._stages else None

    def _write(self) -> None:
        self._written = time.monotonic()
        write_text(self.path, json.dumps(self._stages, indent=1) + "\n")
