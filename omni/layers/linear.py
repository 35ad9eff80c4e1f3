"""A linear layer whose matrix products have few shapes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS = 128  # matrix products have multiples of it


class Linear(nn.Linear):
    """A linear layer that pads its rows to a multiple of 128 where the CPU trains in half precision.

    There oneDNN compiles each product for its shape, in about a millisecond, and batches of utterances or conversations
    have ever new numbers of rows: with AMX that was a fifth of the time of training, measured.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        rows = input.numel() // self.in_features
        if input.device.type != "cpu" or dtype.itemsize != 2 or not torch.is_grad_enabled() or rows < ROWS:
            return super().forward(input)
        flat, missing = input.reshape(rows, self.in_features), -rows % ROWS
        if torch.compiler.is_compiling():  # the compiler makes it a part of what comes before and after
            output = super().forward(F.pad(flat, (0, 0, 0, missing)))[:rows]
        else:
            padded: Any = _Padded.apply(flat, missing, dtype)
            output: Any = _Cropped.apply(super().forward(padded), rows)
        return output.view(*input.shape[:-1], self.out_features)


class _Padded(torch.autograd.Function):
    """Adds rows of zeros, and casts, in one pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, missing: int, dtype: torch.dtype) -> Tensor:
        ctx.dtype, ctx.rows = x.dtype, len(x)
        return _padded(x, missing, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad[: ctx.rows].to(ctx.dtype), None, None


class _Cropped(torch.autograd.Function):
    """Removes the added rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int) -> Tensor:
        ctx.missing = len(x) - rows
        return x[:rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _padded(grad, ctx.missing, grad.dtype), None


def _padded(x: Tensor, missing: int, dtype: torch.dtype) -> Tensor:
    padded = x.new_empty(len(x) + missing, x.shape[1], dtype=dtype)
    padded[: len(x)].copy_(x)
    padded[len(x) :].zero_()
    return padded
