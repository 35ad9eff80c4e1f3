"""Masks of padded rows."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Marks the positions before each row's length.

    Args:
        lengths: (batch,), integers.
        size: Number of positions, padding included.

    Returns:
        (batch, size), bool: false at padding.
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]
