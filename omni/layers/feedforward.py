"""The feed-forward network of a Transformer block."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.linear import Linear

Activation = Literal["swiglu", "gelu"]


def activate(x: Tensor, activation: Activation) -> Tensor:
    """SwiGLU (arXiv:2002.05202), which halves the last axis, or GELU."""
    if activation == "swiglu":
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value
    return F.gelu(x)


class FeedForward(nn.Module):
    """Up, activation, down.

    Args:
        dim: Width of input and output.
        ffn_dim: Hidden width.
        activation: `swiglu` has a third matrix, the gate, stored in `up`: one matrix product for both.
    """

    def __init__(self, dim: int, ffn_dim: int, *, activation: Activation = "swiglu") -> None:
        super().__init__()
        self.activation: Activation = activation
        self.up = Linear(dim, 2 * ffn_dim if activation == "swiglu" else ffn_dim, bias=False)
        self.down = Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, time, dim) to the same shape."""
        return self.down(activate(self.up(x), self.activation))
