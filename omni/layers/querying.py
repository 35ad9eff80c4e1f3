"""Learned queries that attend to windows of a sequence, as in a Q-Former."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from omni.layers.feedforward import FeedForward
from omni.layers.mask import length_mask
from omni.layers.norm import RMSNorm


class QueryingBlock(nn.Module):
    """Pre-norm block: self-attention over queries, cross-attention to the source, feed-forward network.

    Args:
        dim: Width of the queries.
        source_dim: Width of the source.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, source_dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_norm, self.cross_norm, self.ffn_norm = RMSNorm(dim), RMSNorm(dim), RMSNorm(dim)
        self.qkv, self.self_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.query, self.cross_out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(source_dim, 2 * dim, bias=False)
        self.ffn = FeedForward(dim, 2 * dim)

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """One block.

        Args:
            queries: (windows, queries, dim).
            source: (windows, frames, source_dim).
            mask: (windows, frames), bool: false at padding; true for one frame of each window or more.

        Returns:
            (windows, queries, dim).
        """
        self_queries, keys, values = self._heads(self.qkv(self.self_norm(queries)), 3)
        queries = queries + self.self_out(self._joined(F.scaled_dot_product_attention(self_queries, keys, values)))
        [cross_queries] = self._heads(self.query(self.cross_norm(queries)), 1)
        keys, values = self._heads(self.key_value(source), 2)
        attended = F.scaled_dot_product_attention(cross_queries, keys, values, attn_mask=mask[:, None, None])
        queries = queries + self.cross_out(self._joined(attended))
        return queries + self.ffn(self.ffn_norm(queries))

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return rearrange(x, "w t (p h d) -> p w h t d", p=parts, h=self.num_heads).unbind(0)

    @staticmethod
    def _joined(x: Tensor) -> Tensor:
        return rearrange(x, "w h t d -> w t (h d)")


class WindowedQueries(nn.Module):
    """A Q-Former (arXiv:2301.12597) on windows of a sequence (SALMONN, arXiv:2310.13289), at a constant output rate.

    All windows share the learned queries. For a last window that is not full, only the outputs for its frames are kept.

    Args:
        in_dim: Width of a frame.
        dim: Width of the queries.
        queries: Queries of a window.
        frame_stacking: Frames for each of them.
        num_layers: Blocks.
        num_heads: Attention heads.
    """

    def __init__(
        self, in_dim: int, dim: int, *, queries: int, frame_stacking: int, num_layers: int, num_heads: int
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"hidden_dim ({dim}) must be a multiple of num_heads ({num_heads})")
        self.num_queries, self.frame_stacking = queries, frame_stacking
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.learned_positions = nn.Parameter(0.5 * torch.randn(queries * frame_stacking, in_dim))
        self.blocks = nn.ModuleList(QueryingBlock(dim, in_dim, num_heads=num_heads) for _ in range(num_layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Attends.

        Args:
            x: (batch, frames, in_dim).
            lengths: (batch,), int64: frames of each row.

        Returns:
            (batch, frames / stack, dim), rounded up.
        """
        batch, frames = x.shape[:2]
        window = self.num_queries * self.frame_stacking
        x = F.pad(x, (0, 0, 0, -frames % window))
        mask = length_mask(lengths, x.shape[1])
        windows = rearrange(x, "b (n w) d -> (b n) w d", w=window) + self.learned_positions
        mask = rearrange(mask, "b (n w) -> (b n) w", w=window)
        mask = mask | ~mask.any(1, keepdim=True)  # a query without any key would be NaN
        # `shape[0]` and a division of positive numbers: PyTorch's ONNX exporter takes `len` for a constant, and rounds
        # a negative quotient to zero.
        queries = self.queries.to(windows.dtype).expand(windows.shape[0], -1, -1)
        for block in self.blocks:
            queries = block(queries, windows, mask)
        tokens = (frames + self.frame_stacking - 1) // self.frame_stacking
        return rearrange(queries, "(b n) q d -> b (n q) d", b=batch)[:, :tokens]
