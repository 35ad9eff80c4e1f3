"""Stage A: trains the Thinker to predict the next token of text."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from lightning import Callback
from torch import Tensor

from omni.batch import IGNORE, TextBatch
from omni.distributed import mean_over_ranks
from omni.losses import Loss
from omni.metrics import TokenLoss
from omni.models.thinker import Thinker
from omni.stages.reporting.continuations import ContinuationReporter
from omni.stages.stage import Stage


@final
class ThinkerPretraining(Stage):
    """Next-token prediction on packed rows of text.

    Logs `train/loss`, `val/loss` (nats per token), `val/perplexity` and `val/bits_per_byte`. TensorBoard shows
    continuations of some prompts at each validation.

    Args:
        thinker: The model.
        balance: Weight of the experts' balance loss, for a Thinker with experts.
        sample_prompts: Texts to continue at each validation; an empty one starts a document.
        sample_tokens: Tokens of each continuation.
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
        self.token_loss = TokenLoss()
        self.token_bytes = torch.zeros(0, dtype=torch.long)  # no buffer: averages of weights must not include it

    @property
    def flops_per_work(self) -> float:
        """See `Thinker.flops_per_token`."""
        return self.thinker.flops_per_token

    def setup(self, stage: str) -> None:
        """Checks that every token of the data has an embedding."""
        super().setup(stage)
        self.check_vocabulary("thinker")
        self.token_bytes = torch.tensor(self.tokenizer.token_bytes())

    def loss(self, batch: TextBatch) -> Loss:
        """Cross-entropy of the next token, with the experts' balance loss."""
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

    def configure_callbacks(self) -> list[Callback]:
        return [ContinuationReporter(self.sample_prompts, self.sample_tokens)]

    def evaluate(self, batch: TextBatch, split: str) -> None:
        scored = batch.targets != IGNORE
        if self.token_bytes.device != scored.device:
            self.token_bytes = self.token_bytes.to(scored.device)
        self.token_loss.update(self._nll(batch), scored, self.token_bytes[batch.targets.clamp(min=0)] * scored)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        return self.token_loss.compute()

    def predict_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """The loss of each position in nats: (batch, time), 0 where no token is scored."""
        return self._nll(batch)

    def _nll(self, batch: TextBatch) -> Tensor:
        return self.thinker.nll(self.thinker.encode(batch.tokens).hidden, batch.targets)
