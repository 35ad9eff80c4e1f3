"""The loggers of a run: the folder that they name, checks of their configuration, opening and closing."""

import re
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from omni.curves.csv_files import METRICS
from omni.errors import UserError, install_hint, one_line
from omni.training.trainer import leaves_files, run_folder

_IN_FOLDER = ("TensorBoardLogger", "CSVLogger")  # they write to save_dir/name/version
_STAMPED = re.compile(r"(events\.out\.tfevents\.)(\d+)(\..*)")  # event files, with the second of their start
_EXTRA = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}  # packages of the extra `loggers`


def check_loggers(trainer: Any) -> None:
    """Checks `trainer.logger`, and sets the `version` of loggers that lack one to `""`, so that a run has one folder.

    Args:
        trainer: The `trainer` of a parsed configuration.

    Raises:
        UserError: If a logger's package is missing, or two loggers would write to different folders.
    """
    if trainer["logger"] is None or trainer["logger"] is True:
        raise UserError("trainer.logger: name a logger, as in configs/base.yaml, a list of loggers, or false")
    for name, arguments in _entries(trainer):
        if (package := _EXTRA.get(name)) and find_spec(package) is None:
            raise UserError(f"trainer.logger: {name} needs the package {package}: {install_hint('loggers')}")
        if _writes_in_folder(name) and arguments["version"] is None:
            arguments["version"] = ""
    folder = folder_of(trainer)
    for name, arguments in _entries(trainer):
        if _writes_in_folder(name) and _folder(arguments) != folder:
            raise UserError(
                f"trainer.logger: {name} writes to {_folder(arguments)}, not to the run's folder {folder}: give it the "
                "same save_dir, name and version"
            )
        if name == "MLFlowLogger" and not arguments["tracking_uri"] and _contains(arguments["save_dir"], folder):
            raise UserError(
                f"trainer.logger: save_dir of MLFlowLogger is {arguments['save_dir']}, which holds the runs: give it a "
                "folder of its own, such as mlruns"
            )


def folder_of(trainer: Any) -> Path:
    """The folder that a run writes its checkpoints to.

    It is `save_dir/name/version` of the first TensorBoardLogger or CSVLogger; without one `save_dir/name` of the first
    WandbLogger with a name; otherwise `trainer.default_root_dir`.

    Args:
        trainer: The `trainer` of a parsed configuration.

    Raises:
        UserError: If none of these is set.
    """
    entries = list(_entries(trainer))
    for name, arguments in entries:
        if _writes_in_folder(name):
            return _folder(arguments)
    for name, arguments in entries:
        if name == "WandbLogger" and arguments["name"]:
            return Path(arguments["save_dir"] or arguments["dir"] or ".", arguments["name"])
    if trainer["default_root_dir"]:
        return Path(trainer["default_root_dir"])
    names = ", ".join(name for name, _ in entries) or "false"
    raise UserError(
        f"trainer.logger: {names} names no folder for checkpoints: give --trainer.default_root_dir lightning_logs/NAME"
    )


def open_loggers(trainer: Trainer) -> None:
    """Opens the loggers other than TensorBoard's, so that one that cannot be reached ends the run before training.

    A CSVLogger deletes an earlier `metrics.csv`, as of the run that is resumed: the file is renamed before. TensorBoard
    reads files in the order of their names, which start with the time: those later than now, as after the clock was set
    back, are renamed.

    Args:
        trainer: The trainer.

    Raises:
        UserError: If a logger cannot be opened.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            _keep_metrics(Path(logger.log_dir))
        elif isinstance(logger, TensorBoardLogger):
            _put_before(Path(logger.log_dir), int(time.time()))
        elif hasattr(type(logger), "experiment"):
            if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
                continue  # the launched processes open their own
            try:
                _ = logger.experiment  # pyright: ignore[reportAttributeAccessIssue]
            except Exception as error:  # each service has its own errors
                raise UserError(f"trainer.logger: {type(logger).__name__}: {one_line(error)}") from error


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` to the run's folder, and passes it to loggers elsewhere as hyper-parameters.

    An evaluation leaves the file of the training run as it is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0 only."""
        if not leaves_files(trainer):
            return
        folder = Path(run_folder(trainer))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.config_filename
        if stage == "fit" or not path.exists():
            self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=self.multifile)
        outside = [logger for logger in trainer.loggers if not isinstance(logger, TensorBoardLogger | CSVLogger)]
        if outside:
            config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
            for logger in outside:
                logger.log_hyperparams(config)


def close_loggers() -> None:
    """Ends a run of Weights & Biases, which the next WandbLogger of this process would continue otherwise."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def _keep_metrics(folder: Path) -> None:
    """Renames `metrics.csv` to `metrics.1.csv`, `metrics.2.csv`, ...; `read_curves` reads them in this order."""
    path = folder / METRICS
    if path.is_file():
        number = 1 + sum(1 for _ in folder.glob("metrics.*.csv"))
        path.rename(path.with_suffix(f".{number}.csv"))


def _put_before(folder: Path, now: int) -> None:
    """Renames event files so that those of a process that starts now come last; their order stays."""
    stamped = [(_STAMPED.fullmatch(path.name), path) for path in folder.glob("events.*")]
    files = sorted(((match, path) for match, path in stamped if match), key=lambda each: each[1].name)
    if files and int(files[-1][0][2]) >= now:
        for number, (match, path) in enumerate(files):
            path.rename(path.with_name(f"{match[1]}{min(int(match[2]), now - 1 - len(files) + number)}{match[3]}"))


def _entries(trainer: Any) -> Iterator[tuple[str, Any]]:
    """Class name and arguments of each logger."""
    loggers = trainer["logger"] or []
    for entry in loggers if isinstance(loggers, list) else [loggers]:
        yield entry["class_path"].rpartition(".")[2], entry.get("init_args")


def _writes_in_folder(name: str) -> bool:
    return name in _IN_FOLDER


def _folder(arguments: Any) -> Path:
    version = arguments["version"]
    version = f"version_{version}" if isinstance(version, int) else version or ""
    return Path(arguments["save_dir"], arguments["name"] or "", version, arguments.get("sub_dir") or "")


def _contains(save_dir: str, folder: Path) -> bool:
    return folder.absolute().is_relative_to(Path(save_dir).absolute())
