"""Stage A: the Thinker learns to predict the next token of text."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from omni.batch import IGNORE, TextBatch
from omni.decoding.sampling import Sampling
from omni.distributed import mean_over_ranks
from omni.errors import UserError
from omni.inference.text import TextModel
from omni.losses import Loss
from omni.metrics import TokenLoss
from omni.models.thinker import Thinker
from omni.stages.stage import Stage


@final
class ThinkerPretraining(Stage):
    """Next-token prediction on packed rows of text.

    Logs `train/loss`, `val/loss` (nats per token), `val/perplexity` and `val/bits_per_byte`, and writes continuations
    of some prompts to TensorBoard at each validation.

    Args:
        thinker: The model.
        balance: Weight of the experts' balance loss, where the Thinker is a mixture of experts.
        sample_prompts: Texts continued at each validation; an empty one begins a document.
        sample_tokens: Tokens added to each.
        kwargs: See `Stage`.
    """

    sharded_parts = ("thinker",)

    no_effect = frozenset({"sample_prompts", "sample_tokens"})

    def __init__(
        self,
        thinker: Thinker,
        *,
        balance: float = 0.01,
        sample_prompts: Sequence[str] = ("",),
        sample_tokens: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.thinker = thinker
        self.balance = balance
        self.sample_prompts, self.sample_tokens = tuple(sample_prompts), sample_tokens
        self.val_metrics = TokenLoss()
        self.token_bytes: Tensor
        self.register_buffer("token_bytes", torch.zeros(0, dtype=torch.long), persistent=False)

    @property
    def flops_per_work(self) -> float:
        """See `Thinker.flops_per_token`."""
        return self.thinker.flops_per_token

    def setup(self, stage: str) -> None:
        """Checks that the tokenizer's tokens all have an embedding."""
        super().setup(stage)
        if self.tokenizer.vocab_size > self.thinker.vocab_size:
            raise UserError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens and the Thinker {self.thinker.vocab_size}: "
                f"set model.init_args.thinker.init_args.vocab_size to {self.tokenizer.vocab_size} or more"
            )
        self.token_bytes = torch.tensor(self.tokenizer.token_bytes(), device=self.device)

    def loss(self, batch: TextBatch) -> Loss:
        """Cross-entropy of the next token, and the experts' balance."""
        encoded = self.thinker.encode(batch.tokens)
        total = self.thinker.cross_entropy(encoded.hidden, batch.targets)
        count = (batch.targets != IGNORE).sum()
        if not self.thinker.mixture:
            return Loss(total, count, {})
        penalty = self.balance * encoded.balance_loss * mean_over_ranks(count)
        return Loss(total + penalty, count, {"balance": encoded.balance_loss})

    def example_batch(self, data: Mapping[str, Any]) -> TextBatch:
        """`batch_size` rows of `context` tokens."""
        tokens = torch.zeros(data["batch_size"], data["context"], dtype=torch.long)
        return TextBatch(tokens, tokens.clone(), tokens[:, 0].clone())

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        nll = self.thinker.nll(self.thinker.encode(batch.tokens).hidden, batch.targets)
        scored = batch.targets != IGNORE
        self.val_metrics.update(nll, scored, self.token_bytes[batch.targets.clamp(min=0)] * scored)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics and lets the Thinker write."""
        metrics = self.val_metrics.compute()
        self.val_metrics.reset()
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, prog_bar=True, sync_dist=True)
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero and self.sample_prompts:
            self.logger.experiment.add_text("val/samples", self._samples(), self.global_step)

    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs `test/loss`, `test/perplexity` and `test/bits_per_byte`."""
        metrics = self.val_metrics.compute()
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self.val_metrics.reset()

    def predict_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """The loss of each position in nats: (batch, time), 0 where nothing is scored."""
        return self.thinker.nll(self.thinker.encode(batch.tokens).hidden, batch.targets)

    def _samples(self) -> str:
        """Continuations as Markdown: each prompt in bold, then what follows."""
        model = TextModel(self.thinker, self.tokenizer)
        sampling = Sampling(temperature=0.8, top_p=0.95)
        with torch.compiler.set_stance("force_eager"):  # every length would be compiled anew
            texts = model.generate(self.sample_prompts, max_tokens=self.sample_tokens, sampling=sampling)
        pairs = zip(self.sample_prompts, texts, strict=True)
        return "\n\n".join(f"**{prompt or '(start)'}** {text}" for prompt, text in pairs)
