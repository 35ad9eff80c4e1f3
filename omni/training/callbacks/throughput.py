"""Throughput, MFU and memory of training."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from omni.optim.precision import measure_peak_tflops
from omni.training.trainer import logs_now


class Throughput(Callback):
    """Logs `train/tokens_per_second` (or `audio_seconds`, or `images`), `train/mfu` and, on a GPU, memory.

    Time spent in validation and checkpoints does not count. MFU is the fraction of the device's peak that the model's
    own operations use (PaLM, arXiv:2204.02311); it needs the stage's `flops_per_work`: operations per token, second of
    audio or image. (Lightning's `ThroughputMonitor` knows the peaks of some GPUs and of no CPU.)

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
        """Counts the batch, and logs where Lightning logs."""
        work, unit = batch.work
        self._work += work
        if not logs_now(trainer):
            return
        # Kernels may still run: the work launched since the last log stands for the work finished since then.
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
