"""The order of trials, and their table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni.errors import UserError
from omni.sweeps.definition import FOLDER, Sweep
from omni.sweeps.parameters import label
from omni.sweeps.study import Trial, close_storage, open_storage, read_trials


def best_first(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials, the best one first; of equal ones the earlier."""
    sign = 1 if sweep.direction == "minimize" else -1
    return sorted((trial for trial in trials if trial.value is not None), key=lambda each: sign * (each.value or 0.0))


def mean_of_folds(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """The mean over the complete trials of a sweep over folds, with the smallest and the largest value."""
    values = [trial.value for trial in trials if trial.value is not None]
    if not values:
        return "no fold is complete"
    folds = f"{len(values)} folds" if len(values) == sweep.trials else f"{len(values)} of {sweep.trials} folds"
    mean = sum(values) / len(values)
    return f"mean {sweep.file.metric} of {folds}: {mean:.4g} ({min(values):.4g} to {max(values):.4g})"


def table_rows(trials: Sequence[Trial], folder: Path) -> list[dict[str, Any]]:
    """The trials as rows: number, state, value, parameters by key, and how they were run.

    Args:
        trials: The trials.
        folder: The folder of the sweep.
    """
    keys = dict.fromkeys(key for trial in trials for key in trial.values)
    return [
        {
            "trial": trial.index,
            "state": trial.state,
            "value": trial.value,
            **{key: label(trial.values.get(key)) for key in keys},
            "steps": trial.facts.get("steps"),
            "seconds": trial.facts.get("seconds"),
            "by_seed": label(trial.facts.get("by_seed")),
            "error": trial.facts.get("error") or trial.facts.get("infeasible"),
            "folder": str(folder / "trials" / f"{trial.index:04d}"),
        }
        for trial in trials
    ]


def load(name: str, *, storage: str | None = None) -> Any:
    """The trials of a sweep as a table.

    Args:
        name: The name of the sweep, as in lightning_logs/sweeps.
        storage: Where its study is, if not in the journal file of that folder.

    Returns:
        A `pandas.DataFrame` with a row for each trial; see `table_rows`. Its `attrs["curves"]` holds the metric of each
        trial's validations by step.

    Raises:
        UserError: If there is no such sweep.
    """
    import pandas

    folder = FOLDER / name
    if storage is None and not (folder / "journal.log").is_file():
        known = ", ".join(sorted(path.parent.name for path in FOLDER.glob("*/journal.log"))) or "none"
        raise UserError(f"{folder} holds no sweep: the sweeps here are: {known}")
    opened = open_storage(folder, storage)
    try:
        trials = read_trials(opened, opened.get_study_id_from_name(name))
    except KeyError as error:
        raise UserError(f"the storage holds no sweep {name!r}") from error
    finally:
        close_storage(opened)
    table = pandas.DataFrame(table_rows(trials, folder)).set_index("trial")
    table.attrs["curves"] = {trial.index: dict(trial.curve) for trial in trials}
    return table
