"""Rotary position embedding over one or several axes."""

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Angles of rotary position embedding (Su et al. 2021, arXiv:2104.09864), for one or several position axes.

    With several axes, frequency `i` belongs to axis `i mod num_axes`, so that each axis has high and low frequencies.
    Where all axes hold the same number, as for text, the result equals that of one axis exactly (TM-RoPE with time,
    height and width; Qwen2.5-Omni, arXiv:2503.20215).

    Args:
        head_dim: Size of an attention head, even.
        theta: Base of the geometric series of wavelengths.
        num_axes: Number of position axes: 1 for text and sound, 2 for images, 3 for time, height and width.
    """

    def __init__(self, head_dim: int, *, theta: float = 10_000.0, num_axes: int = 1) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary embedding rotates pairs of numbers: head_dim must be even, not {head_dim}")
        self.head_dim, self.theta, self.num_axes = head_dim, theta, num_axes

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Computes cosines and sines.

        Args:
            positions: (time,), (batch, time) or, with several axes, (num_axes, batch, time). Without the axis
                dimension all axes hold the same position.

        Returns:
            Cosines and sines, each (batch or 1, time, 1, head_dim / 2), in fp32.

        Raises:
            ValueError: If the first of three dimensions is not `num_axes`.
        """
        half = self.head_dim // 2
        # Computed in fp32 each time: as a buffer, `model.bfloat16()` would round the frequencies.
        index = torch.arange(half, device=positions.device)
        frequencies = self.theta ** (-index.float() / half)
        if positions.dim() == 3:
            if len(positions) != self.num_axes:
                raise ValueError(f"positions have {len(positions)} axes, the rotary embedding {self.num_axes}")
            angles = positions[index % self.num_axes].movedim(0, -1) * frequencies
        else:
            angles = torch.atleast_2d(positions)[..., None] * frequencies
        return angles.cos().unsqueeze(-2), angles.sin().unsqueeze(-2)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates the pairs `(x[i], x[i + head_dim / 2])` of `x` (batch, time, heads, head_dim) by the given angles."""
    cosines, sines = cosines.to(x.dtype), sines.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
