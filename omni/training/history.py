"""The validations of a run, as its folder records them."""

import json
from pathlib import Path
from typing import Any

VALIDATIONS = "validations.jsonl"


def read_validations(folder: Path) -> list[dict[str, Any]]:
    """The `step` and the `metrics` of every validation of a run, in order; empty without a run.

    A last line that a killed process has left incomplete is ignored.
    """
    try:
        lines = (folder / VALIDATIONS).read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
