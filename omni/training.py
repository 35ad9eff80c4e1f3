"""The trainer verbs: what OmniCLI adds to LightningCLI, and the callbacks of every run.

This is the only file that knows LightningCLI.
"""

import hashlib
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import omni.data.text
import omni.stages.thinker  # noqa: F401  importing a stage or a data module makes its bare class name known
from omni import checkpoint as checkpoints
from omni.errors import UserError
from omni.stages.stage import Stage

# What a user can do nothing about: Lightning's use of PyTorch, its advertisement, and a folder that is not empty
# because its own logger writes there.
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")

CONFIGS = Path(__file__).parents[1] / "configs"
TRAINER_VERBS = ("fit", "validate", "test", "predict")


class OmniCLI(LightningCLI):
    """LightningCLI with `configs/base.yaml` under every configuration and parts of earlier stages by `init_from`."""

    def __init__(self, *, run: bool = True) -> None:
        base = CONFIGS / "base.yaml"
        if not base.is_file():
            raise UserError(f"{base} is missing: run omni from its repository, installed with `pip install -e .`")
        options: dict[str, Any] = {"default_config_files": [str(base)]}
        parsers = {verb: options for verb in TRAINER_VERBS} if run else options
        super().__init__(
            Stage,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={**parsers, "exit_on_error": False},
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--init_from`."""
        parser.add_argument(
            "--init_from",
            type=dict[str, str],
            default={},
            help="Part: checkpoint of an earlier stage to begin with. Not read when a run is resumed.",
        )

    def _parse_ckpt_path(self) -> None:
        """Keeps the user's configuration: Lightning would let a checkpoint's hyper-parameters override it."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Fills in the precision where it was left open, makes checkpoints atomic, and the progress bar cheap."""
        config = self._get(self.config_init, "trainer", default={})
        if config["enable_progress_bar"] is not False:
            # A refresh reads the loss, for which a GPU must be waited for.
            config["callbacks"] = [*(config["callbacks"] or []), TQDMProgressBar(refresh_rate=10)]
        if config["precision"] is None:
            config["precision"] = best_precision(config["accelerator"])
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        rank_zero_info(f"precision: {trainer.precision}")
        return trainer

    def before_fit(self) -> None:
        """Loads the parts of earlier stages, or finds the checkpoint to resume."""
        self._resolve_checkpoint("fit")
        self.model.config_fingerprint = self._fingerprint()
        if self.config_init["fit"].get("ckpt_path") is None:
            if self.trainer.is_global_zero:
                keep_earlier_run(Path(run_folder(self.trainer)))
            for name, path in (self._get(self.config, "init_from") or {}).items():
                self.model.init_part(name, path)

    def before_validate(self) -> None:
        """Finds the checkpoint."""
        self._resolve_checkpoint("validate")

    def before_test(self) -> None:
        """Finds the checkpoint."""
        self._resolve_checkpoint("test")

    def before_predict(self) -> None:
        """Finds the checkpoint."""
        self._resolve_checkpoint("predict")

    def _resolve_checkpoint(self, verb: str) -> None:
        """Turns `--ckpt_path best` and `last` into this run's files, and refuses a bad file before anything runs."""
        config = self.config_init[verb]
        path = config.get("ckpt_path")
        if path is None:
            return
        if path in ("best", "last"):
            path = str(Path(run_folder(self.trainer)) / f"{path}.ckpt")
        self.model.check_checkpoint(checkpoints.read(path), path)
        config["ckpt_path"] = path

    def _fingerprint(self) -> str:
        """A hash of what is trained on what: the configuration of model, data, seed, and parts loaded."""
        config = self._get(self.config, "model"), self._get(self.config, "data")
        return hashlib.sha256(repr((config, self._get(self.config, "init_from"))).encode()).hexdigest()


def best_precision(accelerator: str) -> str:
    """`bf16-mixed` where the device multiplies bf16 in hardware, `32-true` elsewhere (5 × faster there, measured).

    Args:
        accelerator: The trainer's; `auto` is a GPU where there is one.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def run_folder(trainer: Trainer) -> str:
    """Where a run writes: the logger's folder, or the trainer's without a logger."""
    return trainer.log_dir or trainer.default_root_dir


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and puts the new one in its place in one step.

    A kill or a full disk at any moment leaves the old one as it was. (Lightning's own transaction goes through the
    system's temporary folder, from which a move to another disk is a copy that can be cut.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves, or leaves everything as it was and raises."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # PyTorch's writer reports a full disk as RuntimeError
            raise UserError(
                f"checkpoint {path} could not be written ({error}); the one before it is untouched"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


class StageCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that writes into the run's folder, beside its logs.

    Args:
        filename: Name without suffix: `best` or `last`.
        monitor: What decides the best; None keeps the newest.
        mode: Whether lower (`min`) or higher (`max`) is better.
        every_n_train_steps: Optimizer steps between checkpoints; 0 for after each validation.
    """

    def __init__(
        self, filename: str, *, monitor: str | None = None, mode: str = "min", every_n_train_steps: int = 0
    ) -> None:
        super().__init__(
            filename=filename,
            monitor=monitor,
            mode=mode,
            every_n_train_steps=every_n_train_steps or None,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the run's folder."""
        self.dirpath = str(run_folder(trainer))
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the end of training too, where it is not a multiple of `every_n_train_steps`."""
        super().on_train_end(trainer, pl_module)
        if self.monitor is None and self._last_global_step_saved != trainer.global_step:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))


class WritePredictions(BasePredictionWriter):
    """Writes what `omni predict` gives, a list with one entry a batch, to `predictions.pt` in the run's folder."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Writes."""
        path = Path(run_folder(trainer)) / "predictions.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(predictions, path)
        rank_zero_info(f"predictions: {path}")


def keep_earlier_run(folder: Path) -> None:
    """Moves the files of the run in `folder`, if there is one, to `earlier/1`, `earlier/2`, ... in it.

    So a run that starts anew neither loses the checkpoints of the one before nor mixes their curves.
    """
    if not any((folder / f"{name}.ckpt").exists() for name in ("best", "last")):
        return
    earlier = folder / "earlier"
    target = earlier / str(1 + max((int(p.name) for p in earlier.glob("*") if p.name.isdigit()), default=0))
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file():
            path.rename(target / path.name)
    rank_zero_info(f"{folder} held an earlier run: moved to {target}. To resume a run: --ckpt_path last")


class Stopped(Exception):
    """Training was asked to stop, and has saved.

    Args:
        signum: The signal that asked.
        path: The checkpoint.
        step: Optimizer steps made.
    """

    def __init__(self, signum: int, path: Path, step: int) -> None:
        super().__init__(f"stopped at step {step} by {signal.Signals(signum).name}; go on with --ckpt_path {path}")
        self.exit_code = 128 + signum


class GracefulStop(Callback):
    """SIGINT (Ctrl-C) and SIGTERM end the run after the current optimizer step, with `last.ckpt` saved.

    A second signal ends it at once.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._remember)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum
        self._give_back()
        rank_zero_info("\nstopping after this step; again to stop at once")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Saves and stops, once gradients are no longer being accumulated."""
        if self._signum is None or trainer.fit_loop._should_accumulate():
            return
        path = Path(run_folder(trainer)) / "last.ckpt"
        trainer.save_checkpoint(path)
        raise Stopped(self._signum, path, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}


class Throughput(Callback):
    """Logs `train/tokens_per_second`, `train/mfu` and, on a GPU, `train/peak_memory_gib`.

    Time spent in validation and checkpoints does not count. MFU is the share of the device's peak that the model's
    own operations make use of (PaLM, arXiv:2204.02311); for that the stage must tell its `flops_per_token`.

    Args:
        peak_tflops: The device's peak at the training precision; measured with a large matrix product if not given.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self._tokens, self._seconds, self._started = 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the peak."""
        if self.peak_tflops is None and hasattr(pl_module, "flops_per_token"):
            self.peak_tflops = measure_peak_tflops(pl_module.device, trainer.precision)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts the clock."""
        self._started = self._started or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts, and logs when Lightning logs."""
        self._tokens += batch.tokens.numel() if hasattr(batch, "tokens") else 0
        if (
            not self._tokens
            or (trainer.global_step % trainer.log_every_n_steps)
            or trainer.fit_loop._should_accumulate()
        ):
            return
        # Kernels may still run: what was launched since the last log stands for what was finished since then.
        self._seconds += time.perf_counter() - self._started
        rate = self._tokens / self._seconds
        metrics = {"train/tokens_per_second": rate}
        if self.peak_tflops:
            metrics["train/mfu"] = rate * pl_module.flops_per_token / (self.peak_tflops * 1e12)
        if pl_module.device.type == "cuda":
            metrics["train/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        pl_module.log_dict(metrics)
        self._tokens, self._seconds, self._started = 0, 0.0, 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        if self._started:
            self._seconds += time.perf_counter() - self._started
            self._started = 0.0


def measure_peak_tflops(device: torch.device, precision: Any, *, size: int = 1024, seconds: float = 0.3) -> float:
    """TFLOP/s of square matrix products on a device at a training precision."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(precision), torch.float32)
    size = size * 8 if device.type == "cuda" else size
    a = torch.randn(size, size, device=device).to(dtype)
    a @ a
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - start) / 1e12


def run(argv: list[str]) -> OmniCLI:
    """Runs a trainer verb.

    Raises:
        UserError: If the configuration is wrong; the message is one line.
        SystemExit: With 128 + the signal's number, if a signal ended the run after it saved.
    """
    from jsonargparse import ArgumentError

    from omni.cli import one_line

    before, sys.argv = sys.argv, ["omni", *argv]  # LightningCLI warns of arguments that are not the command line's
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
    except Stopped as stop:
        print(f"omni: {stop}")
        raise SystemExit(stop.exit_code) from None
    finally:
        sys.argv = before
