"""Mixture of experts in place of the position-wise network."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.distributed import sum_over_ranks
from omni.layers.feedforward import Activation, activate
from omni.layers.readout import readout

_ALIGNMENT = 8  # numbers of bf16 in the 16 bytes that the grouped product reads at once


@torch.library.custom_op("omni::grouped_mm", mutates_args=())
def _opaque_grouped_mm(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(a, b, offs=ends)


@_opaque_grouped_mm.register_fake
def _(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[2]) if b.dim() == 3 else a.new_empty(len(ends), a.shape[0], b.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    a, b, ends = ctx.saved_tensors
    return _opaque_grouped_mm(gradient, b.mT, ends), _opaque_grouped_mm(a.mT, gradient, ends), None


_opaque_grouped_mm.register_autograd(_backward, setup_context=_keep)


def _grouped_mm(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    """Rows of `a` (rows, in) up to each of `ends` by one matrix of `b` (groups, in, out) each: (rows, out).

    `torch.compile` refuses PyTorch's operation in fp32, which runs uncompiled: there it is called as an opaque one.
    """
    if torch.compiler.is_compiling() and a.dtype == torch.float32:
        return _opaque_grouped_mm(a, b, ends)
    return F.grouped_mm(a, b, offs=ends)


class MixtureOfExperts(nn.Module):
    """Each token is worked on by its `experts_per_token` best experts (Mixtral, arXiv:2401.04088). None is dropped.

    Token–expert pairs are sorted by expert and all experts run as one grouped matrix product: no loop over tokens or
    experts, no capacity, and in bf16 on a GPU nothing that the host must wait for (elsewhere PyTorch's own fallback of
    `grouped_mm` loops over the experts). Dropping nothing also means that a token's result does not depend on its
    neighbours: cached decoding equals uncached.

    Args:
        dim: Width of input and output; a multiple of 8, as all widths of experts.
        ffn_dim: Width inside an expert.
        num_experts: Number of experts.
        experts_per_token: How many work on a token.
        activation: As in `FeedForward`.
        out_dim: Width of the output, where it is another than `dim`.
        balance_over_ranks: Whether the balance loss counts the tokens that each expert gets over all ranks
            (arXiv:2501.11873), so that training on several ranks equals training on one. It takes an exchange in every
            forward pass in training mode, so it must be False where a rank may have nothing to route.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        *,
        out_dim: int | None = None,
        num_experts: int,
        experts_per_token: int = 2,
        activation: Activation = "swiglu",
        balance_over_ranks: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= num_experts:
            raise ValueError(f"experts_per_token must lie in 1..{num_experts}, not {experts_per_token}")
        for name, size in {"dim": dim, "ffn_dim": ffn_dim, "out_dim": out_dim or dim}.items():
            if size % _ALIGNMENT:
                raise ValueError(f"{name} is {size}: widths of experts must be multiples of {_ALIGNMENT}")
        self.num_experts, self.experts_per_token = num_experts, experts_per_token
        self.activation: Activation = activation
        self.balance_over_ranks = balance_over_ranks
        self.router = readout(nn.Linear(dim, num_experts, bias=False))
        width = 2 * ffn_dim if activation == "swiglu" else ffn_dim
        self.up = nn.Parameter(torch.empty(num_experts, dim, width))
        self.down = nn.Parameter(torch.empty(num_experts, ffn_dim, out_dim or dim))
        for weight in (self.up, self.down):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    @property
    def num_idle_parameters(self) -> int:
        """Parameters of the experts that do not work on a token."""
        return (self.up[0].numel() + self.down[0].numel()) * (self.num_experts - self.experts_per_token)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Routes and computes.

        Args:
            x: (batch, time, dim).
            mask: (batch, time) of bool, true where a token is no padding. Padding does not count in the balance.

        Returns:
            (batch, time, out_dim), and the balance loss: a scalar, 1 when all experts are used alike.
        """
        tokens = x.flatten(0, 1)
        probabilities = F.softmax(self.router(tokens).float(), dim=-1)
        weights, experts = probabilities.topk(self.experts_per_token, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        chosen = experts[..., None] == torch.arange(self.num_experts, device=x.device)  # (tokens, chosen, experts)

        order = experts.flatten().argsort(stable=True)
        ends = chosen.sum((0, 1)).cumsum(0).to(torch.int32)
        dtype = self._product_dtype(x)
        hidden = _grouped_mm(tokens.to(dtype)[order // self.experts_per_token], self.up.to(dtype), ends)
        outputs = _grouped_mm(activate(hidden, self.activation), self.down.to(dtype), ends)
        outputs = outputs[order.argsort()].unflatten(0, (-1, self.experts_per_token))
        mixed = (outputs * weights[..., None].to(dtype)).sum(1)
        return mixed.to(x.dtype).unflatten(0, x.shape[:2]), self._balance(chosen.sum(1), probabilities, mask)

    def z_loss(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean square of the logarithm of the router's partition function (ST-MoE, arXiv:2202.08906), a scalar.

        It keeps the router's logits small, where rounding does not change its choice. Arguments as in `forward`.
        """
        squares = self.router(x).float().logsumexp(-1).square()
        if mask is None:
            return squares.mean()
        return (squares * mask).sum() / mask.sum().clamp(min=1)

    @staticmethod
    def _product_dtype(x: Tensor) -> torch.dtype:
        """What autocast would choose, were grouped_mm on its list; on the meta device it exists in bf16 only."""
        if x.device.type == "meta":
            return torch.bfloat16
        return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype

    def _balance(self, chosen: Tensor, probabilities: Tensor, mask: Tensor | None) -> Tensor:
        """Share of tokens routed to each expert × its mean probability (Switch Transformer, arXiv:2101.03961)."""
        valid = torch.ones_like(probabilities[:, :1]) if mask is None else mask.flatten()[:, None].float()
        count = valid.sum().clamp(min=1)
        routed = (chosen * valid).sum(0)
        if self.training and self.balance_over_ranks:
            routed = sum_over_ranks(routed)
        routed = routed / routed.sum().clamp(min=1)
        expected = (probabilities * valid).sum(0) / count
        return self.num_experts * (routed * expected).sum()
