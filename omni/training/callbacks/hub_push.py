"""Checkpoints pushed to the Hugging Face Hub while training continues."""

import threading
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from omni.checkpoints.hub import Published, local_folder, publish
from omni.errors import UserError
from omni.training.trainer import leaves_files, run_folder


class HubPush(Callback):
    """Pushes a checkpoint of the run to the Hub every N steps and at the end, as `omni hub push` does.

    A thread converts and uploads the file, and training does not wait for it; only the end of the run does. A push that
    is due while the previous one still runs is left to the next. A failed push is printed and does not end the run.

    Args:
        repository: OWNER/NAME on the Hub, created if needed; or a local folder: ./NAME, /NAME or ~/NAME.
        every_n_train_steps: Optimizer steps between pushes.
        checkpoint: `best` or `last`: the file in the run's folder, as it is when the push starts.
        public: Create a public repository, not a private one.
        license: The Hub's name of the license of the weights: mit, apache-2.0, cc-by-4.0, ...
        revision: Branch of the repository.
    """

    def __init__(
        self,
        repository: str,
        *,
        every_n_train_steps: int = 1000,
        checkpoint: Literal["best", "last"] = "best",
        public: bool = False,
        license: str | None = None,
        revision: str | None = None,
    ) -> None:
        if every_n_train_steps < 1:
            raise UserError(f"HubPush: every_n_train_steps is {every_n_train_steps}: give 1 or more")
        local_folder(repository)
        self.repository, self.every_n_train_steps, self.checkpoint = repository, every_n_train_steps, checkpoint
        self._options: dict[str, Any] = {"public": public, "license": license, "revision": revision}
        self._due = 0  # the last step after which a push was due: with accumulation several batches follow it
        self._thread: threading.Thread | None = None
        self._outcome: Published | Exception | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts a push if one is due after the last step, and prints the outcome of the previous one.

        The checkpoints of that step are written by now.
        """
        if not trainer.is_global_zero:
            return
        if self._thread is not None and not self._thread.is_alive():
            self._report()
        step = trainer.global_step
        if step and step % self.every_n_train_steps == 0 and step != self._due and self._thread is None:
            self._due = step
            self._start(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pushes the final checkpoint, and waits for it."""
        if not trainer.is_global_zero:
            return
        self._report()
        self._start(trainer)
        self._report()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Waits for the push that runs, so that a stopped run leaves it whole."""
        self._report()

    def _start(self, trainer: Trainer) -> None:
        path = Path(run_folder(trainer)) / f"{self.checkpoint}.ckpt"
        if path.is_file() and leaves_files(trainer):  # the first `best` follows the first validation
            self._thread = threading.Thread(target=self._push, args=(path,), daemon=True)
            self._thread.start()

    def _push(self, path: Path) -> None:
        try:
            self._outcome = publish(path, self.repository, **self._options)
        except Exception as error:
            self._outcome = error

    def _report(self) -> None:
        """Waits for the push, if one runs, and prints its outcome."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, outcome = None, self._outcome
        if isinstance(outcome, Published):
            left_out = "".join(f", without {part}, a local folder" for part in outcome.local_parts)
            rank_zero_info(f"{self.checkpoint}.ckpt is in {outcome.place} ({outcome.size / 2**20:.1f} MiB){left_out}")
        else:
            rank_zero_info(f"HubPush: {self.checkpoint}.ckpt was not pushed: {outcome}")
