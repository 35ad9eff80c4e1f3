"""What a chain is: its stages, what each needs, and what is to be reached."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import yaml

from omni.errors import UserError, parser_errors
from omni.training.configuration import Configuration
from omni.training.shipped import find_config

_CHAIN_KEYS = {"name", "stages"}
_LINK_KEYS = {"config", "overrides", "after", "metric", "below", "above"}


class Target(NamedTuple):
    """A stage's headline metric, and what it should come to.

    Attributes:
        metric: Its name, such as `val/wer`.
        below: It should be less than this number, or than the metric of this name; None where it should be `above`.
        above: It should be more than this; None where it should be `below`.
    """

    metric: str
    below: float | str | None = None
    above: float | str | None = None

    def __str__(self) -> str:
        if self.below is None and self.above is None:
            return "none"
        return f"< {self.below}" if self.below is not None else f"> {self.above}"

    def reached(self, metrics: Mapping[str, float]) -> bool | None:
        """Whether what was measured is good enough; None where nothing is to be reached, or was measured."""
        bounds = [metrics.get(bound) if isinstance(bound, str) else bound for bound in (self.below, self.above)]
        value = metrics.get(self.metric)
        if value is None or bounds == [None, None]:
            return None
        below, above = bounds
        return (below is None or value < below) and (above is None or value > above)


@final
@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """A stage of a chain.

    Attributes:
        name: What the chain calls it.
        arguments: What `omni fit` takes.
        configuration: The same, read.
        goal: What is to be reached.
        needs: Stages that must be done before it, by name.
    """

    name: str
    arguments: tuple[str, ...]
    configuration: Configuration
    goal: Target
    needs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its runs write."""
        return self.configuration.folder


@final
@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Stages in an order in which they can be trained.

    Attributes:
        name: Of its folder in `lightning_logs`.
        links: By name.
    """

    name: str
    links: Mapping[str, StageSpec]

    @property
    def folder(self) -> Path:
        """Where its report goes."""
        return Path("lightning_logs", self.name)


def read_pipeline(path: Path) -> Pipeline:
    """Reads a chain and the configurations of its stages.

    Args:
        path: The chain's YAML.

    Raises:
        UserError: If a stage or a checkpoint that one begins with is missing, stages wait for each other in a circle,
            or a configuration is wrong.
    """
    path = find_config(path)
    content = _read(path)
    stages = content["stages"]
    links = {}
    for name, stage in stages.items():
        arguments = _arguments(path, name, stage)
        with _of(path, name), parser_errors("fit"):
            configuration = Configuration(arguments)
            goal = Target(stage["metric"], stage.get("below"), stage.get("above"))
            links[name] = StageSpec(name=name, arguments=tuple(arguments), configuration=configuration, goal=goal)
    _check_folders(path, links.values())
    needs = {name: _needs(path, link, stages[name].get("after") or (), links) for name, link in links.items()}
    links = {name: StageSpec(**{**vars(links[name]), "needs": needs[name]}) for name in _ordered(path, needs)}
    for link in links.values():
        _check_tokenizer(path, link, links)
    return Pipeline(name=content["name"], links=links)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"chain {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"chain {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict) or not content["stages"]:
        raise UserError(f"chain {path} has no stages: write `name:` and `stages:`, as in configs/world/chain.yaml")
    _check_keys(f"chain {path}", content, _CHAIN_KEYS, {"name"})
    if not isinstance(content["name"], str) or not content["name"] or Path(content["name"]).is_absolute():
        raise UserError(f"chain {path}: name is {content['name']!r}: give a folder of lightning_logs")
    for name, stage in content["stages"].items():
        where = f"chain {path}: stage {name}"
        if not isinstance(stage, dict):
            raise UserError(f"{where} is {stage!r}: give it at least `config` and `metric`")
        _check_keys(where, stage, _LINK_KEYS, {"config", "metric"})
        for key in ("below", "above"):
            if not isinstance(stage.get(key, 0.0), int | float | str):
                raise UserError(f"{where}: {key} is {stage[key]!r}: give a number, or the name of another metric")
        for key, kind in {"overrides": dict, "after": list}.items():
            if not isinstance(stage.get(key) or kind(), kind):
                raise UserError(f"{where}: {key} is {stage[key]!r}: give a {'mapping' if kind is dict else 'list'}")
    return content


def _check_keys(where: str, given: Mapping[str, Any], known: set[str], required: set[str]) -> None:
    if unknown := sorted(map(str, given.keys() - known)):
        raise UserError(f"{where} has {unknown[0]!r}, which means nothing; it may have: {', '.join(sorted(known))}")
    if missing := sorted(required - given.keys()):
        raise UserError(f"{where} has no {missing[0]!r}")


def _arguments(path: Path, name: str, stage: Mapping[str, Any]) -> list[str]:
    config = path.parent / stage["config"]
    if not config.is_file() and not (config := find_config(stage["config"])).is_file():
        raise UserError(f"chain {path}: stage {name}: its config {config} does not exist")
    overrides = {"trainer.enable_progress_bar": False, **(stage.get("overrides") or {})}
    pairs = [f"--{key}={each if isinstance(each, str) else json.dumps(each)}" for key, each in overrides.items()]
    return ["--config", os.path.relpath(config) if not config.is_absolute() else str(config), *pairs]


class _of:
    """Says of which stage a mistake is."""

    def __init__(self, path: Path, name: str) -> None:
        self.where = f"chain {path}: stage {name}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.where}: {error}") from error


def _check_folders(path: Path, links: Iterable[StageSpec]) -> None:
    owners: dict[Path, str] = {}
    for link in links:
        with _of(path, link.name):
            folder = link.folder
            other = owners.setdefault(folder, link.name)
            if other != link.name:
                raise UserError(f"writes to {folder}, as {other} does: give it another trainer.logger.init_args.name")


def _maker(checkpoint: str, links: Mapping[str, StageSpec]) -> str | None:
    """The stage in whose folder a checkpoint lies."""
    folder = Path(os.path.abspath(checkpoint)).parent
    return next((name for name, link in links.items() if Path(os.path.abspath(link.folder)) == folder), None)


def _needs(path: Path, link: StageSpec, after: Sequence[str], links: Mapping[str, StageSpec]) -> tuple[str, ...]:
    """What a stage waits for: what it is told to, and who makes the checkpoints that its configuration names."""
    found = dict.fromkeys(after)
    for name in after:
        if name not in links:
            raise UserError(f"chain {path}: stage {link.name} comes after {name}, and there is no such stage: add it")
    for key, text in link.configuration.strings.items():
        if not text.endswith(".ckpt"):
            continue
        maker = _maker(text, links)
        if maker is not None:
            found[maker] = None
        elif not Path(text).expanduser().is_file():
            raise UserError(
                f"chain {path}: stage {link.name}: {key} is {text}, which is not there and which no stage writes: add "
                "the stage that does, or give a checkpoint that is there"
            )
    return tuple(found)


def _ordered(path: Path, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Each stage behind those that it needs, and otherwise as they are written."""
    order: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = " after ".join((*way[way.index(name) :], name))
            raise UserError(f"chain {path} goes round in a circle: {circle}; take one of them out")
        if name not in order:
            for need in needs[name]:
                visit(need, (*way, name))
            order.append(name)

    for name in needs:
        visit(name, ())
    return order


def _check_tokenizer(path: Path, link: StageSpec, links: Mapping[str, StageSpec]) -> None:
    """Refuses data in another tokenizer than that of the Thinker it begins with, before hours are spent on it."""
    thinker = link.configuration.init_from.get("thinker")
    own = link.configuration.strings.get("data.init_args.tokenizer")
    maker = None if thinker is None else _maker(thinker, links)
    if maker is None or own is None:
        return
    theirs = _tokenizer(links[maker], links)
    if (found := _tokenizer(link, links)) != theirs:
        raise UserError(
            f"chain {path}: stage {link.name} begins with the Thinker of stage {maker}, which is trained on the "
            f"tokens of {theirs}, and its data has those of {found}: set data.init_args.tokenizer to {thinker}"
        )


def _tokenizer(link: StageSpec, links: Mapping[str, StageSpec]) -> str:
    """Where the tokens of a stage come from at first."""
    own = link.configuration.strings["data.init_args.tokenizer"]
    if own == "bpe":
        return f"its own ({link.name})"
    maker = _maker(own, links) if own.endswith(".ckpt") else None
    return _tokenizer(links[maker], links) if maker not in (None, link.name) else own
