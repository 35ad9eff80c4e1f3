"""The convolution module of a Conformer block."""

import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.linear import Linear
from omni.layers.norm import RMSNorm


class ConvModule(nn.Module):
    """Gate, depthwise convolution over time, norm, SiLU, projection (Conformer, arXiv:2005.08100).

    Batch norm is replaced by RMSNorm, so that a row's result does not depend on its batch.

    Args:
        dim: Width of input and output.
        kernel_size: Span of the convolution in frames, odd.
        causal: Whether it reads only the current frame and earlier ones.
    """

    def __init__(self, dim: int, *, kernel_size: int, causal: bool = False) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"the convolution's kernel_size must be odd, not {kernel_size}")
        self.padding = (kernel_size - 1, 0) if causal else (kernel_size // 2, kernel_size // 2)
        self.gate = Linear(dim, 2 * dim, bias=False)
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, groups=dim, bias=False)
        self.norm = RMSNorm(dim)
        self.out = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (batch, time, dim) to the same shape; `mask` (batch, time) is false at padding, which becomes zero."""
        x = F.glu(self.gate(x), dim=-1)
        if mask is not None:
            x = x * mask[..., None]
        x = self.depthwise(F.pad(x.transpose(1, 2), self.padding)).transpose(1, 2)
        return self.out(F.silu(self.norm(x)))
