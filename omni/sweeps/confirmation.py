"""Confirmation: the best trials trained again with seeds that had no part in choosing them."""

import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from scipy import stats

from omni.errors import UserError
from omni.pipeline.definition import Pipeline, StageSpec
from omni.sweeps.ranking import best_first
from omni.sweeps.stages import SHARED, TrialStages
from omni.sweeps.study import SweepStudy
from omni.sweeps.trial_run import best_value

FIRST_SEED = 1000  # added to the seed of the configuration; those of a sweep's trials are below it


@final
@dataclass(frozen=True)
class Confirmed:
    """A trial that was trained again.

    Attributes:
        index: Its number.
        in_sweep: Its metric in the sweep.
        values: Its metric with each other seed.
    """

    index: int
    in_sweep: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, by Student's t; NaN with one seed."""
        if len(self.values) < 2:
            return math.nan, math.nan
        half = float(stats.t.ppf(0.975, len(self.values) - 1)) * statistics.stdev(self.values) / len(self.values) ** 0.5
        return self.mean - half, self.mean + half


@final
class Confirmation:
    """The runs that confirm the best trials of a sweep.

    Args:
        study: The study.
        count: Number of trials, from the best on.
        seeds: Runs of each.

    Raises:
        UserError: If the sweep has no complete trial.
    """

    def __init__(self, study: SweepStudy, count: int, seeds: int) -> None:
        self.sweep, self.seeds = study.sweep, seeds
        self.trials = best_first(self.sweep, study.trials())[:count]
        if not self.trials:
            raise UserError(f"sweep {self.sweep.path}: no trial is complete: run the sweep before --confirm")
        self._folders: dict[tuple[int, int], Path] = {}
        finder = TrialStages(self.sweep)
        stages: dict[str, StageSpec] = {}
        for trial in self.trials:
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                folder = self.sweep.folder / "confirm" / f"{trial.index:04d}" / f"seed{seed}"
                found = finder.again(trial.values, folder, seed=seed)
                names = {each.name: self._name(each, folder) for each in found}
                for each in found:
                    needs = tuple(names[need] for need in each.needs if need in names)
                    stages[names[each.name]] = replace(each, name=names[each.name], needs=needs)
                    if each.name == self.sweep.stage:
                        self._folders[trial.index, seed] = each.folder
        self.pipeline = Pipeline(name=f"sweeps/{self.sweep.name}/confirm", stages=stages)

    def _name(self, stage: StageSpec, folder: Path) -> str:
        """A name of a stage that no other run has; stages that all runs share have one name."""
        if folder not in (stage.folder, *stage.folder.parents):
            return f"{SHARED}/{stage.name}"
        return f"{folder.relative_to(folder.parents[1])}/{stage.name}"

    def results(self) -> list[Confirmed]:
        """The trials with their new results, in the order of the sweep."""
        seeds = range(FIRST_SEED, FIRST_SEED + self.seeds)
        return [
            Confirmed(
                trial.index,
                trial.value or 0.0,
                tuple(best_value(self.sweep, self._folders[trial.index, seed])[1] for seed in seeds),
            )
            for trial in self.trials
        ]
