"""The text encoder: a small tower for captions, in contrastive training."""

import torch
from torch import Tensor, nn

from omni.layers.transformer import Transformer
from omni.models.part import Part


class TextEncoder(Part):
    """A bidirectional Transformer over tokens; a text's vector is the mean over them.

    Args:
        vocab_size: Number of tokens; the tokenizer's or more.
        dim: Width of the residual stream.
        num_layers: Number of blocks; 0 for a bag of words.
        num_heads: Heads.
        ffn_dim: Hidden width of the feed-forward network.
        dropout: Dropout of attention weights, of updates, and of whole tokens in training.
        gradient_checkpointing: Whether activations of blocks are recomputed in the backward pass.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 2,
        ffn_dim: int = 512,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.dropout = vocab_size, dim, dropout
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.transformer = Transformer(
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            activation="gelu",
            causal=False,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Encodes texts.

        Args:
            tokens: (batch, time) of int64.
            mask: (batch, time) of bool, false at padding.

        Returns:
            (batch, dim).
        """
        if self.training and self.dropout:
            kept = torch.rand(mask.shape, device=mask.device) >= self.dropout
            kept[:, 0] = True  # the start token: no text becomes empty
            mask = mask & kept
        return masked_mean(self.transformer(self.embedding(tokens), mask=mask).hidden, mask)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of (batch, time, dim) over the positions where `mask` (batch, time) is true: (batch, dim)."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
