"""What all stages share: parts, loss, optimizer, lineage."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from omni.checkpoints.checkpoint import Checkpoint, Lineage
from omni.checkpoints.weights import with_current_names, without_lent
from omni.distributed import gather_objects, random_state, resume_random_numbers, start_random_numbers, sum_over_ranks
from omni.errors import UserError
from omni.layers.transformer import Transformer
from omni.losses import Loss
from omni.media.audio import mel_constants
from omni.metrics import MeanOfItems
from omni.models.part import Part
from omni.optim.optimizers import OptimizerName, Schedule, adamw, lr_factor, muon, scale_gradients
from omni.optim.precision import check_precision
from omni.text.tokenizer import Tokenizer

# Losses reach the backward pass divided by this instead of by the number of scored items, which is known only when the
# last micro-batch has been seen; then the gradients are set right. A power of two, so that nothing is rounded.
UNIT = 1024


class Stage(LightningModule, ABC):
    """A part of the model, its task and how it is trained. Subclasses keep the parts and say what the loss is.

    Args:
        optimizer: `adamw`, or `muon` for the matrices inside blocks and AdamW for the rest.
        lr: Peak learning rate.
        betas: AdamW's decay rates.
        weight_decay: Decay of matrices.
        schedule: What follows the warm-up: `cosine`, `linear` or `constant`.
        warmup_steps: Optimizer steps of linear warm-up.
        final_lr: Share of the peak learning rate that is left at the end.
        frozen: Names of parts that are not trained; they stay in eval mode.
        compile: Whether Transformers are compiled by `torch.compile`: half a minute first, faster steps then. It needs
            a C++ compiler, on a GPU a C compiler.
    """

    no_effect: ClassVar[frozenset[str]] = frozenset({"compile"})
    """Constructor arguments that change neither the weights nor which of them are best. Subclasses add theirs."""

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
        compile: bool = False,
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
        self.ancestors: dict[str, Lineage] = {}
        self.config_fingerprint: str | None = None
        self._counted: Tensor | None = None
        self._noted: Tensor | None = None  # a loss of this rank that is not finite, since the last optimizer step
        self._bad_step: Tensor | None = None  # the first step with such a loss on any rank, or -1
        self._bad_batch: str | None = None
        self._rng: dict[str, Any] | None = None

    # ------------------------------------------------------------------ parts

    uses_mels = False  # whether its parts take or make spectrograms
    monitor: tuple[str, str] = ("val/loss", "min")  # what best.ckpt is chosen by, and whether the least or most is best
    has_unused_parameters = False  # whether a batch may leave trained parameters without a gradient
    sharded_parts: tuple[str, ...] = ()  # those whose blocks every batch runs; with none, `model_parallel` is refused

    @property
    def parts(self) -> dict[str, Part]:
        """The exchangeable parts by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Part)}

    def part(self, name: str) -> Part:
        """The part called `name`.

        Raises:
            UserError: If there is none.
        """
        if name not in self.parts:
            raise UserError(f"{type(self).__name__} has no part {name!r}; it has: {', '.join(self.parts)}")
        return self.parts[name]

    def reads_tokens(self, name: str) -> bool:
        """Whether the data's tokens mean something to the part called `name`."""
        return hasattr(self.part(name), "vocab_size")

    def init_part(self, name: str, checkpoint: Checkpoint) -> None:
        """Loads the weights of a part from an earlier stage, and records the stage as its ancestor."""
        checkpoint.fill(self.part(name), name)
        self.ancestors[name] = checkpoint.lineage

    def configure_data(self, data: Any) -> None:
        """Tells a data module what it must know of the model to find its batches."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data that the stage is attached to."""
        return self.data.tokenizer

    @property
    def data(self) -> Any:
        """The data module that the stage is attached to."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def setup(self, stage: str) -> None:
        """Freezes what is to be frozen, and refuses parts that were trained with another tokenizer."""
        check_precision(self.trainer.precision)
        for name in self.frozen:
            self.part(name).requires_grad_(False)
            # Lightning warns of parts in eval mode when fitting starts; `on_train_start` puts them in eval mode.
            self.part(name).train(self.training)
        if stage == "fit":
            for part in self.parts.values():
                part.own({name for name, parameter in part.named_parameters() if parameter.requires_grad})
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError("model.init_args.frozen leaves nothing to train: take a part from it")
        if self.compiled:
            for module in self.modules():
                if isinstance(module, Transformer):
                    module.compile()  # in place: the names of the weights stay
        for name, lineage in self.ancestors.items():
            if self.reads_tokens(name) and lineage["tokenizer"] != self.tokenizer.fingerprint:
                raise UserError(
                    f"init_from.{name} was trained with another tokenizer than the data's: give that checkpoint as "
                    "data.init_args.tokenizer (of text) or data.init_args.units (of speech)"
                )

    def train(self, mode: bool = True) -> "Stage":
        """Frozen parts stay in eval mode whatever the trainer says."""
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Stage":
        """Metrics move with the stage and keep their precision: a sum in bf16 stops growing at 256."""
        metrics = [module for module in self.modules() if isinstance(module, Metric)]
        states = [(metric, name, value.dtype) for metric in metrics for name, value in metric.metric_state.items()
                  if isinstance(value, Tensor)]  # fmt: skip
        super()._apply(fn, recurse)
        for metric, name, dtype in states:
            setattr(metric, name, getattr(metric, name).to(dtype))
            default = metric._defaults[name]
            metric._defaults[name] = default.to(dtype) if isinstance(default, Tensor) else default
        return self

    # ------------------------------------------------------------------ loss

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """The loss of a batch as a sum, the number of items it sums over, and terms to log."""

    @abstractmethod
    def example_batch(self, data: Mapping[str, Any]) -> Any:
        """A batch of the largest shapes that a data module with the arguments `data` gives; what it holds is idle.

        `omni plan` measures the memory of its loss, on tensors that have shapes and no values: `loss` must not look
        into them on the host.
        """

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One micro-batch. The gradient of the whole accumulated batch is that of the mean over all its items."""
        loss = self.loss(batch)
        self._watch(loss.total, batch, batch_idx)
        count = loss.num_items.detach()
        self._counted = count if self._counted is None else self._counted + count
        self.log("train/loss", loss.mean.detach(), prog_bar=True)
        self.log_dict({f"train/loss/{name}": term.detach() for name, term in loss.terms.items()})
        self.log_dict({f"train/{name}": value.detach() for name, value in loss.stats.items()})
        return loss.total / UNIT

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns gradients of `total / UNIT`, averaged over micro-batches and ranks, into those of the true mean."""
        assert self._counted is not None
        counted = self._exchange(self._counted.float())
        averaged = self.trainer.accumulate_grad_batches * self.trainer.world_size
        scale_gradients(self.parameters(), UNIT * averaged / counted.clamp(min=1))
        self._counted = None
        if (self.global_step + 1) % getattr(self.trainer, "log_every_n_steps") == 0:  # noqa: B009  a step that is logged
            self._refuse_bad_step()
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            norm: Any = nn.utils.get_total_norm(gradients)  # before it is clipped
            self.log("train/grad_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _watch(self, total: Tensor, batch: Any, batch_idx: int) -> None:
        """Notes a loss that is not finite. One process on a CPU refuses it at once, all others: see `_exchange`."""
        bad = ~total.detach().isfinite()
        self._noted = bad if self._noted is None else self._noted | bad
        if total.device.type == "cpu" and bad and self._bad_batch is None:
            self._bad_batch = str(self._not_finite(self.global_step, batch_idx, batch))
            if self.trainer.world_size == 1:
                raise UserError(self._bad_batch)

    def _exchange(self, counted: Tensor) -> Tensor:
        """Sums `counted` over ranks; in the same exchange they learn of a loss that is not finite on another.

        They refuse it on a CPU before the step is made, elsewhere when Lightning reads the loss anyway.
        """
        assert self._noted is not None
        # Not the strategy's `reduce`, which calls a barrier first: that makes the host wait for the device.
        counted, bad = sum_over_ranks(torch.stack((counted, self._noted.float())))
        now = torch.full_like(bad, self.global_step, dtype=torch.long)
        seen = torch.full_like(now, -1) if self._bad_step is None else self._bad_step
        self._bad_step, self._noted = torch.where((seen < 0) & (bad > 0), now, seen), None
        if bad.device.type == "cpu":
            self._refuse_bad_step()
        return counted

    def _refuse_bad_step(self) -> None:
        """Raises, on every rank, if the loss was not finite on one; `_bad_step` is the same on all."""
        if self._bad_step is None or (step := int(self._bad_step)) < 0:
            return
        named = [batch for batch in gather_objects(self._bad_batch) if batch is not None]
        batch_idx = step * self.trainer.accumulate_grad_batches
        raise UserError(named[0]) if named else self._not_finite(step, batch_idx, None)

    def _not_finite(self, step: int, batch_idx: int, batch: Any) -> UserError:
        rows = getattr(batch, "rows", None)
        where = f", rows {rows.tolist()}" if rows is not None else ""
        return UserError(
            f"the training loss is not finite at step {step} (batch {batch_idx}{where}): lower model.init_args.lr, "
            "raise the precision, or look at these rows; checkpoints written before this step are good"
        )

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
            self.log(f"{split}/{name}", value, prog_bar="/" not in name, sync_dist=True)
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    # ------------------------------------------------------------------ optimisation

    def make_optimizer(self) -> Optimizer:
        """The optimizer of all that is trained."""
        make = {"adamw": adamw, "muon": muon}[self.optimizer_name]
        return make(self, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def lr_curve(self, group: Mapping[str, Any], total_steps: float) -> Callable[[int], float]:
        """The learning rate of one of the optimizer's groups at a step, as a share of its peak."""
        return lambda step: lr_factor(
            step,
            schedule=self.lr_schedule,
            warmup_steps=self.warmup_steps,
            total_steps=total_steps,
            final=self.final_lr,
        )

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule that moves once an optimizer step."""
        total = self.trainer.estimated_stepping_batches
        if total == float("inf") and self.lr_schedule != "constant":
            raise UserError(f"a {self.lr_schedule} schedule needs an end: set trainer.max_steps or trainer.max_epochs")
        optimizer = self.make_optimizer()
        schedule = LambdaLR(optimizer, [self.lr_curve(group, total) for group in optimizer.param_groups])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ------------------------------------------------------------------ checkpoints

    @property
    def lineage(self) -> Lineage:
        """Where the weights in this stage come from, up to now."""
        recipes = json.dumps({name: part.recipe for name, part in self.parts.items()}, sort_keys=True, default=str)
        return {
            "stage": type(self).__name__,
            "step": self.global_step,
            "config": self.config_fingerprint or hashlib.sha256(recipes.encode()).hexdigest(),
            "data": self.data.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "ancestors": self.ancestors,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the parts without Lightning and without their ancestors; leaves out what is lent."""
        self._refuse_bad_step()
        checkpoint["state_dict"] = without_lent(checkpoint["state_dict"], self.parts)
        checkpoint["parts"] = {name: part.recipe for name, part in self.parts.items()}
        checkpoint["origins"] = {name: part.origin for name, part in self.parts.items() if part.origin is not None}
        checkpoint["tokenizer"] = self.tokenizer.state()
        checkpoint["lineage"] = self.lineage
        measured = self.trainer.callback_metrics
        checkpoint["metrics"] = {name: float(value) for name, value in measured.items() if name.startswith("val/")}
        if self.uses_mels:
            checkpoint["audio"] = mel_constants()
        checkpoint["rng"] = {"ranks": gather_objects(random_state(self.device))}

    def check_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Refuses a checkpoint of another stage, of other parts, or of parts of other shapes.

        Raises:
            UserError: Naming what differs.
        """
        stage = checkpoint.lineage["stage"]
        if stage != type(self).__name__:
            raise UserError(
                f"{checkpoint} is a checkpoint of stage {stage}, which {type(self).__name__} cannot continue; "
                "to begin with its parts, give --init_from"
            )
        for name, part in self.parts.items():
            checkpoint.check_fit(part, name)
        if more := sorted(checkpoint.content["parts"].keys() - self.parts.keys()):
            raise UserError(
                f"{checkpoint} also holds {', '.join(more)}, which this configuration lacks: add "
                f"model.init_args.{more[0]}, or begin with some of its parts by --init_from"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes back the lineage and the random numbers, and refuses another tokenizer's checkpoint."""
        lineage: Lineage = checkpoint["lineage"]
        if lineage["tokenizer"] != self.tokenizer.fingerprint:
            raise UserError(
                "the data's tokenizer is not the one this checkpoint was trained with: set data.init_args.tokenizer "
                "(of text) or data.init_args.units (of speech) to the checkpoint"
            )
        self.ancestors = lineage["ancestors"]
        self._rng = checkpoint.get("rng")  # a folder of weights has none

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in `torch.nn.Module`; what is lent to a part and not among the weights stays as it is."""
        parts, own, state_dict = self.parts, self.state_dict(), with_current_names(state_dict)
        lent = {f"{name}.{key}" for name, part in parts.items() for key in part.lent} - state_dict.keys()
        for name, part in parts.items():
            part.own({key.removeprefix(f"{name}.") for key in state_dict if key.startswith(f"{name}.")})
        return super().load_state_dict({**state_dict, **{key: own[key] for key in lent}}, strict, assign)

    def on_train_start(self) -> None:
        """Puts frozen parts in eval mode, all others in train mode, and takes the checkpoint's random numbers up."""
        self.train()  # Lightning does not where fitting begins
        rng, self._rng = self._rng, None
        if rng is None:
            start_random_numbers(rank=self.global_rank)
        elif lost := resume_random_numbers(rng, self.device, step=self.global_step):
            rank_zero_info(f"{lost}: random numbers, such as dropout's, start from a new seed")
