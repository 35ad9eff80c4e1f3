"""Linear layers with weights of 8 bits for products with a few rows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.linear import Linear


class Int8Linear(nn.Module):
    """A linear layer that multiplies a few rows by weights of 8 bits, and more rows by those it was made of.

    A product with one row waits for its weights: as int8 they are a quarter of their size in fp32. Each output has a
    scale of its own, activations are rounded to bf16, and sums are in fp32 (the scheme of gpt-fast's weight-only
    quantization). Inference on a CPU only.

    Measured for 12.7 M weights in 28 matrices on 2 cores (AMD EPYC): 0.5 ms for one row (fp32: 6.0, bf16: 3.3), 2.5 ms
    for eight (16 and 3.6).

    Args:
        linear: The layer; its weights stay, for products with more rows.

    Raises:
        ValueError: If its inputs are not a multiple of `BLOCK`.
    """

    MOST_ROWS = 8  # from 16 on, products with weights in bf16 are faster
    BLOCK = 32  # inputs that PyTorch's kernel reads at once; beyond a multiple it reads other memory

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if linear.in_features % self.BLOCK:
            raise ValueError(f"the inputs of a layer must be a multiple of {self.BLOCK}, not {linear.in_features}")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("scales", scales.bfloat16(), persistent=False)
        self.register_buffer("rounded", self._round(weight), persistent=False)

    scales: Tensor
    rounded: Tensor

    def _round(self, weight: Tensor) -> Tensor:
        """(out, in) of int8; by the scales as they are stored, whose rounding would be an error of its own."""
        return (weight / self.scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        rows = x.shape[:-1].numel()
        if rows > self.MOST_ROWS or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        flat = x.reshape(rows, self.in_features).bfloat16()
        product = torch.ops.aten._weight_int8pack_mm(flat, self.rounded, self.scales)
        product = product.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


def quantize_linears(module: nn.Module) -> int:
    """Replaces the linear layers of a module on a CPU, in place, where `Int8Linear` can; returns their number."""
    count = 0
    for parent in [*module.modules()]:
        for name, child in [*parent.named_children()]:
            if not (isinstance(child, nn.Linear) and child.weight.device.type == "cpu"):
                continue
            if type(child) in (nn.Linear, Linear) and child.in_features % Int8Linear.BLOCK == 0:
                setattr(parent, name, Int8Linear(child))
                count += 1
    return count
