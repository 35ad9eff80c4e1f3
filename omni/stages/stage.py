"""The base class of all stages: freezing, the training step, evaluation, and the optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from omni.errors import UserError
from omni.layers.compilation import compile_blocks, trained_blocks
from omni.losses import Loss
from omni.metrics import MeanOfItems
from omni.optim.optimizers import OptimizerName, Schedule, adamw, lr_factor, muon, scale_gradients
from omni.optim.precision import check_precision
from omni.stages.checkpointing import CheckpointedModule
from omni.stages.compilation import Compile, pays
from omni.stages.finite_loss import FiniteLossCheck

# The backward pass starts from losses divided by this, because the number of scored items is known only after the last
# micro-batch; then the gradients are scaled. A power of two, so that nothing is rounded.
UNIT = 1024
UNLOGGED = 50  # steps between two checks of the loss where nothing is logged


class Stage(CheckpointedModule, ABC):
    """Parts of the model, their loss, their metrics, and how they are trained.

    A subclass keeps its parts as attributes and defines `loss` and `example_batch`. It then trains, resumes, logs
    `train/loss` and `val/loss`, and writes checkpoints; `evaluate` and `compute_metrics` add metrics, and
    `configure_callbacks` adds reporters (see `omni.stages.reporting`).

    Args:
        optimizer: `adamw`, or `muon` for the matrices inside blocks and AdamW for the rest.
        lr: Peak learning rate.
        betas: AdamW's decay rates.
        weight_decay: Decay of matrices.
        schedule: After the warm-up: `cosine`, `linear` or `constant`.
        warmup_steps: Optimizer steps of linear warm-up.
        final_lr: Learning rate at the end, as a share of the peak.
        frozen: Names of parts that are not trained; they stay in eval mode.
        compile: Whether the blocks of trained Transformers are compiled by `torch.compile`, which takes up to a minute
            and makes steps faster. It needs a C++ compiler, on a GPU a C compiler. `auto`: where there is one, in runs
            that are long enough for it. Results are equal up to rounding.
    """

    no_effect: ClassVar[frozenset[str]] = frozenset({"compile"})
    """Constructor arguments that change neither the weights nor the choice of the best. Subclasses add theirs."""

    def __init__(
        self,
        *,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
        final_lr: float = 0.1,
        frozen: Sequence[str] = (),
        compile: Compile = "auto",
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise UserError(f"model.init_args.lr must be over 0, not {lr}")
        if warmup_steps < 0:
            raise UserError(f"model.init_args.warmup_steps must be 0 or more, not {warmup_steps}")
        self.optimizer_name: OptimizerName = optimizer
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay  # `lr` is what Lightning's Tuner sets
        self.lr_schedule: Schedule = schedule
        self.warmup_steps, self.final_lr = warmup_steps, final_lr
        self.frozen, self.compiled = tuple(frozen), compile
        self.val_loss = MeanOfItems()
        self._num_items: Tensor | None = None  # scored since the last optimizer step
        self._finite = FiniteLossCheck()

    # ------------------------------------------------------------------ parts

    monitor: tuple[str, str] = ("val/loss", "min")  # what best.ckpt is chosen by, and whether the least or most is best
    has_unused_parameters = False  # whether a batch may leave trained parameters without a gradient
    sharded_parts: tuple[str, ...] = ()  # those whose blocks every batch runs; with none, `model_parallel` is refused

    def configure_data(self, data: Any) -> None:
        """Gives a data module what its batches depend on, such as how many tokens an image takes."""

    def setup(self, stage: str) -> None:
        """Freezes parts, compiles, and refuses parts that were trained with another tokenizer."""
        check_precision(self.trainer.precision)
        for name in self.frozen:
            self.part(name).requires_grad_(False)
            # Lightning warns of parts in eval mode when fitting starts; `on_train_start` puts them in eval mode.
            self.part(name).train(self.training)
        if stage == "fit":
            for part in self.parts.values():
                part.keep_weights({name for name, parameter in part.named_parameters() if parameter.requires_grad})
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError("model.init_args.frozen leaves nothing to train: remove a part from it")
        for name, lineage in self.ancestors.items():
            if self.reads_tokens(name) and lineage["tokenizer"] != self.tokenizer.fingerprint:
                raise UserError(
                    f"init_from.{name} was trained with another tokenizer than the data's: give that checkpoint as "
                    "data.init_args.tokenizer (of text) or data.init_args.units (of speech)",
                    page="explanation/lineage.md",
                )

    def check_vocabulary(self, part: str) -> None:
        """Refuses a part with fewer embeddings than the data has tokens.

        Raises:
            UserError: Naming the part.
        """
        reader: Any = self.part(part)
        needed = self.tokenizer.vocab_size
        if reader.vocab_size < needed:
            raise UserError(
                f"the tokenizer has {needed} tokens and the {type(reader).__name__} {reader.vocab_size}: "
                f"set model.init_args.{part}.init_args.vocab_size to {needed} or more"
            )

    def train(self, mode: bool = True) -> "Stage":
        """Sets the mode of all parts but the frozen ones, which stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        return self

    # ------------------------------------------------------------------ loss

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """The loss of a batch as a sum, the number of items it sums over, and terms to log."""

    @abstractmethod
    def example_batch(self, data: Mapping[str, Any]) -> Any:
        """A batch of the largest shapes that a data module with the arguments `data` makes.

        `omni plan` measures the memory of its loss with fake tensors, which have no values: `loss` must not read any
        on the host.
        """

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One micro-batch. The gradient of the accumulated batch is that of the mean over all its items."""
        loss = self.loss(batch)
        self._finite.add(
            loss.total, batch, step=self.global_step, batch_idx=batch_idx, world_size=self.trainer.world_size
        )
        count = loss.num_items.detach()
        self._num_items = count if self._num_items is None else self._num_items + count
        self.log("train/loss", loss.mean.detach(), prog_bar=True)
        self.log_dict({f"train/loss/{name}": term.detach() for name, term in loss.terms.items()})
        self.log_dict({f"train/{name}": value.detach() for name, value in loss.stats.items()})
        return loss.total / UNIT

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Scales the gradients of `total / UNIT`, averaged over micro-batches and ranks, to those of the mean."""
        assert self._num_items is not None
        trainer: Any = self.trainer
        batches = trainer.accumulate_grad_batches
        num_items = self._finite.sum_over_ranks(
            self._num_items.float(), step=self.global_step, batches_per_step=batches
        )
        scale_gradients(self.parameters(), UNIT * batches * trainer.world_size / num_items.clamp(min=1))
        self._num_items = None
        if (self.global_step + 1) % (trainer.log_every_n_steps or UNLOGGED) == 0:  # the step is logged
            self._finite.raise_if_not_finite(batches_per_step=batches)
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            norm: Any = nn.utils.get_total_norm(gradients)  # before clipping
            self.log("train/grad_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `CheckpointedModule`; refuses to save once a loss was not finite."""
        self._finite.raise_if_not_finite(batches_per_step=self.trainer.accumulate_grad_batches)
        super().on_save_checkpoint(checkpoint)

    def on_train_start(self) -> None:
        """Puts frozen parts in eval mode and all others in train mode, which Lightning does not do here."""
        super().on_train_start()
        self.train()
        self._compile()

    def _compile(self) -> None:
        blocks, chosen = trained_blocks(self), self.compiled
        if chosen == "auto":
            batches = self.trainer.estimated_stepping_batches * self.trainer.accumulate_grad_batches
            sharded = isinstance(self.trainer.strategy, ModelParallelStrategy)
            chosen = not sharded and pays(blocks, self.device, batches)
            if chosen:
                rank_zero_info(f"{len(blocks)} blocks are compiled, which takes up to a minute (compile: auto)")
        if chosen:
            compile_blocks(blocks)

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, batch: Any, split: str) -> Any:
        """Updates the metrics with a batch.

        Args:
            batch: Of validation or test data.
            split: `val` or `test`.

        Returns:
            What callbacks receive as the outputs of the batch, such as a `Reporter`.
        """
        loss = self.loss(batch)
        self.val_loss.update(loss.total, loss.num_items)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """The metrics of a whole split, by the names under which they are logged below `val/` or `test/`.

        Afterwards every `torchmetrics.Metric` of the stage is reset.
        """
        return {"loss": self.val_loss.compute()}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        for name, value in self.compute_metrics(split).items():
            shown = name == "loss" or f"val/{name}" == self.monitor[0]
            self.log(f"{split}/{name}", value, prog_bar=shown, sync_dist=True)
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    # ------------------------------------------------------------------ optimisation

    def make_optimizer(self) -> Optimizer:
        """The optimizer of all trained parameters."""
        make = {"adamw": adamw, "muon": muon}[self.optimizer_name]
        return make(self, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def lr_curve(self, group: Mapping[str, Any], total_steps: float) -> Callable[[int], float]:
        """The learning rate of a parameter group by step, as a share of its peak."""
        return lambda step: lr_factor(
            step,
            schedule=self.lr_schedule,
            warmup_steps=self.warmup_steps,
            total_steps=total_steps,
            final=self.final_lr,
        )

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule that advances once per optimizer step."""
        total = self.trainer.estimated_stepping_batches
        if total == float("inf") and self.lr_schedule != "constant":
            raise UserError(f"a {self.lr_schedule} schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        optimizer = self.make_optimizer()
        schedule = LambdaLR(optimizer, [self.lr_curve(group, total) for group in optimizer.param_groups])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
