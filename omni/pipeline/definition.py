"""The definition of a pipeline: its stages, their dependencies and their target metrics."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple, final

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from omni.errors import UserError, is_deep, one_line, parser_errors, yaml_faults
from omni.pipeline.expected_loss import parse_expected
from omni.training.configuration import Configuration, options_of
from omni.training.shipped import find_config


class Target(NamedTuple):
    """A stage's headline metric and the value that it should reach.

    Attributes:
        metric: Name, such as `val/wer`.
        below: Upper bound: a number, or the name of another metric; None without one.
        above: Lower bound, likewise.
    """

    metric: str
    below: float | str | None = None
    above: float | str | None = None

    def __str__(self) -> str:
        if self.below is None and self.above is None:
            return "none"
        return f"< {self.below}" if self.below is not None else f"> {self.above}"

    def reached(self, metrics: Mapping[str, float]) -> bool | None:
        """Whether the metric is within its bounds; None without bounds or without a measurement."""
        below, above = (metrics.get(bound) if isinstance(bound, str) else bound for bound in (self.below, self.above))
        value = metrics.get(self.metric)
        if value is None or (below is None and above is None):
            return None
        return (below is None or value < below) and (above is None or value > above)


@final
@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """A stage as the YAML file describes it.

    Attributes:
        config: Its configuration, or several that are merged in order, relative to the YAML file.
        metric: Its headline metric.
        overrides: Values that replace those of the configuration, by key.
        after: Stages that it waits for, besides those whose checkpoints its configuration names.
        below: Target of the metric; see `Target`.
        above: Likewise.
        expected_loss: Training loss of a good run at shares of the steps, such as `{1%: 6.2, 10%: 3.1, 50%: 2.4}`;
            `omni train` reports a stage that is far off.
    """

    config: str | list[str]
    metric: str
    overrides: dict[str, Any] | None = None
    after: list[str] | None = None
    below: int | float | str | None = None
    above: int | float | str | None = None
    expected_loss: dict[str, float] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """A stage of a pipeline.

    Attributes:
        name: Name in the pipeline.
        arguments: Arguments of `omni fit`.
        configuration: The same, parsed.
        target: Headline metric and its target.
        needs: Names of the stages that must be done first.
        expected_loss: Training loss of a good run by share of the steps.
    """

    name: str
    arguments: tuple[str, ...]
    configuration: Configuration
    target: Target
    needs: tuple[str, ...] = ()
    expected_loss: Mapping[float, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of its run."""
        return self.configuration.folder


@final
@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages in an order in which they can be trained.

    Attributes:
        name: Name of its folder in `lightning_logs`.
        stages: By name.
    """

    name: str
    stages: Mapping[str, StageSpec]

    @property
    def folder(self) -> Path:
        """The folder of its report and logs."""
        return Path("lightning_logs", self.name)


def read_pipeline(path: Path) -> Pipeline:
    """Reads a pipeline and the configurations of its stages.

    Args:
        path: The pipeline's YAML file.

    Raises:
        UserError: If the file or a configuration is wrong, a stage or a checkpoint is missing, or stages depend on each
            other in a cycle.
    """
    path = find_config(path)
    content = _read(path)
    entries, stages = {}, {}
    for name, fields in content["stages"].items():
        with _errors_of(path, name):
            entry = entries[name] = _entry(fields)
            arguments = fit_arguments(path, entry.config, entry.overrides)
            with parser_errors("fit"):
                configuration = Configuration(arguments)
            target = Target(entry.metric, entry.below, entry.above)
            stages[name] = StageSpec(
                name=name,
                arguments=tuple(arguments),
                configuration=configuration,
                target=target,
                expected_loss=parse_expected(entry.expected_loss or {}),
            )
    _check_folders(path, stages.values())
    for name, stage in stages.items():
        with _errors_of(path, name):
            stages[name] = replace(stage, needs=_needs(stage, entries[name].after or (), stages))
    stages = {name: stages[name] for name in _ordered(path, stages)}
    for name, stage in stages.items():
        with _errors_of(path, name):
            _check_tokenizer(stage, stages)
    return Pipeline(name=content["name"], stages=stages)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"pipeline {path} cannot be read: {error.strerror}") from error
    except yaml_faults() as error:
        raise UserError(f"pipeline {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, dict) and is_deep(content):
        raise UserError(f"pipeline {path}: its values are nested too deeply")
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict) or not content["stages"]:
        raise UserError(
            f"pipeline {path} has no stages: write `name:` and `stages:`, as in configs/world/chain.yaml",
            page="howto/chain.md",
        )
    if unknown := sorted(map(str, content.keys() - {"name", "stages"})):
        raise UserError(f"pipeline {path}: unknown key {unknown[0]!r}: it has `name` and `stages`")
    name = content.get("name")
    if not isinstance(name, str) or not name or Path(name).is_absolute():
        raise UserError(f"pipeline {path}: name is {name!r}: give the name of a folder in lightning_logs")
    return content


def _entry(fields: Any) -> StageEntry:
    if not isinstance(fields, dict):
        raise UserError(f"is {fields!r}: give it at least `config` and `metric`")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StageEntry)
    return StageEntry(**parser.parse_object(fields).as_dict())


def fit_arguments(path: Path, config: str | Sequence[str], overrides: Mapping[str, Any] | None = None) -> list[str]:
    """Arguments of `omni fit` for a stage that a YAML file describes.

    Args:
        path: The YAML file.
        config: The stage's configuration files, relative to it, or names of shipped ones.
        overrides: Values that replace those of the configuration, by key.

    Raises:
        UserError: If a configuration does not exist.
    """
    arguments: list[str] = []
    for name in [config] if isinstance(config, str) else config:
        found = path.parent / name
        if not found.is_file() and not (found := find_config(name)).is_file():
            raise UserError(f"its config {found} does not exist")
        arguments += ["--config", str(found) if found.is_absolute() else os.path.relpath(found)]
    return arguments + options_of({"trainer.enable_progress_bar": False, **(overrides or {})})


@contextmanager
def _errors_of(path: Path, name: str) -> Iterator[None]:
    """Names the stage in every error about it."""
    try:
        yield
    except (UserError, ArgumentError) as error:
        raise UserError(f"pipeline {path}: stage {name}: {one_line(error)}") from error


def _check_folders(path: Path, stages: Iterable[StageSpec]) -> None:
    owners: dict[Path, str] = {}
    for stage in stages:
        with _errors_of(path, stage.name):
            other = owners.setdefault(stage.folder, stage.name)
            if other != stage.name:
                raise UserError(f"writes to {stage.folder}, as {other} does: give it another name in trainer.logger")


def _writer(checkpoint: str, stages: Mapping[str, StageSpec]) -> str | None:
    """The stage that writes a checkpoint."""
    folder = Path(os.path.abspath(checkpoint)).parent
    return next((name for name, stage in stages.items() if Path(os.path.abspath(stage.folder)) == folder), None)


def _needs(stage: StageSpec, after: Sequence[str], stages: Mapping[str, StageSpec]) -> tuple[str, ...]:
    """The stages that one waits for: those in `after`, and those that write the checkpoints in its configuration."""
    needs = dict.fromkeys(after)
    for name in after:
        if name not in stages:
            raise UserError(f"after names {name}, which is not a stage of this pipeline")
    for key, value in stage.configuration.strings.items():
        if not value.endswith(".ckpt"):
            continue
        writer = _writer(value, stages)
        if writer is not None:
            needs[writer] = None
        elif not Path(value).expanduser().is_file():
            raise UserError(
                f"{key} is {value}, which does not exist and which no stage writes: add the stage that writes it, or "
                "give an existing checkpoint",
                page="howto/chain.md",
            )
    return tuple(needs)


def _ordered(path: Path, stages: Mapping[str, StageSpec]) -> list[str]:
    """Names of the stages, each after those that it needs, otherwise in the order of the file."""
    try:
        TopologicalSorter({name: stage.needs for name, stage in stages.items()}).prepare()
    except CycleError as error:
        raise UserError(f"pipeline {path}: dependency cycle: {' -> '.join(error.args[1])}") from error
    order: list[str] = []
    while len(order) < len(stages):
        order.append(next(name for name in stages if name not in order and set(stages[name].needs) <= set(order)))
    return order


def _check_tokenizer(stage: StageSpec, stages: Mapping[str, StageSpec]) -> None:
    """Refuses data with another tokenizer than that of the Thinker that a stage starts from."""
    thinker = stage.configuration.init_from.get("thinker")
    writer = None if thinker is None else _writer(thinker, stages)
    if writer is None or "data.init_args.tokenizer" not in stage.configuration.strings:
        return
    expected, found = _tokenizer(stages[writer], stages), _tokenizer(stage, stages)
    if found != expected:
        raise UserError(
            f"starts from the Thinker of stage {writer}, which is trained with the tokenizer {expected}, but its data "
            f"is tokenized with {found}: set data.init_args.tokenizer to {thinker}",
            page="explanation/lineage.md",
        )


def _tokenizer(stage: StageSpec, stages: Mapping[str, StageSpec]) -> str:
    """The tokenizer of a stage's data: a kind, a file, or the stage that trains it."""
    own = stage.configuration.strings["data.init_args.tokenizer"]
    if own == "bpe":
        return f"of {stage.name}"
    writer = _writer(own, stages) if own.endswith(".ckpt") else None
    return _tokenizer(stages[writer], stages) if writer not in (None, stage.name) else own
