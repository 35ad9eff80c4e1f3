"""The Thinker: a decoder language model."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from omni import losses
from omni.layers.cache import KVCache
from omni.layers.linear import Linear
from omni.layers.norm import QKNorm
from omni.layers.readout import readout
from omni.layers.transformer import Transformer, TransformerOutput
from omni.models.interfaces import LanguageModel


class ThinkerOutput(NamedTuple):
    """Output of the Thinker.

    Attributes:
        logits: (batch, time, vocab).
        hidden: (batch, time, dim), after the last norm.
        balance_loss: Scalar, see `TransformerOutput`.
    """

    logits: Tensor
    hidden: Tensor
    balance_loss: Tensor


class Thinker(LanguageModel):
    """A causal Transformer over tokens, or over embeddings with features of media among them.

    Args:
        vocab_size: Number of tokens; the tokenizer's or more.
        tied: Whether the head shares the embedding's matrix.
        dim: Width of the residual stream.
        num_layers: Number of blocks.
        num_heads: Heads of queries.
        ffn_dim: Hidden width of the feed-forward network.
        rope_axes: 1, or 3 for TM-RoPE: time, height and width. On text both are exactly equal.
        options: Further options of `Transformer`, apart from those that are set below.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        tied: bool = True,
        dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        ffn_dim: int = 1024,
        rope_axes: int = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.rope_axes = vocab_size, dim, rope_axes
        self.embedding = nn.Embedding(vocab_size, dim)
        self.transformer = Transformer(
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            activation="swiglu",
            causal=True,
            rope_axes=rope_axes,
            rope_theta=10_000.0,
            conv_kernel=0,
            **options,
        )
        self.head = readout(Linear(dim, vocab_size, bias=False))
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        nn.init.normal_(self.head.weight, std=0.02)  # untied: logits near 0, and a first loss of ln(vocab_size)
        if tied:
            self.head.weight = self.embedding.weight

    @property
    def mixture(self) -> bool:
        """Whether its feed-forward networks are mixtures of experts."""
        return self.transformer.num_experts > 0

    @property
    def embedding_rms(self) -> float:
        """Root mean square of the token embeddings: the scale that the Thinker expects of its input."""
        return self.dim**0.5 * float(self.embedding.weight.detach().float().square().mean().sqrt())

    @property
    def flops_per_token(self) -> float:
        """FLOPs of training on one token without attention products: 6 per weight used (arXiv:2001.08361).

        2 for the forward pass, 4 for the backward pass. Embeddings are looked up, not multiplied; only the experts
        chosen for a token count.
        """
        multiplied = sum(p.numel() for p in self.transformer.parameters()) + self.head.weight.numel()
        for block in self.transformer.blocks:
            multiplied -= getattr(block.ffn, "num_idle_parameters", 0)
        return 6.0 * multiplied

    def adapt_to(self, weights: Mapping[str, Tensor]) -> None:
        """Unshares the scales of queries and keys if the weights have one for each head, as all earlier ones have."""
        norms = {name: module for name, module in self.named_modules() if isinstance(module, QKNorm) and module.shared}
        for name, norm in norms.items():
            stored = weights.get(f"{name}.weight")
            if stored is not None and stored.numel() == math.prod(norm.shape):
                norm.unshare()
                self._arguments["shared_qk_scales"] = False

    def embed(self, tokens: Tensor) -> Tensor:
        """Looks up tokens (batch, time): (batch, time, dim), times `sqrt(dim)` (arXiv:1706.03762, section 3.4).

        This is the scale of the blocks' updates: with a smaller one, later blocks could not attend to the token itself.
        """
        return self.embedding(tokens) * self.dim**0.5

    def encode_embeddings(
        self, embeddings: Tensor, positions: Tensor | None, mask: Tensor | None, cache: KVCache | None
    ) -> TransformerOutput:
        return self.transformer(embeddings, positions=positions, mask=mask, cache=cache)

    def encode_scored(
        self, embeddings: Tensor, positions: Tensor | None, mask: Tensor | None, scored: Tensor
    ) -> TransformerOutput:
        return self.transformer(embeddings, positions=positions, mask=mask, scored=scored)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def forward(self, tokens: Tensor | None = None, **inputs: Any) -> ThinkerOutput:
        """Predicts the token after each position; arguments are those of `encode`."""
        hidden, balance_loss = self.encode(tokens, **inputs)
        return ThinkerOutput(self.logits(hidden), hidden, balance_loss)

    def cross_entropy(self, hidden: Tensor, targets: Tensor, item_weights: Tensor | None = None) -> Tensor:
        """Sum of the next-token losses over hidden states, in chunks (see `losses.linear_cross_entropy`)."""
        return losses.linear_cross_entropy(hidden, self.head.weight, targets, item_weights)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Each position's next-token loss in nats, without gradient (see `losses.token_nll`)."""
        return losses.token_nll(hidden, self.head.weight, targets)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        return self.transformer.new_cache(batch_size, max_length)
