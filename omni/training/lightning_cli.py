"""The trainer verbs: what OmniCLI adds to LightningCLI.

This is the only file that knows LightningCLI.
"""

import hashlib
import importlib
import logging
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jsonargparse import ArgumentError, Namespace
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_info

import omni.data.conversations.data
import omni.data.images.data
import omni.data.speech.data
import omni.data.talker.data
import omni.data.text.data
import omni.stages.audio
import omni.stages.codec
import omni.stages.omni
import omni.stages.talker
import omni.stages.thinker
import omni.stages.vision
import omni.stages.vocoder  # noqa: F401  importing a stage or a data module makes its bare class name known
from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.optim.precision import best_precision, check_precision
from omni.stages.stage import Stage
from omni.training.callbacks.checkpointing import AtomicCheckpointIO, StageCheckpoint, keep_earlier_run
from omni.training.callbacks.graceful_stop import Stopped
from omni.training.callbacks.progress import StepBar
from omni.training.rank_watch import RankWatch
from omni.training.shipped import CONFIGS, find_configs, without_base
from omni.training.trainer import run_folder

# What a user can do nothing about: Lightning's use of PyTorch, its advertisement, and a folder that is not empty
# because its own logger writes there.
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")

_TRAINED = ("model", "data", "init_from", "seed_everything")
# What else of the trainer decides what becomes of the weights.
_BUDGET = (
    *("max_steps", "max_epochs", "max_time", "accumulate_grad_batches", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)


class ConfigParser(LightningArgumentParser):
    """A parser of configurations, whose key `base` has been followed by `find_configs`."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """As in `ArgumentParser`, without the key `base`."""
        return super().parse_string(without_base(content), *args, **kwargs)


class OmniCLI(LightningCLI):
    """LightningCLI with `configs/base.yaml` under every configuration and parts of earlier stages by `init_from`."""

    watch: ClassVar[RankWatch | None] = None  # of this process, while it is one of several ranks

    def __init__(self, *, run: bool = True) -> None:
        base = CONFIGS / "base.yaml"
        if not base.is_file():
            raise UserError(f"{base} is missing: install omni again, or run it from its repository")
        options: dict[str, Any] = {"default_config_files": [str(base)]}
        parsers = dict.fromkeys(self.subcommands(), options) if run else options
        super().__init__(
            Stage,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs=parsers | {"exit_on_error": False},
            parser_class=ConfigParser,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The verb of the command line alone: the parsers of the other three take 0.15 s to build."""
        known = LightningCLI.subcommands()
        verb = sys.argv[1] if len(sys.argv) > 1 else ""
        return {verb: known[verb]} if verb in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--init_from`."""
        parser.add_argument(
            "--init_from",
            type=dict[str, str],
            default={},
            help="Part: checkpoint of an earlier stage to begin with. Not read when a run is resumed.",
        )

    def _dump_config(self) -> None:
        """Nothing: the dump, 0.1 s, is what `save_hyperparameters` would keep, and no stage calls that."""
        self.config_dump = {}

    def _parse_ckpt_path(self) -> None:
        """Keeps the user's configuration: Lightning would let a checkpoint's hyper-parameters override it."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Fills in the precision where it was left open, makes checkpoints atomic, and the progress bar cheap."""
        config = self._get(self.config_init, "trainer", default={})
        if config["enable_progress_bar"] is not False:
            # A refresh reads the loss, for which a GPU must be waited for.
            config["callbacks"] = [*(config["callbacks"] or []), StepBar(refresh_rate=10)]
        if config["precision"] is None:
            config["precision"] = best_precision(config["accelerator"])
        config["precision"] = check_precision(config["precision"])
        config["strategy"] = self._strategy(config)
        config["callbacks"] = self._checkpoints_chosen(config["callbacks"])
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError, RuntimeError, ImportError) as error:  # of an accelerator, devices, a plugin
            raise UserError(f"the trainer cannot be made: {' '.join(str(error).split())}") from error
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        self._let_parameters_be_unused(trainer)
        if isinstance(trainer.strategy, ModelParallelStrategy):
            validation = trainer.fit_loop.epoch_loop.val_loop
            for loop in (validation, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
                loop.inference_mode = False  # what is gathered in it could not be trained afterwards
        # `last` is written behind `best`, so that it knows what `best` has to be better than.
        trainer.callbacks.sort(key=lambda each: isinstance(each, StageCheckpoint) and each.monitor is None)  # pyright: ignore
        rank_zero_info(f"precision: {trainer.precision}")
        return trainer

    def _checkpoints_chosen(self, callbacks: Any) -> Any:
        """One StageCheckpoint for each file name, the last that was given; `monitor: stage` is what the stage declares.

        The metric is filled in in the configuration too, which the run keeps as `config.yaml`.
        """
        if not callbacks:
            return callbacks
        metric, mode = self.model.monitor
        for callback in self._get(self.config, "trainer")["callbacks"]:
            if (arguments := callback.get("init_args", {})).get("monitor") == "stage":
                arguments["monitor"], arguments["mode"] = metric, mode
        for number, callback in enumerate(callbacks):
            if isinstance(callback, StageCheckpoint) and callback.monitor == "stage":
                callbacks[number] = StageCheckpoint(str(callback.filename), monitor=metric, mode=mode)
        last = {each.filename: each for each in callbacks if isinstance(each, StageCheckpoint)}
        return [each for each in callbacks if not isinstance(each, StageCheckpoint) or last[each.filename] is each]

    def _strategy(self, config: Any) -> Any:
        """The strategy, which must be one that this stage can be trained by, on as many devices."""
        given, stage = config["strategy"], type(self.model).__name__
        name = given if isinstance(given, str) else type(given).__name__
        if name != "model_parallel":
            if not (name == "auto" or name.startswith("ddp") or isinstance(given, DDPStrategy | SingleDeviceStrategy)):
                raise UserError(f"trainer.strategy {name} is not supported: give auto, ddp or model_parallel (FSDP2)")
            return given
        if str(config["devices"]) == "1" and str(config["num_nodes"]) == "1":
            raise UserError("trainer.strategy model_parallel needs several devices: set trainer.devices, or give auto")
        if not self.model.sharded_parts:
            raise UserError(f"trainer.strategy model_parallel cannot shard the parts of {stage}: give ddp")
        if config["precision"] not in ("32-true", "bf16-mixed"):
            raise UserError(
                f"trainer.strategy model_parallel takes no trainer.precision {config['precision']}: give bf16-mixed or "
                "32-true"
            )
        if self.model.compiled:
            raise UserError("trainer.strategy model_parallel does not compile: set model.init_args.compile to false")
        from omni.training.sharding import TAKES_UNUSED, ShardedStrategy  # half a second, for those who shard

        if self.model.has_unused_parameters and not TAKES_UNUSED:
            raise UserError(
                f"trainer.strategy model_parallel cannot train {stage} with PyTorch {torch.__version__}, whose FSDP "
                "needs a gradient of every weight on every device: install PyTorch 2.13 or newer, or give ddp"
            )
        return ShardedStrategy()

    def _let_parameters_be_unused(self, trainer: Trainer) -> None:
        """Has DDP look for parameters without a gradient, for stages in which a batch may leave some out."""
        if not (isinstance(trainer.strategy, DDPStrategy) and self.model.has_unused_parameters):
            return
        options = trainer.strategy._ddp_kwargs
        if options.setdefault("find_unused_parameters", True) is False:
            raise UserError(
                f"trainer.strategy has find_unused_parameters false, but batches of {type(self.model).__name__} may "
                "leave parameters unused (no image, no recording): give ddp"
            )

    def before_fit(self) -> None:
        """Loads the parts of earlier stages, or finds the checkpoint to resume."""
        self._watch_ranks()
        self._resolve_checkpoint("fit")
        self.model.config_fingerprint = self.fingerprint
        if self.config_init["fit"].get("ckpt_path") is None:
            folder = Path(run_folder(self.trainer))  # on every rank: they agree on it
            if self.trainer.is_global_zero:
                keep_earlier_run(folder)
            for name, path in (self._get(self.config, "init_from") or {}).items():
                self.model.init_part(name, path)

    def before_validate(self) -> None:
        """Finds the checkpoint."""
        self._watch_ranks()
        self._resolve_checkpoint("validate")

    def before_test(self) -> None:
        """Finds the checkpoint."""
        self._watch_ranks()
        self._resolve_checkpoint("test")

    def before_predict(self) -> None:
        """Finds the checkpoint."""
        self._watch_ranks()
        self._resolve_checkpoint("predict")

    def _watch_ranks(self) -> None:
        """Sees to it that no rank waits for another for ever: for one that has failed, or whose clock is late."""
        trainer = self.trainer
        if trainer.num_devices * trainer.num_nodes == 1:
            return
        if trainer._val_check_time_interval is not None:  # pyright: ignore[reportAttributeAccessIssue]
            raise UserError(
                "trainer.val_check_interval is a duration, which each rank would measure by its own clock: with "
                "several devices give it as a number of batches"
            )
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _MultiProcessingLauncher):
            return  # its processes get a copy of the trainer, and no part of this one
        # Lightning asks rank 0 for a signal at every batch, and waits for the device to answer; GracefulStop does not.
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
        """Turns `--ckpt_path best`, `last` and `auto` into this run's files, and refuses a bad file before it runs."""
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
                f"{path} holds weights and no run that could go on: begin a new one with its parts by "
                f"--init_from.{part} {path}"
            )

    def _last_if_any(self, verb: str) -> str | None:
        """This run's `last.ckpt`; None where nothing of it is there yet. It is told which."""
        if verb != "fit":
            raise UserError(f"--ckpt_path auto is for fit, which can begin anew: give best or last to {verb}")
        folder = Path(run_folder(self.trainer))
        last = folder / "last.ckpt"
        if last.exists():
            rank_zero_info(f"ckpt_path auto: going on with {last}")
            return str(last)
        if left := sorted(path.name for path in folder.glob("*.ckpt")):
            raise UserError(
                f"--ckpt_path auto: {folder} holds {', '.join(left)} but no last.ckpt to go on with: give one of them "
                "as --ckpt_path, or none to begin anew"
            )
        rank_zero_info(f"ckpt_path auto: {folder} holds no checkpoint: a new run begins")
        return None

    @property
    def fingerprint(self) -> str:
        """See `config_fingerprint`."""
        return config_fingerprint({key: self._get(self.config, key) for key in (*_TRAINED, "trainer")})


def config_fingerprint(config: Mapping[str, Any]) -> str:
    """A hash, in hex, of what is trained on what, and for how long: wherever the repository lies, on whatever device.

    Arguments that a stage, a data module or a part names in `no_effect`, such as `num_workers`, are not in it.

    Args:
        config: `model`, `data`, `init_from`, `seed_everything` and `trainer`.
    """
    trained = [config[key] for key in _TRAINED]
    return hashlib.sha256(repr(_plain([*trained, [config["trainer"][key] for key in _BUDGET]])).encode()).hexdigest()


def _plain(config: Any) -> Any:
    """A configuration without the files that it was read from, and without what has no effect."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, Mapping):
        if "class_path" in config:
            arguments = config.get("init_args") or {}
            arguments = vars(arguments) if isinstance(arguments, Namespace) else arguments
            left_out = _without_effect(config["class_path"], arguments)
            config = {**config, "init_args": {key: each for key, each in arguments.items() if key not in left_out}}
        return {key: _plain(value) for key, value in sorted(config.items()) if key != "__path__"}
    return [_plain(value) for value in config] if isinstance(config, list | tuple) else config


def _without_effect(class_path: str, arguments: Mapping[str, Any]) -> set[str]:
    """The arguments of a class that change nothing that is trained."""
    module, _, name = class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    names = {each for base in kind.__mro__ for each in vars(base).get("no_effect", ())}
    streams = getattr(kind, "only_of_streams", frozenset())
    return names - streams if arguments.get("streaming") else names | streams


def run(argv: list[str]) -> OmniCLI:
    """Runs a trainer verb.

    Raises:
        UserError: If the configuration is wrong; the message is one line.
        SystemExit: With 128 + the signal's number, if a signal ended the run; on several ranks, with the exit code of
            the rank that failed first, which has printed why.
    """
    argv = find_configs(argv)
    # LightningCLI warns of arguments that are not the command line's, and DDP starts its other ranks with them.
    before, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        cli = _run(argv)
        if OmniCLI.watch is not None:
            OmniCLI.watch.finish()
        return cli
    except BaseException as error:
        if OmniCLI.watch is not None:
            raise SystemExit(OmniCLI.watch.fail(*_outcome(error))) from None
        if isinstance(error, Stopped):
            print(f"omni: {error}")
            raise SystemExit(error.exit_code) from None
        raise
    finally:
        OmniCLI.watch = None
        sys.argv = before


def _run(argv: list[str]) -> OmniCLI:
    from omni.errors import one_line

    try:
        return OmniCLI()
    except ArgumentError as error:
        raise UserError(f"{one_line(error)} (`omni {argv[0]} --help` tells what there is)") from error
    except MisconfigurationException as error:
        raise UserError(one_line(error)) from error
    except ValueError as error:
        # So jsonargparse wraps what a constructor raised; any other ValueError is a fault of ours.
        if not str(error).startswith("Does not validate against any of the Union subtypes"):
            raise
        raise UserError(one_line(error)) from error


def _outcome(error: BaseException) -> tuple[str, int]:
    """What is printed where a run ends by an exception, and the exit code."""
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else 1
    if isinstance(error, Stopped):
        return f"omni: {error}", error.exit_code
    if isinstance(error, UserError | MisconfigurationException):
        return f"omni: {error}", 2
    return "".join(traceback.format_exception(error)).rstrip(), 1
