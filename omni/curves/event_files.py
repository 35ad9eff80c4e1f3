"""Curves of runs, read from the event files that TensorBoard shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from omni.errors import UserError

LOGS = Path("lightning_logs")


class Run(NamedTuple):
    """What a run has logged.

    Attributes:
        name: What to call it.
        folder: Where its event files are.
        curves: Values by steps, ascending, by their names, such as `train/loss`.
        headline: The metric that its `best.ckpt` is chosen by, if its configuration tells.
    """

    name: str
    folder: Path
    curves: Mapping[str, Mapping[int, float]]
    headline: str | None


def read_run(name: str) -> Run:
    """Reads a run.

    Where a run was resumed, and a step was made twice, the later value counts.

    Args:
        name: Its folder, or the folder's name in `lightning_logs`.

    Raises:
        UserError: If there is no such folder, or no event file with curves in it.
    """
    folder = find_folder(name)
    curves = read_curves(folder)
    if not curves:
        raise UserError(f"{folder}: holds no curves: give the folder of a run, with its events.out.tfevents.* files")
    return Run(str(folder).removeprefix(f"{LOGS}/"), folder, curves, _headline(folder))


def find_folder(name: str) -> Path:
    """The folder of a run, given as such or as in `lightning_logs`."""
    given = Path(name).expanduser()
    for folder in (given, LOGS / name):
        if folder.is_dir():
            return folder
    beside = sorted({str(path.parent.relative_to(LOGS)) for path in LOGS.rglob("events.out.tfevents.*")})
    there = f"; {LOGS} has: {', '.join(beside[:12])}{', …' if len(beside) > 12 else ''}" if beside else ""
    raise UserError(f"run {name}: there is no such folder, nor one in {LOGS}{there}")


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """All scalars of the event files in a folder by name and step; of files or values for a step the later counts."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # 0.3 s
    from tensorboard.util import tensor_util

    found: dict[str, dict[int, float]] = {}
    # TensorBoard's names begin with the second at which they were opened.
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.name.split(".")[3:]):
        loader: Any = EventFileLoader(str(path))
        for event in loader.Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    curve = found.setdefault(value.tag, {})
                    curve[event.step] = float(tensor_util.make_ndarray(value.tensor).item())
    return {name: dict(sorted(curve.items())) for name, curve in sorted(found.items())}


def monitored(config: Any) -> tuple[str, str] | None:
    """The metric by which a run's configuration chooses `best.ckpt`, and whether it is to be `min` or `max`."""
    callbacks = config.get("trainer", {}).get("callbacks") if isinstance(config, dict) else None
    for callback in reversed(callbacks or []):
        arguments = callback.get("init_args") or {}
        if arguments.get("filename") == "best" and arguments.get("monitor"):
            return arguments["monitor"], arguments.get("mode", "min")
    return None


def read_config(folder: Path) -> Any:
    """The configuration that a run left in its folder; None where there is none."""
    path = folder / "config.yaml"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({str(error).splitlines()[0]})") from error


def _headline(folder: Path) -> str | None:
    found = monitored(read_config(folder))
    return None if found is None else found[0]
