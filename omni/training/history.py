"""The validations of a run, as its folder records them."""

import json
from pathlib import Path
from typing import Any

from omni.errors import UserError

VALIDATIONS = "validations.jsonl"


def read_validations(folder: Path) -> list[dict[str, Any]]:
    """The `step` and the `metrics` of every validation of a run, in order; empty without a run.

    A last line that a killed process has left incomplete is ignored.

    Raises:
        UserError: If the file is damaged.
    """
    path = folder / VALIDATIONS
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.endswith(b"\n")]


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if isinstance(record["step"], int) and isinstance(record["metrics"], dict):
            return record
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UserError(f"{where}: not a validation of omni: remove the line")
