"""Root-mean-square normalisation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis and scales (Zhang & Sennrich 2019, arXiv:1910.07467).

    The weight is stored in the precision of the parameters and cast to that of the input: `nn.RMSNorm` with fp32
    weights and bf16 input leaves PyTorch's fused kernel and warns.

    Args:
        shape: Last axes of the input, with a scale for each entry; the mean is over the last axis alone. The weight is
            stored flat, so that optimizers treat it as a scale and not as a matrix: no decay, no Muon.
        eps: Added to the mean square.
    """

    def __init__(self, *shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(math.prod(shape)))
        self.shape, self.eps = shape, eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x` (..., *shape); shape and dtype stay."""
        weight = self.weight.to(x.dtype)
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            # PyTorch's own runs a dozen operations here: a fifth of the time of decoding a token, measured.
            size = x.shape[-1]
            square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
            return (x * square.div_(size).add_(self.eps).rsqrt_().to(x.dtype)).mul_(weight.view(self.shape))
        if len(self.shape) == 1:
            return F.rms_norm(x, self.shape, weight, self.eps)
        return F.rms_norm(x, self.shape[-1:], None, self.eps) * weight.view(self.shape)
