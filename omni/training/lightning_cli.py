"""The trainer verbs (`fit`, `validate`, `test`, `predict`): the only file that uses LightningCLI."""

import logging
import sys
import traceback
import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LambdaCallback, LearningRateMonitor, ProgressBar, WeightAveraging
from lightning.pytorch.callbacks import Checkpoint as Checkpointing
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import LightningEnum, rank_zero_info

import omni.data.conversations.data
import omni.data.images.data
import omni.data.speech.data
import omni.data.talker.data
import omni.data.text.data
import omni.models.pretrained.audio_encoder
import omni.models.pretrained.vision_encoder
import omni.stages.audio
import omni.stages.codec
import omni.stages.omni
import omni.stages.talker
import omni.stages.thinker
import omni.stages.vision
import omni.stages.vocoder  # noqa: F401  an imported class can be named without its module
from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError, one_line, parser_errors
from omni.optim.precision import best_precision, check_precision
from omni.stages.stage import Stage
from omni.training.callbacks.checkpointing import AtomicCheckpointIO, StageCheckpoint
from omni.training.callbacks.graceful_stop import Stopped
from omni.training.callbacks.loss_drops import LossDropNote
from omni.training.callbacks.progress import Progress, StepBar
from omni.training.callbacks.seamless_curves import SeamlessCurves
from omni.training.callbacks.throughput import Throughput
from omni.training.data_workers import worker_error
from omni.training.earlier_run import EarlierRun, claim_folder
from omni.training.fingerprint import FINGERPRINTED, config_fingerprint
from omni.training.loggers import SaveConfig, check_loggers, close_loggers, folder_of, open_loggers
from omni.training.memory import memory_error
from omni.training.rank_watch import RankWatch
from omni.training.shipped import CONFIGS, find_configs, without_base
from omni.training.strategy import checked_strategy, prepare_strategy
from omni.training.trainer import leaves_files, run_folder

# Warnings that a user cannot act on: Lightning's use of PyTorch, its advertisement, a folder that is not empty because
# its own logger writes there, and metrics that `barebones` leaves out.
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
warnings.filterwarnings("ignore", message="You are trying to `self.log\\(\\)` but `Trainer\\(barebones=True\\)`")
warnings.filterwarnings("ignore", message="(Checkpoint|Experiment logs) directory .* exists and is not empty")

# Types of arguments of Lightning's callbacks that jsonargparse and PyYAML cannot write into `config.yaml`.
register_type(torch.device)
yaml.SafeDumper.add_multi_representer(LightningEnum, lambda dumper, value: dumper.represent_str(value.value))


class ConfigParser(LightningArgumentParser):
    """A parser of configurations that ignores the key `base`, which `find_configs` has resolved."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parses as `ArgumentParser` does, without the key `base`."""
        return super().parse_string(without_base(content), *args, **kwargs)


class OmniCLI(LightningCLI):
    """LightningCLI with the defaults of `configs/base.yaml`, and parts of earlier stages by `init_from`."""

    watch: ClassVar[RankWatch | None] = None  # set while this process is one of several ranks
    earlier: ClassVar[EarlierRun | None] = None  # set while a run may move the files of an earlier one back

    def __init__(self, *, run: bool = True) -> None:
        base = CONFIGS / "base.yaml"
        if not base.is_file():
            raise UserError(f"{base} is missing: reinstall omni")
        options: dict[str, Any] = {"default_config_files": [str(base)]}
        parsers = dict.fromkeys(self.subcommands(), options) if run else options
        super().__init__(
            Stage,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            parser_kwargs=parsers | {"exit_on_error": False},
            parser_class=ConfigParser,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Only the verb on the command line: building the parsers of the other three takes 0.15 s."""
        known = LightningCLI.subcommands()
        verb = sys.argv[1] if len(sys.argv) > 1 else ""
        return {verb: known[verb]} if verb in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--init_from`."""
        parser.add_argument(
            "--init_from",
            type=dict[str, str],
            default={},
            help="Checkpoints of earlier stages to initialise parts from, by part. Ignored when a run is resumed.",
        )
        self.link_arguments(parser)

    def link_arguments(self, parser: LightningArgumentParser) -> None:
        """Passes the codec and the recognizer of the data module on to the Talker's stage."""
        for target, attribute in {"speech_codec": "codec", "recognizer": "audio_encoder"}.items():
            parser.link_arguments(
                "data.encoder", f"model.init_args.{target}", attrgetter(attribute), apply_on="instantiate"
            )

    def _dump_config(self) -> None:
        """Skips the dump for `save_hyperparameters` (0.1 s), which no stage calls."""
        self.config_dump = {}

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let a checkpoint's hyper-parameters override the user's configuration."""

    def before_instantiate_classes(self) -> None:
        """Checks the loggers."""
        check_loggers(self._get(self.config, "trainer"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Sets the default precision, the strategy, atomic checkpoints and a progress bar that rarely reads metrics."""
        config = self._get(self.config_init, "trainer", default={})
        config["callbacks"] = self._chosen_callbacks(config)
        if config["precision"] is None:
            config["precision"] = best_precision(config["accelerator"])
        config["precision"] = check_precision(config["precision"])
        config["strategy"] = checked_strategy(config, self.model)
        config["default_root_dir"] = str(folder_of(self._get(self.config, "trainer")))
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError, RuntimeError, ImportError) as error:  # about an accelerator, devices or a plugin
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        prepare_strategy(trainer, self.model)
        # `last` is written after `best`, so that it holds the score that `best` has to beat.
        trainer.callbacks.sort(key=lambda each: isinstance(each, StageCheckpoint) and each.monitor is None)  # pyright: ignore
        rank_zero_info(f"precision: {trainer.precision}")
        return trainer

    def _chosen_callbacks(self, config: Any) -> list[Callback]:
        """The configured callbacks, without those that the trainer's switches turn off; and a progress bar."""
        given = config["callbacks"] or []
        callbacks = self._chosen_checkpoints(given if isinstance(given, list) else [given])
        self._checkpoints = [f"{each.filename}.ckpt" for each in callbacks if isinstance(each, StageCheckpoint)]
        if config["barebones"]:
            off = ("logger", "enable_model_summary", "enable_checkpointing", "enable_progress_bar")
            for name, value in {**dict.fromkeys(off, False), "log_every_n_steps": 0}.items():
                config[name] = value
            callbacks = [each for each in callbacks if not isinstance(each, Progress | Throughput | LossDropNote)]
        if config["enable_checkpointing"] is False:
            callbacks = [each for each in callbacks if not isinstance(each, Checkpointing)]
        for each in callbacks:
            if isinstance(each, WeightAveraging):  # integers do not survive averaging; codebooks are averages already
                each._use_buffers = False
        if not config["logger"]:
            callbacks = [each for each in callbacks if type(each) is not LearningRateMonitor]
        if config["enable_progress_bar"] is not False and not any(isinstance(each, ProgressBar) for each in callbacks):
            callbacks.append(StepBar(refresh_rate=10))  # a refresh reads the loss, which waits for the GPU
        return [SeamlessCurves(), *callbacks]  # before those that log

    def _chosen_checkpoints(self, callbacks: list[Callback]) -> list[Callback]:
        """Keeps the last StageCheckpoint of each file name, and replaces `monitor: stage` by the stage's metric.

        The metric is also set in the configuration, which the run saves as `config.yaml`.
        """
        metric, mode = self.model.monitor
        for callback in self._get(self.config, "trainer")["callbacks"] or ():
            if (arguments := callback.get("init_args", {})).get("monitor") == "stage":
                arguments["monitor"], arguments["mode"] = metric, mode
        for number, callback in enumerate(callbacks):
            if isinstance(callback, StageCheckpoint) and callback.monitor == "stage":
                callbacks[number] = StageCheckpoint(str(callback.filename), monitor=metric, mode=mode)
        last = {each.filename: each for each in callbacks if isinstance(each, StageCheckpoint)}
        return [each for each in callbacks if not isinstance(each, StageCheckpoint) or last[each.filename] is each]

    def before_fit(self) -> None:
        """Loads the parts of earlier stages, or resolves the checkpoint to resume."""
        self._watch_ranks()
        self._resolve_checkpoint("fit")
        self.model.config_fingerprint = self.fingerprint
        if self.config_init["fit"].get("ckpt_path") is None:
            for name, path in (self._get(self.config, "init_from") or {}).items():
                self.model.init_part(name, Checkpoint(path))
        if leaves_files(self.trainer):
            self._enter_folder()
            open_loggers(self.trainer)

    def _enter_folder(self) -> None:
        """Claims the run's folder, and moves an earlier run in it away, unless that is resumed."""
        trainer = self.trainer
        if not trainer.is_global_zero:
            return
        folder = Path(run_folder(trainer))
        names = self._checkpoints
        claim_folder(folder, names)
        resumed = self.config_init["fit"].get("ckpt_path")
        if resumed is None or Path(resumed).absolute().parent != folder.absolute():
            OmniCLI.earlier = EarlierRun(folder, names)
            trainer.callbacks.append(OmniCLI.earlier)  # pyright: ignore[reportAttributeAccessIssue]

    def before_evaluation(self) -> None:
        """Resolves the checkpoint, and opens the loggers."""
        self._watch_ranks()
        self._resolve_checkpoint(str(self.subcommand))
        if self.trainer.is_global_zero and leaves_files(self.trainer):
            claim_folder(Path(run_folder(self.trainer)), self._checkpoints, evaluates=True)
        open_loggers(self.trainer)

    before_validate = before_test = before_predict = before_evaluation

    def _watch_ranks(self) -> None:
        """Ends all ranks if one fails, and refuses what would make them wait for each other forever."""
        trainer = self.trainer
        if trainer.num_devices * trainer.num_nodes == 1:
            return
        if trainer._val_check_time_interval is not None:  # pyright: ignore[reportAttributeAccessIssue]
            raise UserError(
                "trainer.val_check_interval is a duration, which each rank measures by its own clock: with several "
                "devices give a number of batches"
            )
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _MultiProcessingLauncher):
            return  # its processes get a copy of the trainer
        # Lightning broadcasts signals at every batch, which waits for the device; GracefulStop replaces that.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        OmniCLI.watch = watch = RankWatch(
            trainer.global_rank,
            trainer.num_devices * trainer.num_nodes,
            children=lambda: getattr(launcher, "procs", []),
            parent=trainer.local_rank > 0,
            last_words=lambda: [logger.finalize("failed") for logger in trainer.loggers],
        )
        trainer.callbacks.append(LambdaCallback(on_exception=lambda _, __, error: watch.expect(*_outcome(error))))  # pyright: ignore

    def _resolve_checkpoint(self, verb: str) -> None:
        """Turns `--ckpt_path best`, `last` and `auto` into paths of this run, and checks the file before training."""
        config = self.config_init[verb]
        path = config.get("ckpt_path")
        if path in ("best", "last"):
            path = str(Path(run_folder(self.trainer)) / f"{path}.ckpt")
        elif path == "auto":
            path = self._last_if_any(verb)
        config["ckpt_path"] = path
        if path is None:
            return
        checkpoint = Checkpoint(path)
        self.model.check_checkpoint(checkpoint)
        if verb == "fit" and "optimizer_states" not in checkpoint.content:
            part = next(iter(self.model.parts))
            raise UserError(
                f"{path} holds weights but no training state to resume: start a new run with --init_from.{part} {path}"
            )

    def _last_if_any(self, verb: str) -> str | None:
        """This run's `last.ckpt`; None if it has no checkpoint yet. Prints which."""
        if verb != "fit":
            raise UserError(f"--ckpt_path auto is only for fit: give best or last to {verb}")
        folder = Path(run_folder(self.trainer))
        last = folder / "last.ckpt"
        if last.exists():
            rank_zero_info(f"ckpt_path auto: resuming from {last}")
            return str(last)
        if others := sorted(path.name for path in folder.glob("*.ckpt")):
            raise UserError(
                f"--ckpt_path auto: {folder} holds {', '.join(others)} but no last.ckpt: give one of these as "
                "--ckpt_path, or leave --ckpt_path out to start from scratch",
                page="howto/run.md#stop-and-resume",
            )
        rank_zero_info(f"ckpt_path auto: {folder} holds no checkpoint: starting a new run")
        return None

    @property
    def fingerprint(self) -> str:
        """See `config_fingerprint`."""
        return config_fingerprint({key: self._get(self.config, key) for key in (*FINGERPRINTED, "trainer")})


def run(argv: list[str]) -> OmniCLI:
    """Runs a trainer verb.

    Raises:
        UserError: If the configuration is wrong.
        SystemExit: With 128 + the signal's number if a signal ended the run; on several ranks with the exit code of the
            rank that failed first, which has printed why.
    """
    argv = find_configs(argv)
    # LightningCLI warns if its arguments differ from sys.argv, and DDP starts the other ranks with sys.argv.
    before, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        cli = _run(argv[0])
        if OmniCLI.watch is not None:
            OmniCLI.watch.finish()
        return cli
    except BaseException as error:
        if OmniCLI.earlier is not None:
            OmniCLI.earlier.restore()
        if OmniCLI.watch is not None:
            raise SystemExit(OmniCLI.watch.fail(*_outcome(error))) from None
        if isinstance(error, Stopped):
            print(f"omni: {error}")
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        close_loggers()
        OmniCLI.watch = OmniCLI.earlier = None
        sys.argv = before


def _run(verb: str) -> OmniCLI:
    try:
        with parser_errors(verb):
            return OmniCLI()
    except MisconfigurationException as error:
        raise UserError(one_line(error)) from error
    except (RuntimeError, UserError) as error:
        if (meant := worker_error(error) or memory_error(error)) is None:
            raise
        raise meant from error
    except ValueError as error:
        # jsonargparse wraps errors of constructors like this; any other ValueError is a bug.
        if not str(error).startswith("Does not validate against any of the Union subtypes"):
            raise
        raise UserError(one_line(error)) from error


def _outcome(error: BaseException) -> tuple[str, int]:
    """What to print for an exception that ends a run, and the exit code."""
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, Stopped):
        return f"omni: {error}", error.exit_code
    if isinstance(error, UserError | MisconfigurationException):
        return f"omni: {error}", 2
    return "".join(traceback.format_exception(error)).rstrip(), 1
