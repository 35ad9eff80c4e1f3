"""The definition of a sweep: a YAML file with a configuration, its parameters, a metric and a budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from omni.errors import UserError, is_deep, one_line, parser_errors, yaml_faults
from omni.pipeline.definition import StageSpec, Target, fit_arguments, read_pipeline
from omni.sweeps.parameters import Parameters
from omni.training.configuration import Configuration, options_of
from omni.training.memory import parse_count, parse_size
from omni.training.shipped import find_config

FOLDER = Path("lightning_logs", "sweeps")
Sampler = Literal["grid", "random", "qmc", "tpe", "cmaes", "gp"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Where a sweep ends; the first limit that is reached counts.

    Attributes:
        trials: Number of trials in total, over all restarts and workers.
        hours: Hours of training, summed over all trials.
        steps: Optimizer steps, summed over all trials.
    """

    trials: int | None = None
    hours: float | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """When a trial is stopped early.

    Attributes:
        kind: `none`, `median` (worse than the median of the others at that step), `asha` (successive halving) or
            `hyperband` (several brackets of it).
        min_steps: Optimizer steps before the first decision; those of the first validation by default.
        factor: Of `asha` and `hyperband`: one in `factor` trials goes on at each rung, to `factor` times the steps.
    """

    kind: Literal["none", "median", "asha", "hyperband"] = "none"
    min_steps: int | None = None
    factor: int = 3


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Limits that a trial must keep; one that does not is not run.

    Attributes:
        parameters: Most parameters of its stage, such as `5M`.
        memory: Most memory of training, as `omni plan` counts it, such as `12GB`.
    """

    parameters: str | int | None = None
    memory: str | None = None


@final
@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """The YAML file of a sweep.

    Attributes:
        config: Configuration of a stage: a file, or several that are merged in order. Or a chain (`omni train`).
        parameters: What is tried, by key; in a chain by `STAGE.KEY`.
        metric: What is compared, such as `val/wer`; in a chain `STAGE.METRIC`.
        direction: `minimize` or `maximize`; that of the stage by default, if the metric is the one that it declares.
        name: Name of the folder in lightning_logs/sweeps; that of the file by default.
        overrides: Values for all trials, by key.
        budget: Where the sweep ends.
        sampler: How values are chosen.
        pruner: When a trial is stopped early: a kind, or its options.
        constraints: Limits that a trial must keep.
        jobs: Trials that run at the same time.
        seeds: Runs of each trial, with different seeds; their mean counts.
        seed: Seed of the sampler.
        scaling: Whether the report fits a scaling law to the trials.
        folds: Whether the trials are the folds of a cross-validation, such as speakers held out in turn: the report has
            their mean, and none is the best.
    """

    config: str | list[str]
    parameters: dict[str, Any]
    metric: str
    direction: Literal["minimize", "maximize"] | None = None
    name: str | None = None
    overrides: dict[str, Any] | None = None
    budget: Budget = field(default_factory=Budget)
    sampler: Sampler = "tpe"
    pruner: Literal["none", "median", "asha", "hyperband"] | Pruner = "none"
    constraints: Constraints = field(default_factory=Constraints)
    jobs: int = 1
    seeds: int = 1
    seed: int = 0
    scaling: bool = False
    folds: bool = False


@final
@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        path: Its YAML file.
        file: The content of the file.
        name: Its name.
        parameters: Its parameters.
        stages: The stage that it trains, or those of its chain on which the metric depends, in order.
        stage: Name of the stage whose metric is compared.
        metric: The metric, without the stage.
        is_chain: Whether keys and folders begin with the name of a stage.
    """

    path: Path
    file: SweepFile
    name: str
    parameters: Parameters
    stages: Mapping[str, StageSpec]
    stage: str
    metric: str
    is_chain: bool

    @property
    def folder(self) -> Path:
        """The folder of its trials and results."""
        return FOLDER / self.name

    @property
    def pruner(self) -> Pruner:
        """When a trial is stopped early."""
        return Pruner(kind=self.file.pruner) if isinstance(self.file.pruner, str) else self.file.pruner

    @property
    def trials(self) -> int | None:
        """Most trials in total; None if only hours or steps are limited."""
        grid = len(self.grid) if self.file.sampler == "grid" else None
        limits = [limit for limit in (self.file.budget.trials, grid) if limit is not None]
        return min(limits) if limits else None

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """The combinations of a grid, in order."""
        return self.parameters.grid()

    @cached_property
    def steps(self) -> int | None:
        """Optimizer steps of a full trial of the stage that is compared; None if they are not limited."""
        steps = self.stages[self.stage].configuration.config["trainer"]["max_steps"]
        return steps if steps and steps > 0 else None

    @cached_property
    def direction(self) -> Literal["minimize", "maximize"]:
        """`minimize` or `maximize`."""
        with torch.device("meta"):
            monitored, mode = self.stages[self.stage].configuration.make("model").monitor
        expected = {"min": "minimize", "max": "maximize"}[mode] if monitored == self.metric else None
        given = self.file.direction
        if expected is None and given is None:
            raise UserError(f"add `direction: minimize` or `maximize`: the stage declares it for {monitored}")
        if None not in (expected, given) and expected != given:
            raise UserError(f"direction is {given}, but the stage says to {expected} {self.metric}: remove it")
        return "minimize" if "minimize" in (given, expected) else "maximize"

    def identity(self) -> dict[str, Any]:
        """What two commands must have in common to work on the same study, by name."""
        return {
            "parameters": self.file.parameters,
            "config": {name: stage.configuration.fingerprint for name, stage in self.stages.items()},
            "metric": self.file.metric,
            "direction": self.direction,
            "sampler": self.file.sampler,
            "pruner": asdict(self.pruner),
            "seed": self.file.seed,
            "seeds": self.file.seeds,
        }


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep and the configurations that it names.

    Raises:
        UserError: If the file, a parameter or a configuration is wrong.
    """
    path = find_config(path)
    try:
        file = _parse(_read(path))
        parameters = Parameters(file.parameters)
        stages, is_chain = _stages(path, file)
        stage, metric = _metric(file.metric, stages, is_chain=is_chain)
        if is_chain:
            stages = _needed(stage, stages)
            _check_keys([*parameters.names, *(file.overrides or {})], stages)
        sweep = Sweep(path, file, file.name or path.stem, parameters, stages, stage, metric, is_chain)
        _check_limits(sweep)
    except (UserError, ArgumentError) as error:
        raise UserError(f"sweep {path}: {one_line(error)}") from error
    return sweep


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    except yaml_faults() as error:
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, dict) and is_deep(content):
        raise UserError("its values are nested too deeply")
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict) or not content["parameters"]:
        raise UserError("it has no parameters: write `config:`, `parameters:`, `metric:` and `budget:`, as in "
                        "configs/sweeps/learning_rate.yaml", page="howto/sweep.md")  # fmt: skip
    return content


def _parse(content: dict[str, Any]) -> SweepFile:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SweepFile)
    try:
        fields = parser.parse_object(content).as_dict()
    except ValueError as error:  # such as a null character where a path may stand
        raise UserError(str(error)) from error
    # The parser would also build the classes that overrides and parameters name.
    kinds = {"budget": Budget, "pruner": Pruner, "constraints": Constraints}
    built = {name: kind(**fields[name]) for name, kind in kinds.items() if isinstance(fields[name], dict)}
    file = SweepFile(**fields | built)
    if not isinstance(file.constraints, Constraints | None):
        raise UserError(f"constraints is {file.constraints!r}: give `parameters:` or `memory:`")
    return file


def _stages(path: Path, file: SweepFile) -> tuple[dict[str, StageSpec], bool]:
    """The stages that the configuration names, and whether it is a chain."""
    overrides = file.overrides or {}
    if isinstance(file.config, str) and _is_chain(found := _found(path, file.config)):
        stages = dict(read_pipeline(found).stages)
        for key, value in overrides.items():
            name, _, inner = key.partition(".")
            if name in stages:
                stages[name] = with_arguments(stages[name], options_of({inner: value}))
        return stages, True
    arguments = fit_arguments(path, file.config, overrides)
    with parser_errors("fit"):
        configuration = Configuration(arguments)
    name = Path(file.config if isinstance(file.config, str) else file.config[-1]).stem
    target = Target(file.metric)
    return {name: StageSpec(name=name, arguments=tuple(arguments), configuration=configuration, target=target)}, False


def with_arguments(stage: StageSpec, arguments: list[str]) -> StageSpec:
    """A stage with further arguments.

    Raises:
        UserError: If they are wrong.
    """
    combined = (*stage.arguments, *arguments)
    with parser_errors("fit"):
        configuration = Configuration(combined)
    return StageSpec(
        name=stage.name, arguments=combined, configuration=configuration, target=stage.target, needs=stage.needs
    )


def _found(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.is_file() else find_config(name)


def _is_chain(path: Path) -> bool:
    try:
        return "stages" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, TypeError, *yaml_faults()):
        return False  # which the parser refuses


def _metric(metric: str, stages: Mapping[str, StageSpec], *, is_chain: bool) -> tuple[str, str]:
    if not is_chain:
        return next(iter(stages)), metric
    stage, _, name = metric.partition(".")
    if stage not in stages or not name:
        raise UserError(
            f"metric is {metric}: in a chain give STAGE.METRIC, with one of the stages {', '.join(stages)}",
            page="howto/sweep.md",
        )
    return stage, name


def _needed(name: str, stages: Mapping[str, StageSpec]) -> dict[str, StageSpec]:
    """A stage and all those that it needs, in their order."""
    needed, waiting = {name}, [name]
    while waiting:
        new = set(stages[waiting.pop()].needs) - needed
        needed |= new
        waiting += new
    return {each: stage for each, stage in stages.items() if each in needed}


def _check_keys(keys: list[str], stages: Mapping[str, StageSpec]) -> None:
    for key in keys:
        if key.partition(".")[0] not in stages:
            raise UserError(
                f"{key}: in a chain give STAGE.KEY, with a stage on which the metric depends: {', '.join(stages)}"
            )


def _check_limits(sweep: Sweep) -> None:
    file, budget = sweep.file, sweep.file.budget
    limits = {**asdict(budget), "jobs": file.jobs, "seeds": file.seeds, "min_steps": sweep.pruner.min_steps}
    for name, value in {**limits, "factor": sweep.pruner.factor - 1}.items():
        if value is not None and value <= 0:
            raise UserError(f"{name} is too small: give a positive number (factor: 2 or more)")
    if file.sampler != "grid" and all(limit is None for limit in asdict(budget).values()):
        raise UserError(
            "no budget: give `budget: {trials: 20}`, `{hours: 8}` or `{steps: 100000}`", page="howto/sweep.md"
        )
    if file.folds and (file.sampler, sweep.pruner.kind) != ("grid", "none"):
        raise UserError("folds are all trained to their end: give `sampler: grid`, and leave `pruner` out")
    if file.sampler == "grid":
        _ = sweep.grid
    if file.constraints.parameters is not None:
        parse_count(file.constraints.parameters)
    if file.constraints.memory is not None:
        parse_size(file.constraints.memory)
    if not sweep.name or Path(sweep.name).is_absolute() or ".." in Path(sweep.name).parts:
        raise UserError(f"name is {sweep.name!r}: give the name of a folder in {FOLDER}")
    _ = sweep.direction
