"""Image stems: from pixels to a grid of vectors, by one matrix per patch or by small convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchStem(nn.Module):
    """Cuts an image into squares and maps each by one matrix (ViT, arXiv:2010.11929).

    Args:
        dim: Width of the result.
        patch_size: Side of a square in pixels.
        channels: Channels of the image.
    """

    def __init__(self, dim: int, *, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Linear(channels * patch_size**2, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (batch, channels, height, width) to (batch, height / patch_size, width / patch_size, dim)."""
        batch, channels, height, width = images.shape
        size = self.patch_size
        grid = images.reshape(batch, channels, height // size, size, width // size, size)
        return self.projection(grid.permute(0, 2, 4, 3, 5, 1).flatten(3))


class ConvStem(nn.Module):
    """3 × 3 convolutions of stride 2 until a patch is one pixel (arXiv:2106.14881), each followed by residual ones.

    With this stem a Transformer learns from few images; with one matrix per patch it needs millions.

    Args:
        dim: Width of the result.
        patch_size: Side of a patch in pixels, a power of two.
        width: Channels after the first halving; each further one doubles them.
        depth: Convolutions at each resolution: the one of stride 2 and `depth - 1` residual ones.
        dropout: Probability that a residual convolution is skipped for an image in training (arXiv:1603.09382).
        channels: Channels of the image.
    """

    def __init__(
        self, dim: int, *, patch_size: int, width: int = 32, depth: int = 1, dropout: float = 0.0, channels: int = 3
    ) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if patch_size < 2 or 2**halvings != patch_size:
            raise ValueError(f"a conv stem halves the image: patch_size must be 2, 4, 8, 16 or 32, not {patch_size}")
        stages: list[nn.Module] = []
        for number in range(halvings):
            wider = width * 2**number
            stages.append(_Halving(channels, wider))
            stages += [_Residual(wider, dropout=dropout) for _ in range(depth - 1)]
            channels = wider
        self.stages = nn.Sequential(*stages)
        self.projection = nn.Linear(channels, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (batch, channels, height, width) to (batch, height / patch_size, width / patch_size, dim)."""
        return self.projection(self.stages(images).permute(0, 2, 3, 1))


class ChannelNorm(nn.Module):
    """LayerNorm of each pixel over its channels: an image's result does not depend on its batch.

    Not RMSNorm, for which PyTorch has no CPU kernel: `F.layer_norm` trains 3 × as fast there.

    Args:
        channels: Channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x` (batch, channels, height, width), fastest in channels-last memory format."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias).permute(0, 3, 1, 2)


class _Halving(nn.Module):
    """A convolution of stride 2, norm, GELU."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False)
        self.norm = ChannelNorm(wider)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, channels, height, width) to (batch, wider, height / 2, width / 2)."""
        return F.gelu(self.norm(self.conv(x)))


class _Residual(nn.Module):
    """A convolution, norm, GELU, beside a residual."""

    def __init__(self, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (batch, channels, height, width)."""
        update = F.gelu(self.norm(self.conv(x)))
        if self.training and self.dropout:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype) >= self.dropout
            update = update * kept / (1 - self.dropout)
        return x + update
