"""Multi-head attention."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from omni.layers.cache import KVCache
from omni.layers.linear import Linear
from omni.layers.norm import QKNorm
from omni.layers.rotary import rotate


class Attention(nn.Module):
    """Grouped-query self-attention (arXiv:2305.13245) with rotary positions and QK-norm (arXiv:2010.04245).

    Args:
        dim: Width of input and output.
        num_heads: Heads of queries.
        num_kv_heads: Heads of keys and values; each is shared by `num_heads / num_kv_heads` heads of queries.
        head_dim: Size of a head.
        causal: Whether a position attends only to itself and earlier ones.
        dropout: Dropout of attention weights.
        shared_qk_scales: Whether the norms of queries and keys share their scales over heads.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        causal: bool = True,
        dropout: float = 0.0,
        shared_qk_scales: bool = False,
    ) -> None:
        super().__init__()
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads ({num_heads}) must be a multiple of num_kv_heads ({num_kv_heads})")
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.causal, self.dropout = causal, dropout
        self.qkv = Linear(dim, (num_heads + 2 * num_kv_heads) * head_dim, bias=False)
        self.qk_norm = QKNorm(num_heads, num_kv_heads, head_dim, shared=shared_qk_scales)
        self.out = Linear(num_heads * head_dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attends.

        Args:
            x: (batch, time, dim).
            angles: Cosines and sines of the positions, from `RotaryEmbedding`.
            mask: (batch, 1, time or 1, keys) of bool, true where a key is visible. It replaces the causal mask: give
                one that is causal, or none.
            cache: Earlier keys and values; the new ones are appended.
            layer: Index of the layer in the cache.

        Returns:
            (batch, time, dim).
        """
        queries, keys, values = self._project(x, angles)
        causal = self.causal and mask is None
        if x.shape[1] == 1:  # a branch, as a comparison that is passed on would split the compiled graph
            causal = False
        if cache is not None:
            causal = causal and not any(cache.lengths)
            keys, values = cache.append(layer, keys, values)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=causal,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        return self.out(rearrange(attended, "b h t d -> b t (h d)"))

    @torch.no_grad()
    def weights(self, x: Tensor, angles: tuple[Tensor, Tensor], *, mask: Tensor | None = None) -> Tensor:
        """The attention weights of `forward` without a cache, which never computes them: (batch, heads, time, time).

        Args:
            x: As in `forward`.
            angles: As in `forward`.
            mask: As in `forward`.
        """
        queries, keys, _ = self._project(x, angles)
        keys = keys.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)
        scores = (queries @ keys.mT).float() / self.head_dim**0.5
        if mask is None and self.causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).tril()
        return (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1)

    def _project(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, heads, time, head_dim) each."""
        qkv = rearrange(self.qkv(x), "b t (h d) -> b t h d", d=self.head_dim)
        queries_keys, values = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        queries_keys = rotate(self.qk_norm(queries_keys), *angles).transpose(1, 2)
        queries, keys = queries_keys.split((self.num_heads, self.num_kv_heads), dim=1)
        return queries, keys, values.transpose(1, 2)
