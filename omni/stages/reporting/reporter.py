"""What all reporters share: they keep some examples of a validation and write them to the loggers."""

from abc import ABC, abstractmethod
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device

from omni.stages.reporting.media import MediaWriter, media_writer


class Reporter(Callback, ABC):
    """Writes examples of each validation to the loggers that take media; see `omni.stages.reporting.media`.

    A stage returns its reporters from `configure_callbacks`. Training and metrics do not depend on them.

    Args:
        shown: Number of examples; 0 for none.
    """

    def __init__(self, shown: int) -> None:
        self.shown = shown
        self.examples: list[Any] = []

    @abstractmethod
    def example(self, stage: Any, outputs: Any, batch: Any) -> Any:
        """The example of a batch: tensors in tuples, lists and dictionaries, which are moved to the CPU; or None.

        Args:
            stage: The stage.
            outputs: What its `evaluate` returned.
            batch: The batch.
        """

    @abstractmethod
    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        """Writes `examples`.

        Args:
            writer: Writes to all loggers.
            stage: The stage, in eval mode.
            split: `val` or `test`, the first part of every tag.
        """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.examples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps one example of each of the first batches, so that short and long ones are shown."""
        if len(self.examples) < self.shown and (example := self.example(pl_module, outputs, batch)) is not None:
            self.examples.append(move_data_to_device(example, "cpu"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, pl_module, "val")

    def report(self, trainer: Trainer, stage: Any, split: str) -> None:
        """Writes on rank 0, if a logger takes media."""
        writer = media_writer(trainer)
        if writer is not None:
            self.write(writer, stage, split)
