"""Curves of runs, read from TensorBoard's event files and from the `metrics.csv` of a CSVLogger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from omni.curves.csv_files import METRICS, read_csv_curves
from omni.errors import UserError, yaml_faults

LOGS = Path("lightning_logs")


class Run(NamedTuple):
    """The curves of a run.

    Attributes:
        name: The run's name.
        folder: The folder of its files.
        curves: For each metric, such as `train/loss`, its values by step, ascending.
        headline: The metric that selects `best.ckpt`, if the run's configuration names one.
    """

    name: str
    folder: Path
    curves: Mapping[str, Mapping[int, float]]
    headline: str | None


def read_run(name: str) -> Run:
    """Reads a run; where a resumed run logged a step twice, the later value counts.

    Args:
        name: Its folder, or the folder's name in `lightning_logs`.

    Raises:
        UserError: If there is no such folder, or it holds no curves.
    """
    folder = find_folder(name)
    curves = read_curves(folder)
    if not curves:
        raise UserError(
            f"{folder} holds no curves: give the folder of a run, with events.out.tfevents.* or metrics.csv"
        )
    return Run(str(folder).removeprefix(f"{LOGS}/"), folder, curves, _monitored_metric(read_config(folder)))


def find_folder(name: str) -> Path:
    """The folder of a run, given by its path or by its name in `lightning_logs`."""
    given = Path(name).expanduser()
    for folder in (given, LOGS / name):
        if folder.is_dir():
            return folder
    files = [path for pattern in ("events.out.tfevents.*", METRICS) for path in LOGS.rglob(pattern)]
    runs = sorted({str(path.parent.relative_to(LOGS)) for path in files})
    there = f"; {LOGS} has: {', '.join(runs[:12])}{', …' if len(runs) > 12 else ''}" if runs else ""
    raise UserError(f"run {name}: there is no such folder, nor one in {LOGS}{there}")


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """All scalars of a folder, by name and step; of several values of a step, the last.

    Where a run has logged to TensorBoard and to a CSV file, values of the event files are preferred.
    """
    curves = read_csv_curves(folder)
    for name, points in _event_curves(folder).items():
        curves[name] = dict(sorted({**curves.get(name, {}), **points}.items()))
    return dict(sorted(curves.items()))


def _event_curves(folder: Path) -> dict[str, dict[int, float]]:
    if next(folder.glob("events.out.tfevents.*"), None) is None:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator  # 0.3 s

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # without points that were marked as discarded
    events.Reload()
    curves = {name: events.Scalars(name) for name in events.Tags()[SCALARS]}
    return {
        name: {event.step: event.value for event in sorted(curve, key=lambda event: event.step)}
        for name, curve in curves.items()
    }


def read_config(folder: Path) -> Any:
    """The configuration in a run's folder; None if there is none."""
    path = folder / "config.yaml"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except yaml_faults() as error:
        raise UserError(f"{path} is not valid YAML ({str(error).splitlines()[0]})") from error


def _monitored_metric(config: Any) -> str | None:
    trainer = config.get("trainer") if isinstance(config, dict) else None
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in reversed(callbacks if isinstance(callbacks, list) else []):
        arguments = callback.get("init_args") if isinstance(callback, dict) else None
        if isinstance(arguments, dict) and arguments.get("filename") == "best" and arguments.get("monitor"):
            return arguments["monitor"]
    return None
