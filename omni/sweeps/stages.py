"""The stages of a trial: which are its own, which it shares with other trials, and where each is trained."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from omni.errors import UserError
from omni.pipeline.definition import StageSpec
from omni.pipeline.status import stage_status
from omni.sweeps.definition import FOLDER, Sweep, with_arguments
from omni.sweeps.parameters import Values
from omni.training.configuration import options_of
from omni.training.shipped import find_config

SHARED = "shared"  # folder of the stages that no parameter touches


def stage_with(sweep: Sweep, name: str, values: Values) -> StageSpec:
    """A stage with the values of a trial, in the folder of the original.

    Raises:
        UserError: If a value is refused.
    """
    return with_arguments(sweep.stages[name], _value_arguments(sweep, name, values))


def _value_arguments(sweep: Sweep, name: str, values: Values) -> list[str]:
    own = {key: _file(sweep, value) for key, value in values.items() if _belongs(sweep, key, name)}
    return options_of({key.removeprefix(f"{name}.") if sweep.is_chain else key: own[key] for key in own})


def _belongs(sweep: Sweep, key: str, stage: str) -> bool:
    return not sweep.is_chain or key.partition(".")[0] == stage


def _file(sweep: Sweep, value: object) -> object:
    """The path of a YAML file that a value names, relative to the sweep or shipped; other values as they are."""
    if not isinstance(value, str) or not value.endswith((".yaml", ".yml")):
        return value
    beside = sweep.path.parent / value
    found = beside if beside.is_file() else find_config(value)
    return str(found) if found.is_absolute() else os.path.relpath(found)


@final
class TrialStages:
    """Finds the stages of trials; stages that a trial's parameters do not touch are those of other trials.

    A stage depends on its own parameters, and on those of all stages that it needs. It is trained in the folder of the
    first trial that has the same values of all these. A stage that depends on no parameter is the original run, if that
    is done, and is otherwise trained once, in `shared/` in the sweep's folder.

    Args:
        sweep: The sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._keys: dict[str, set[str]] = {}
        for name, stage in sweep.stages.items():
            own = {key for key in sweep.parameters.names if _belongs(sweep, key, name)}
            self._keys[name] = own.union(*(self._keys[need] for need in stage.needs if need in self._keys))
        self._original = {name for name, keys in self._keys.items() if not keys and self._is_done(name)}

    def _is_done(self, name: str) -> bool:
        """Whether the original run of a stage can be used."""
        if (FOLDER / self.sweep.name / SHARED / name).exists():
            return False
        stage = self.sweep.stages[name]
        try:
            return stage_status(stage).state == "done"
        except UserError:  # a stage that it needs has not been trained
            return False

    def touched(self, name: str) -> bool:
        """Whether a stage depends on any parameter."""
        return bool(self._keys[name])

    def of(self, index: int, values: Values, earlier: Sequence[Values], *, seed: int = 0) -> list[StageSpec]:
        """The stages of a trial, in order, each with its arguments.

        Args:
            index: Number of the trial.
            values: Its values.
            earlier: Values of the trials before it.
            seed: Number of the run of the trial; a run with a number greater than 0 has another seed.

        Raises:
            UserError: If a value is refused.
        """
        owners = {}
        for name in self.sweep.stages:
            same = (number for number, others in enumerate(earlier) if self._same(name, values, others))
            owners[name] = run_folder(self.sweep, next(same, index), seed)
        return self._in(owners, values, seed)

    def again(self, values: Values, folder: Path, *, seed: int) -> list[StageSpec]:
        """The stages of a trial, to be trained once more in a folder; see `of`."""
        return self._in(dict.fromkeys(self.sweep.stages, folder), values, seed)

    def _in(self, owners: Mapping[str, Path], values: Values, seed: int) -> list[StageSpec]:
        """The stages of a trial; those that its parameters touch in the folders of `owners`."""
        folders: dict[str, Path] = {}
        found = []
        for name, stage in self.sweep.stages.items():
            folders[name] = self._folder(name, owners[name])
            if name in self._original:
                found.append(stage)
                continue
            arguments = _value_arguments(self.sweep, name, values)
            if seed and self.touched(name):
                arguments += ["--seed_everything", str(_seed_of(stage) + seed)]
            loggers = stage.configuration.config["trainer"]["logger"]
            arguments += options_of({"trainer.logger": loggers_in(folders[name], loggers)})
            moved = with_arguments(stage, arguments)
            redirected = self._redirected(moved, folders)
            found.append(with_arguments(stage, [*arguments, *redirected]) if redirected else moved)
        return found

    def _same(self, name: str, values: Values, others: Values) -> bool:
        """Whether a stage of a chain is the same in two trials."""
        keys = self._keys[name]
        return self.sweep.is_chain and all(
            (key in values, values.get(key)) == (key in others, others.get(key)) for key in keys
        )

    def _folder(self, name: str, owner: Path) -> Path:
        if name in self._original:
            return self.sweep.stages[name].folder
        if not self.touched(name):
            return self.sweep.folder / SHARED / name
        return owner / name if self.sweep.is_chain else owner

    def _redirected(self, stage: StageSpec, folders: Mapping[str, Path]) -> list[str]:
        """Arguments that replace the checkpoints of other stages by those of this trial."""
        originals = {Path(os.path.abspath(self.sweep.stages[name].folder)): name for name in folders}
        changed = {}
        for key, value in stage.configuration.strings.items():
            if not value.endswith(".ckpt"):
                continue
            writer = originals.get(Path(os.path.abspath(value)).parent)
            if writer is not None and writer != stage.name and folders[writer] != self.sweep.stages[writer].folder:
                changed[key] = str(folders[writer] / Path(value).name)
        return options_of(changed)


def trial_folder(sweep: Sweep, index: int) -> Path:
    """The folder of a trial."""
    return sweep.folder / "trials" / f"{index:04d}"


def run_folder(sweep: Sweep, index: int, seed: int) -> Path:
    """The folder of a trial's run with one of its seeds."""
    folder = trial_folder(sweep, index)
    return folder / f"seed{seed}" if sweep.file.seeds > 1 else folder


def _seed_of(stage: StageSpec) -> int:
    seed = stage.configuration.config["seed_everything"]
    return 0 if isinstance(seed, bool) or seed is None else int(seed)


def loggers_in(folder: Path, loggers: Any) -> Any:
    """The configuration of loggers, one or a list, with which a run writes to a folder.

    Raises:
        UserError: If there is no logger.
    """
    if isinstance(loggers, list):
        return [loggers_in(folder, each) for each in loggers]
    if not loggers or isinstance(loggers, bool):
        raise UserError("trainer.logger: a sweep needs a logger with a folder, as in configs/base.yaml")
    arguments = dict(loggers["init_args"])
    names = {"save_dir": folder.parts[0], "name": str(Path(*folder.parts[1:]))}
    if not loggers["class_path"].endswith("WandbLogger"):  # whose version is the identity of a run
        names["version"] = ""
    arguments |= {key: value for key, value in names.items() if key in arguments}
    return {"class_path": loggers["class_path"], "init_args": arguments}
