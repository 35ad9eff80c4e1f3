"""The Transformer that Thinker, Talker and encoders share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omni.layers.attention import Attention
from omni.layers.cache import KVCache
from omni.layers.conv import ConvModule
from omni.layers.decoding_step import DecodingStep
from omni.layers.feedforward import Activation, FeedForward
from omni.layers.moe import MixtureOfExperts
from omni.layers.norm import RMSNorm
from omni.layers.rotary import RotaryEmbedding

MOST_LAYERS = 1000  # a misread number is refused before its blocks are made


class TransformerOutput(NamedTuple):
    """Output of a Transformer.

    Attributes:
        hidden: (batch, time, dim), after the last norm.
        balance_loss: Mean balance loss of the mixture-of-experts layers, a scalar; 0 without any.
    """

    hidden: Tensor
    balance_loss: Tensor


class Block(nn.Module):
    """Pre-norm block: attention, optionally a convolution, and a feed-forward network, with residual connections."""

    def __init__(
        self,
        dim: int,
        *,
        attention: Attention,
        ffn: FeedForward | MixtureOfExperts,
        conv: ConvModule | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(dim), attention
        self.conv_norm, self.conv = (RMSNorm(dim), conv) if conv is not None else (None, None)
        self.ffn_norm, self.ffn = RMSNorm(dim), ffn
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        valid: Tensor | None,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        scored: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One block: (batch, time, dim) to the same shape, or to (scored, dim), and the balance loss of its experts."""
        x = x + self.dropout(self.attention(self.attention_norm(x), angles, mask=mask, cache=cache, layer=layer))
        if self.conv is not None and self.conv_norm is not None:
            x = x + self.dropout(self.conv(self.conv_norm(x), valid))
        if scored is not None:
            x = x.flatten(0, 1).index_select(0, scored)
        if isinstance(self.ffn, MixtureOfExperts):
            update, balance = self.ffn(self.ffn_norm(x), valid)
        else:
            update, balance = self.ffn(self.ffn_norm(x)), None
        return x + self.dropout(update), balance


class Transformer(nn.Module):
    """A pre-norm Transformer (arXiv:1706.03762) with RMSNorm, rotary positions, QK-norm and grouped-query attention.

    Args:
        dim: Width of the residual stream.
        num_layers: Number of blocks.
        num_heads: Heads of queries.
        num_kv_heads: Heads of keys and values; `num_heads` if not given.
        head_dim: Size of a head; `dim / num_heads` if not given.
        ffn_dim: Hidden width of the feed-forward network.
        activation: `swiglu` or `gelu`.
        causal: Whether a position attends only to itself and earlier ones.
        rope_axes: Number of position axes (see `RotaryEmbedding`).
        rope_theta: Base of the rotary wavelengths.
        dropout: Dropout of attention weights and of each block's updates.
        num_experts: 0 for a dense network, or the number of experts in each block.
        experts_per_token: Experts chosen for each token.
        conv_kernel: 0, or the span in frames of a Conformer convolution in each block.
        shared_qk_scales: Whether the norms of queries and keys share their scales over heads, as in Qwen3.
        gradient_checkpointing: Whether activations of blocks are recomputed in the backward pass.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        ffn_dim: int,
        activation: Activation = "swiglu",
        causal: bool = True,
        rope_axes: int = 1,
        rope_theta: float = 10_000.0,
        dropout: float = 0.0,
        num_experts: int = 0,
        experts_per_token: int = 2,
        conv_kernel: int = 0,
        shared_qk_scales: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= num_layers <= MOST_LAYERS:
            raise ValueError(f"num_layers must be from 0 to {MOST_LAYERS}, not {num_layers}")
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim ({dim}) must be a multiple of num_heads ({num_heads}); otherwise set head_dim")
        self.dim, self.num_layers, self.causal = dim, num_layers, causal
        self.head_dim = head_dim or dim // num_heads
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.num_experts, self.gradient_checkpointing = num_experts, gradient_checkpointing
        self.rotary = RotaryEmbedding(self.head_dim, theta=rope_theta, num_axes=rope_axes)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                attention=Attention(
                    dim,
                    num_heads=num_heads,
                    num_kv_heads=self.num_kv_heads,
                    head_dim=self.head_dim,
                    causal=causal,
                    dropout=dropout,
                    shared_qk_scales=shared_qk_scales,
                ),
                ffn=MixtureOfExperts(
                    dim, ffn_dim, num_experts=num_experts, experts_per_token=experts_per_token, activation=activation
                )
                if num_experts
                else FeedForward(dim, ffn_dim, activation=activation),
                conv=ConvModule(dim, kernel_size=conv_kernel, causal=causal) if conv_kernel else None,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = RMSNorm(dim)
        self._decoding_step: DecodingStep | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises matrices with variance 1 / fan-in; those that write to the residual stream are scaled by depth.

        Each of the `2 × num_layers` updates is scaled by 1 / sqrt(2 × num_layers), so that the stream keeps its scale
        (GPT-2).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(("out.weight", "down.weight", "ffn.down")):
                    parameter.mul_((2 * self.num_layers) ** -0.5)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for rows of up to `max_length` positions, in the dtype that attention has here.

        Raises:
            ValueError: If the Transformer is bidirectional or has convolutions.
        """
        if not self.causal or any(block.conv is not None for block in self._blocks):
            raise ValueError("only a causal Transformer without convolutions can be cached")
        device, dtype = self.norm.weight.device, self.norm.weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        return KVCache(
            self.num_layers, batch_size, max_length, self.num_kv_heads, self.head_dim, dtype=dtype, device=device
        )

    def compile_decoding(self) -> None:
        """From now on compiles what runs on one new position of each row; see `DecodingStep`."""
        self._decoding_step = DecodingStep()

    def forward(
        self,
        x: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        between: Callable[[int, Tensor], Tensor] | None = None,
        num_blocks: int | None = None,
        scored: Tensor | None = None,
    ) -> TransformerOutput:
        """Runs all blocks, or the first `num_blocks`.

        Args:
            x: (batch, time, dim).
            positions: As in `RotaryEmbedding`; consecutive, after the cached ones, if not given.
            mask: (batch, time) of bool, false at padding. A causal Transformer needs none for padding at the end.
            cache: Earlier keys and values. New ones are appended, and counted by `cache.advance`.
            between: Called with the number of blocks run and the output of the last, (batch, time, dim); its result is
                the input of the next block.
            num_blocks: Number of blocks to run; all if not given. The final norm is always applied.
            scored: (scored,) of int64: positions of the flattened rows whose hidden states are wanted; all if not
                given. The last feed-forward network computes no others.

        Returns:
            Hidden states, with `scored` (scored, dim), and balance loss.
        """
        step = self._decoding_step
        if step is not None and cache is not None and between is None and num_blocks is None and step.accepts(x, cache):
            return TransformerOutput(step(self, x, positions, cache), x.new_zeros(()))
        time = x.shape[1]
        if positions is None:
            positions = torch.arange(time, device=x.device) if cache is None else cache.slots(time)
        attention_mask = self._attention_mask(mask, cache, time)
        angles = self.rotary(positions)
        balances, blocks = [], self._blocks[:num_blocks]
        for layer, block in enumerate(blocks):
            # The balance of experts is that of all positions.
            last = scored if block is blocks[-1] and not self.num_experts else None
            # In eval mode too: gradients pass through a frozen part.
            if self.gradient_checkpointing and torch.is_grad_enabled() and cache is None:
                x, balance = checkpoint(block, x, angles, mask, attention_mask, cache, layer, last, use_reentrant=False)
            else:
                x, balance = block(x, angles, mask, attention_mask, cache, layer, last)
            if balance is not None:
                balances.append(balance)
            if between is not None and layer + 1 < self.num_layers:
                x = between(layer + 1, x)
        if scored is not None and x.dim() == 3:
            x = x.flatten(0, 1).index_select(0, scored)
        balance_loss = torch.stack(balances).mean() if balances else x.new_zeros(())
        return TransformerOutput(self.norm(x), balance_loss)

    @property
    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _attention_mask(self, mask: Tensor | None, cache: KVCache | None, time: int) -> Tensor | None:
        """Keys that each query attends to: (batch, 1, time or 1, keys) of bool; None where no mask is needed."""
        if cache is not None:
            if mask is not None:
                raise ValueError("give a mask or a cache, not both: a cache masks by the lengths that `advance` counts")
            return cache.mask(time)
        if mask is None:
            return None
        visible = mask[:, None, None, :]
        if self.causal:
            # With the diagonal, padded rows stay finite: a query without any key would be NaN.
            order = torch.arange(time, device=mask.device)
            visible = (visible & (order <= order[:, None])) | (order == order[:, None])
        return visible
