"""ConvNeXt blocks over time, and what they remember of a stream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.norm import RMSNorm


class ConvCache:
    """The last frames that each convolution has seen, so that the next ones can be computed alone."""

    def __init__(self) -> None:
        self._past: dict[nn.Module, Tensor] = {}

    def extend(self, conv: nn.Module, x: Tensor, frames: int) -> Tensor:
        """Puts the last `frames` frames before `x` (batch, dim, time), and remembers those of `x`."""
        x = torch.cat((self._past.get(conv, x.new_zeros(*x.shape[:2], frames)), x), dim=2)
        self._past[conv] = x[..., x.shape[2] - frames :]
        return x


class ConvNeXt(nn.Module):
    """Depthwise convolution over time, norm, a wide layer, GELU, and a scale that starts small, beside a residual.

    ConvNeXt (arXiv:2201.03545) over time, as in Vocos (arXiv:2306.00814), with RMSNorm.

    Args:
        dim: Width.
        kernel_size: Frames that the convolution spans.
        expansion: How many times as wide the wide layer is.
        causal: Whether they are the present frame and those before it, or as many before as behind it.
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
        """Maps (batch, time, dim) to the same shape; with a cache, `x` goes on where the last one ended."""
        y = x.transpose(1, 2)
        y = F.pad(y, (self.past, self.future)) if cache is None else cache.extend(self.depthwise, y, self.past)
        y = self.norm(self.depthwise(y).transpose(1, 2))
        return x + self.scale * self.down(F.gelu(self.up(y)))


class ConvNeXtStack(nn.Module):
    """Several blocks, one after the other.

    Args:
        dim: Width.
        num_layers: Blocks; 0 leaves everything as it is.
        kernel_size: See `ConvNeXt`.
        expansion: See `ConvNeXt`.
        causal: See `ConvNeXt`.
    """

    def __init__(
        self, dim: int, num_layers: int, *, kernel_size: int = 7, expansion: int = 3, causal: bool = True
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvNeXt(dim, kernel_size=kernel_size, expansion=expansion, causal=causal) for _ in range(num_layers)
        )

    def forward(self, x: Tensor, cache: ConvCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Maps (batch, time, dim) to the same shape; what `mask` (batch, time) is false of counts as zeros."""
        for block in self.blocks:
            x = block(x if mask is None else x * mask[..., None], cache)
        return x
