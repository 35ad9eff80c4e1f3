"""What every run does beside training: checkpoints, a clean stop, throughput, progress, cliffs, predictions."""

import json
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from omni.checkpoints.safetensors_folder import is_folder, read_folder
from omni.curves.loss_drops import LossDropDetector
from omni.distributed import all_agree
from omni.errors import UserError
from omni.optim.precision import measure_peak_tflops
from omni.training.predictions import Predictions, merge_shares, save_share


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

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a `.ckpt` file, or a folder as `omni hub pull` writes it, onto the CPU.

        Lightning copies weights and optimizer states to each rank's device afterwards.
        """
        if is_folder(Path(path)):
            return read_folder(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


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
            save_on_train_epoch_end=False,  # Lightning regroups accumulated batches when it resumes from there
            auto_insert_metric_name=False,
        )
        self._due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the run's folder."""
        self.dirpath = str(run_folder(trainer))
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves; behind a validation that is about to come, so that whoever resumes does not miss it."""
        self._due = self.monitor is None and _validates_now(trainer)
        if not self._due:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what was put off."""
        if self._due:
            self._due = False
            super().on_train_batch_end(trainer, pl_module, {}, None, 0)
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the end of training too, where it is not a multiple of `every_n_train_steps`."""
        super().on_train_end(trainer, pl_module)
        if self.monitor is None and self._last_global_step_saved != trainer.global_step:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))


class WritePredictions(BasePredictionWriter):
    """Writes what `omni predict` gives, a list with one entry a batch, to `predictions.pt` in the run's folder.

    Rows are in the order of the data, each once, however many ranks there are.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")
        self._rows: list[list[int]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the rows of an earlier prediction."""
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remembers which rows a batch is of."""
        self._rows.append(batch.rows.tolist())

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Writes; rank 0 for all."""
        path = Path(run_folder(trainer)) / "predictions.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if trainer.world_size > 1:
            save_share(Predictions(self._rows, predictions), path, trainer.global_rank)
            trainer.strategy.barrier("predictions")
        if trainer.is_global_zero:
            merged = predictions if trainer.world_size == 1 else merge_shares(path, trainer.world_size)
            torch.save(merged, path)
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
    """A signal has ended the run.

    Args:
        signum: The signal.
        step: Optimizer steps made before the run was saved, if it was.
        path: The checkpoint.
    """

    def __init__(self, signum: int, step: int | None = None, path: Path | None = None) -> None:
        name = signal.Signals(signum).name
        if path is None:
            super().__init__(f"stopped by {name}")
        else:
            super().__init__(f"stopped at step {step} by {name}; go on with --ckpt_path {path}")
        self.exit_code = 128 + signum


class GracefulStop(Callback):
    """SIGINT (Ctrl-C) and SIGTERM end training after the current optimizer step, with `last.ckpt` saved.

    A second signal ends it at once, as the first does where nothing is trained. Several ranks stop together, after a
    step that is logged, whichever got the signal.
    """

    def __init__(self) -> None:
        self._signum: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals, until Lightning gives them back at the end."""
        self._signum = None
        _handle(self._remember)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There is no step to wait for any more."""
        _handle(_stop_now)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over the signals, unless training has: Lightning would not stop."""
        if trainer.state.fn != "fit":
            _handle(_stop_now)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum
        _handle(_stop_now)
        rank_zero_info("\nstopping after this step; again to stop at once")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and stops, once gradients are no longer being accumulated and no validation is about to come."""
        if trainer.fit_loop._should_accumulate() or _validates_now(trainer):
            return
        stop = self._signum is not None
        if trainer.world_size > 1:
            # One rank may hear of it a step before another. They agree where Lightning logs, and waits anyway.
            if trainer.global_step % _log_interval(trainer):
                return
            stop = not all_agree(not stop)
        if not stop:
            return
        path = Path(run_folder(trainer)) / "last.ckpt"
        trainer.save_checkpoint(path)
        raise Stopped(self._signum or signal.SIGTERM, trainer.global_step, path)


def _handle(handler: Any) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handler)


def _stop_now(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


class Progress(Callback):
    """Writes to `progress.json`, in the run's folder, how far training is and what was measured last.

    It holds `step`, `steps` (where training ends; null if that is not known), `first_step` (where this process began),
    `seconds` (since then), `finished` and `metrics`. `omni train` shows them.

    Args:
        seconds: Between two writes.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self._folder = ""
        self._steps: float = 0
        self._began, self._written, self._first = 0.0, 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder: the ranks agree on it, so all of them have to ask for it."""
        self._folder = run_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._began, self._first = time.monotonic(), trainer.global_step
        self._steps = trainer.estimated_stepping_batches
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes where Lightning reads metrics anyway, so that a GPU is never waited for."""
        if trainer.global_step % _log_interval(trainer) == 0:
            self._write(trainer, at_least=self.seconds)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what was measured."""
        if trainer.state.fn == "fit":
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes that it is done."""
        self._write(trainer, finished=True)

    def _write(self, trainer: Trainer, *, finished: bool = False, at_least: float = 0.0) -> None:
        metrics = trainer.callback_metrics  # on every rank and before the clock is read: it may reduce over ranks
        if not trainer.is_global_zero or time.monotonic() - self._written < at_least:
            return
        self._written = time.monotonic()
        content = {
            "step": trainer.global_step,
            "steps": int(self._steps) if self._steps < float("inf") else None,
            "first_step": self._first,
            "seconds": round(self._written - self._began, 1),
            "finished": finished,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        path = Path(self._folder) / "progress.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(path)


class Throughput(Callback):
    """Logs `train/tokens_per_second` (or `audio_seconds`, or `images`), `train/mfu` and, on a GPU, memory.

    Time spent in validation and checkpoints does not count. MFU is the share of the device's peak that the model's
    own operations make use of (PaLM, arXiv:2204.02311); for that the stage must tell its `flops_per_work`, those of a
    token, of a second of audio or of an image.

    Args:
        peak_tflops: The device's peak at the training precision; measured with a large matrix product if not given.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self._work, self._seconds, self._started = 0.0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the peak."""
        if self.peak_tflops is None and hasattr(pl_module, "flops_per_work"):
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
        work, unit = batch.work
        self._work += work
        if (trainer.global_step % _log_interval(trainer)) or trainer.fit_loop._should_accumulate():
            return
        # Kernels may still run: what was launched since the last log stands for what was finished since then.
        self._seconds += time.perf_counter() - self._started
        rate = self._work / self._seconds
        metrics = {f"train/{unit}_per_second": rate}
        if self.peak_tflops:
            flops: Any = pl_module.flops_per_work
            metrics["train/mfu"] = rate * flops / (self.peak_tflops * 1e12)
        if pl_module.device.type == "cuda":
            metrics["train/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        pl_module.log_dict(metrics)
        self._work, self._seconds, self._started = 0.0, 0.0, 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        if self._started:
            self._seconds += time.perf_counter() - self._started
            self._started = 0.0


class StepBar(TQDMProgressBar):
    """Lightning's progress bar, whose end is right where a step takes several batches."""

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch that are still trained on: Lightning takes the steps that are left for them."""
        trainer = self.trainer
        left = trainer.max_steps - trainer.global_step if trainer.max_steps > 0 else float("inf")
        return min(trainer.num_training_batches, left * trainer.accumulate_grad_batches)


class LossDropNote(Callback):
    """Notes it where the training loss falls off a cliff: in the output, and as text in TensorBoard.

    Hundreds of steps of gibberish and then sudden learning are normal where a model has to find out how two things
    belong together, such as sound and text. What counts as a cliff: see `omni.curves.loss_drops.LossDropDetector`.

    Args:
        plateau: Logged values that a plateau lasts at least.
    """

    def __init__(self, plateau: int = 20) -> None:
        if plateau < 4:
            raise UserError(f"a plateau of {plateau} values is none: give LossDropNote 4 or more")
        self._watch = LossDropDetector(plateau)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the loss when Lightning logs it, and reads it from the device anyway."""
        if (trainer.global_step % _log_interval(trainer)) or trainer.fit_loop._should_accumulate():
            return
        cliff = self._watch.add(trainer.global_step - 1, float(trainer.callback_metrics["train/loss"]))
        if cliff is None:
            return
        rank_zero_info(f"\ntrain/loss {cliff}")
        writer = getattr(trainer.logger, "experiment", None)
        if hasattr(writer, "add_text"):
            writer.add_text("train/cliff", f"train/loss {cliff}", trainer.global_step - 1)  # pyright: ignore

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return self._watch.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on."""
        self._watch.load_state(state_dict)


def _validates_now(trainer: Trainer) -> bool:
    """Whether validation comes behind this batch."""
    fetcher: Any = trainer.fit_loop._data_fetcher
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def _log_interval(trainer: Trainer) -> int:
    return int(getattr(trainer, "log_every_n_steps"))  # noqa: B009  set by a connector, which pyright does not see
