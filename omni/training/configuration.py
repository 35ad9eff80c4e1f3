"""Configurations, parsed and checked as by `omni fit`, without running them."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jsonargparse import Namespace

from omni.errors import UserError, one_line
from omni.training.lightning_cli import OmniCLI
from omni.training.loggers import check_loggers, folder_of
from omni.training.shipped import find_configs, split_configs


class Configuration(OmniCLI):
    """The parsed configuration of a stage.

    Args:
        argv: Arguments of `omni fit`.

    Raises:
        ArgumentError: If it is wrong; see `omni.errors.parser_errors`.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(find_configs(argv))  # with the base files of each configuration
        super().__init__(run=False)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = parser.parse_args(list(self.argv))

    def link_arguments(self, parser: Any) -> None:
        """Links nothing: model and data are built independently."""

    def _set_seed(self) -> None:
        """Does nothing: nothing here is random."""

    def _add_instantiators(self) -> None:
        """Does nothing: they record hyper-parameters for checkpoints, and none is written."""

    def before_instantiate_classes(self) -> None:
        """Does nothing: `folder` checks the loggers."""

    def instantiate_classes(self) -> None:
        """Does nothing: `make` does."""

    def changed(self, values: Mapping[str, Any]) -> Self:
        """The same configuration with other values, by dotted key, checked again."""
        return type(self)([*self.argv, *options_of(values)]) if values else self

    @property
    def fit_arguments(self) -> list[str]:
        """Arguments of `omni fit` that train this configuration."""
        return list(self.argv)

    @property
    def files(self) -> list[str]:
        """The configuration files, each after its base files."""
        _, files = split_configs(self.argv)
        return files

    def get(self, key: str) -> Any:
        """The value at a dotted key; None if the configuration lacks it."""
        return self.config.get(key)

    def make(self, key: str) -> Any:
        """Builds the `model` or the `data`.

        Raises:
            UserError: If an argument is refused.
        """
        try:
            return self.parser.instantiate(Namespace({key: self.config[key]}))[key]
        except ValueError as error:
            message = one_line(error)
            raise UserError(message if message.startswith(f"{key}.") else f"{key}: {message}") from error

    @property
    def folder(self) -> Path:
        """The folder that its run writes to.

        Raises:
            UserError: If no logger and no `default_root_dir` names one.
        """
        trainer = self.config["trainer"]
        check_loggers(trainer)
        return folder_of(trainer)

    @property
    def init_from(self) -> dict[str, str]:
        """Checkpoints that parts are initialised from, by part."""
        return dict(self.config["init_from"] or {})

    @property
    def strings(self) -> dict[str, str]:
        """Every string in `init_from`, `data` and `model`, by its key."""
        return dict(_strings({key: self.config[key] for key in ("init_from", "data", "model")}, ""))

    def data_fingerprint(self) -> str:
        """The fingerprint of the data, as in the checkpoints of a run.

        Raises:
            UserError: If the data cannot be read.
        """
        data = self.configured_data()
        with muted_logs():
            return data.fingerprint

    def configured_data(self) -> Any:
        """The data module, with what the stage tells it about the sizes of media.

        Raises:
            UserError: If the data cannot be read.
        """
        data = self.make("data")
        with torch.device("meta"), muted_logs():
            stage = self.make("model")
        with muted_logs():
            stage.configure_data(data)
        return data


def options_of(values: Mapping[str, Any]) -> list[str]:
    """Command-line options that set values by dotted key; a key that ends in `+` appends to a list."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


@contextmanager
def muted_logs() -> Iterator[None]:
    """Suppresses warnings and the messages that data modules print for training."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "__path__":
                yield from _strings(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{key}.{number}")
    elif isinstance(value, str):
        yield key, value
