"""Configurations, read and checked as `omni fit` does, and not run."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace

from omni.errors import UserError, one_line
from omni.training.lightning_cli import OmniCLI
from omni.training.shipped import find_configs


class Configuration(OmniCLI):
    """What a stage is configured to be.

    Args:
        argv: What `omni fit` takes.

    Raises:
        ArgumentError: If it is wrong; see `told`.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = find_configs(argv)
        super().__init__(run=False)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = parser.parse_args(self._argv)

    def _set_seed(self) -> None:
        """Nothing here is random."""

    def _add_instantiators(self) -> None:
        """They record hyper-parameters for checkpoints, and no checkpoint is written."""

    def instantiate_classes(self) -> None:
        """Nothing is made before it is asked for."""

    def make(self, key: str) -> Any:
        """The `model` or the `data`.

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
        """Where a run of it writes.

        Raises:
            UserError: If there is no logger, or one without a folder.
        """
        try:
            logger = self.config["trainer"]["logger"]["init_args"]
            return Path(logger["save_dir"], logger["name"], logger["version"] or "")
        except (KeyError, TypeError) as error:
            raise UserError("trainer.logger: must be one with save_dir, name and version, as in base.yaml") from error

    @property
    def init_from(self) -> dict[str, str]:
        """Checkpoints by the part that begins with them."""
        return dict(self.config["init_from"] or {})

    @property
    def texts(self) -> dict[str, str]:
        """Every text in `init_from`, `data` and `model`, by its key."""
        return dict(_texts({key: self.config[key] for key in ("init_from", "data", "model")}, ""))

    def data_fingerprint(self) -> str:
        """The fingerprint that a checkpoint of a run would hold of its data.

        Raises:
            UserError: If the data cannot be read.
        """
        data = self.make("data")
        with torch.device("meta"), quiet():
            stage = self.make("model")
        with quiet():
            stage.configure_data(data)
            return data.fingerprint


@contextmanager
def told(verb: str) -> Iterator[None]:
    """Turns what is wrong with a configuration into one line.

    Raises:
        UserError: The line.
    """
    try:
        yield
    except ArgumentError as error:
        raise UserError(f"{one_line(error)} (`omni {verb} --help` tells what there is)") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Reads data without the remarks that training on it makes."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "__path__":
                yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{number}")
    elif isinstance(value, str):
        yield key, value
