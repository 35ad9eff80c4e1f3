"""ConvNeXt blocks over time, and their state in a stream."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.norm import RMSNorm


class ConvCache:
    """The last input frames of each convolution, so that a stream can be computed piece by piece.

    Args:
        past: Frames (batch, dim, frames) of convolutions; zeros for the others.
    """

    def __init__(self, past: Mapping[nn.Module, Tensor] | None = None) -> None:
        self._past = dict(past or {})

    def past(self, conv: nn.Module) -> Tensor:
        """The stored frames of a convolution, (batch, dim, frames)."""
        return self._past[conv]

    def extend(self, conv: nn.Module, x: Tensor, frames: int) -> Tensor:
        """Prepends the last `frames` frames to `x` (batch, dim, time), and stores those of `x`."""
        x = torch.cat((self._past.get(conv, x.new_zeros(*x.shape[:2], frames)), x), dim=2)
        self._past[conv] = x[..., x.shape[2] - frames :]
        return x


class ConvNeXt(nn.Module):
    """Depthwise convolution over time, norm, expansion, GELU, projection, layer scale, and a residual connection.

    ConvNeXt (arXiv:2201.03545) over time, as in Vocos (arXiv:2306.00814), with RMSNorm.

    Args:
        dim: Width.
        kernel_size: Span of the convolution in frames.
        expansion: Hidden width relative to `dim`.
        causal: Whether the convolution reads only the current frame and earlier ones, or as many later ones.
    """

    def __init__(self, dim: int, *, kernel_size: int = 7, expansion: int = 3, causal: bool = True) -> None:
        super().__init__()
        self.past = kernel_size - 1 if causal else kernel_size // 2
        self.future = kernel_size - 1 - self.past
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, groups=dim)
        self.norm = RMSNorm(dim)
        self.up = nn.Linear(dim, expansion * dim)
        self.down = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor, cache: ConvCache | None = None) -> Tensor:
        """Maps (batch, time, dim) to the same shape; with a cache, `x` continues the previous one."""
        y = x.transpose(1, 2)
        y = F.pad(y, (self.past, self.future)) if cache is None else cache.extend(self.depthwise, y, self.past)
        y = self.norm(self.depthwise(y).transpose(1, 2))
        return x + self.scale * self.down(F.gelu(self.up(y)))


class ConvNeXtStack(nn.Module):
    """A sequence of blocks.

    Args:
        dim: Width.
        num_layers: Number of blocks; 0 for the identity.
        kernel_size: Span of a block's convolution in frames.
        expansion: Hidden width of a block relative to `dim`.
        causal: Whether blocks read past frames only.
    """

    def __init__(
        self, dim: int, num_layers: int, *, kernel_size: int = 7, expansion: int = 3, causal: bool = True
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvNeXt(dim, kernel_size=kernel_size, expansion=expansion, causal=causal) for _ in range(num_layers)
        )

    def forward(self, x: Tensor, cache: ConvCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Maps (batch, time, dim) to the same shape; frames where `mask` (batch, time) is false count as zeros."""
        for block in self.blocks:
            x = block(x if mask is None else x * mask[..., None], cache)
        return x
