"""Curves from the `metrics.csv` of a CSVLogger."""

import csv
from pathlib import Path

from omni.errors import UserError

METRICS = "metrics.csv"


def metrics_files(folder: Path) -> list[Path]:
    """The files of a run, oldest first: `metrics.1.csv`, ... from before it was resumed, then `metrics.csv`."""
    numbered = [path for path in folder.glob("metrics.*.csv") if path.suffixes[0][1:].isdigit()]
    numbered.sort(key=lambda path: int(path.suffixes[0][1:]))
    return [*numbered, *(path for path in [folder / METRICS] if path.is_file())]


def read_csv_curves(folder: Path) -> dict[str, dict[int, float]]:
    """All columns of a folder's files, by name and step; of several values of a step, the last.

    Raises:
        UserError: If a file is not that of a CSVLogger.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in metrics_files(folder):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if "step" not in (reader.fieldnames or ()):
                    raise UserError(f"{path} has no column step: it is not the file of a CSVLogger")
                for row in reader:
                    _add(curves, row, f"{path}, line {reader.line_num}")
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} is not the file of a CSVLogger ({error})") from error
    return {name: dict(sorted(curve.items())) for name, curve in sorted(curves.items())}


def _add(curves: dict[str, dict[int, float]], row: dict[str, str | None], where: str) -> None:
    try:
        step = int(row.pop("step") or "")
        values = {name: float(value) for name, value in row.items() if value}
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}: it is not a row of a CSVLogger") from error
    for name, value in values.items():
        curves.setdefault(name, {})[step] = value
