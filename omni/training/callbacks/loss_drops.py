"""Sudden drops of the training loss after a plateau, as notes in the output and in the loggers."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from omni.curves.loss_drops import LossDropDetector
from omni.errors import UserError
from omni.stages.reporting.media import media_writer
from omni.training.trainer import logs_now


class LossDropNote(Callback):
    """Prints a note where the training loss drops suddenly after a plateau, and writes it as text to the loggers.

    Hundreds of steps without progress and then sudden learning are normal where a model has to align two modalities,
    such as speech and text. See `omni.curves.loss_drops.LossDropDetector` for the criterion.

    Args:
        plateau: Least length of a plateau, in logged values (4 or more).
    """

    def __init__(self, plateau: int = 20) -> None:
        if plateau < 4:
            raise UserError(f"LossDropNote: plateau is {plateau}: give 4 or more")
        self._detector = LossDropDetector(plateau)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the loss where Lightning logs it, and waits for the device anyway."""
        if not logs_now(trainer):
            return
        step = trainer.global_step - 1
        drop = self._detector.add(step, float(trainer.callback_metrics["train/loss"]))
        if drop is None:
            return
        rank_zero_info(f"\ntrain/loss {drop}")
        if (writer := media_writer(trainer)) is not None:
            writer.add_text("train/loss_drop", f"train/loss {drop}", step)

    def state_dict(self) -> dict[str, Any]:
        return {"points": self._detector.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._detector.points = state_dict["points"]
