"""Mixture of experts, in place of the feed-forward network."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.distributed import num_ranks, sum_over_ranks
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

    In fp32 `torch.compile` refuses PyTorch's operation, which works uncompiled: there it is an opaque custom one.
    """
    if torch.compiler.is_compiling() and a.dtype == torch.float32:
        return _opaque_grouped_mm(a, b, ends)
    return F.grouped_mm(a, b, offs=ends)


class RouterUse(NamedTuple):
    """Statistics of a router: sums over a rank's tokens, padding left out.

    Attributes:
        routed: (experts,): number of tokens routed to each expert, without gradient.
        shares: (experts,): the router's probabilities.
        squares: Scalar: squared log partition function.
    """

    routed: Tensor
    shares: Tensor
    squares: Tensor


class RouterLosses(NamedTuple):
    """Auxiliary losses of a router. The mean over ranks is the loss of all tokens together.

    Attributes:
        balance: Share of tokens routed to each expert × its mean probability (Switch Transformer, arXiv:2101.03961),
            a scalar, 1 where all experts are used equally.
        z: Mean squared log partition function (ST-MoE, arXiv:2202.08906), a scalar. It keeps logits small, so that
            rounding does not change the choice of experts.
    """

    balance: Tensor
    z: Tensor


def router_losses(use: RouterUse, routed: Tensor, *, experts_per_token: int) -> RouterLosses:
    """The losses of a router.

    Args:
        use: Statistics of this rank's tokens.
        routed: `use.routed`, summed over the ranks whose tokens count together (arXiv:2501.11873).
        experts_per_token: Experts chosen for each token.
    """
    pairs = routed.sum().clamp(min=1)
    tokens = pairs / (experts_per_token * num_ranks())  # of a rank, on average
    return RouterLosses(len(routed) * (routed / pairs * use.shares).sum() / tokens, use.squares / tokens)


class MixtureOfExperts(nn.Module):
    """Top-k routing (Mixtral, arXiv:2401.04088) without dropped tokens.

    Token–expert pairs are sorted by expert, and all experts run as one grouped matrix product: no loop over tokens or
    experts, no capacity, and in bf16 on a GPU no host synchronisation (elsewhere PyTorch's fallback of `grouped_mm`
    loops over experts). Without dropped tokens a token's result does not depend on its neighbours: cached decoding
    equals uncached.

    Args:
        dim: Width of input and output; a multiple of 8, as all widths of experts.
        ffn_dim: Width inside an expert.
        num_experts: Number of experts.
        experts_per_token: Experts chosen for each token.
        activation: As in `FeedForward`.
        out_dim: Width of the output; `dim` if not given.
        balance_over_ranks: Whether the balance loss is over the tokens of all ranks, so that training on several ranks
            equals training on one. It needs a collective in every training forward pass, so it must be False where a
            rank may have no tokens. Accumulated batches are balanced one by one.
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
        """Parameters of the experts that a token does not use."""
        return (self.up[0].numel() + self.down[0].numel()) * (self.num_experts - self.experts_per_token)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Routes tokens to experts.

        Args:
            x: (batch, time, dim).
            mask: (batch, time) of bool, false at padding, which is not balanced.

        Returns:
            (batch, time, out_dim), and the balance loss, see `RouterLosses`.
        """
        tokens = x.flatten(0, 1)
        logits = self.router(tokens).float()
        probabilities = F.softmax(logits, dim=-1)
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
        use = self._use(chosen.sum(1), probabilities, logits, mask)
        return mixed.to(x.dtype).unflatten(0, x.shape[:2]), self._balance(use)

    def use(self, x: Tensor, mask: Tensor | None = None) -> RouterUse:
        """Statistics of the router; arguments as in `forward`."""
        logits = self.router(x.flatten(0, -2)).float()
        chosen = logits.topk(self.experts_per_token, dim=-1).indices
        experts = torch.arange(self.num_experts, device=x.device)
        return self._use((chosen[..., None] == experts).sum(1), logits.softmax(-1), logits, mask)

    def no_use(self) -> RouterUse:
        """Statistics of no tokens."""
        zeros = torch.zeros(self.num_experts, device=self.router.weight.device)
        return RouterUse(zeros, zeros, zeros.sum())

    @staticmethod
    def _product_dtype(x: Tensor) -> torch.dtype:
        """The dtype that autocast would choose if it knew grouped_mm; on the meta device there is bf16 only."""
        if x.device.type == "meta":
            return torch.bfloat16
        return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype

    def _balance(self, use: RouterUse) -> Tensor:
        together = self.training and self.balance_over_ranks
        routed = sum_over_ranks(use.routed) if together else use.routed * num_ranks()
        return router_losses(use, routed, experts_per_token=self.experts_per_token).balance

    @staticmethod
    def _use(chosen: Tensor, probabilities: Tensor, logits: Tensor, mask: Tensor | None) -> RouterUse:
        """Sums over tokens; `chosen` (tokens, experts) is 1 for the chosen experts."""
        valid = torch.ones_like(probabilities[:, :1]) if mask is None else mask.flatten()[:, None].float()
        squares = logits.logsumexp(-1).square() * valid[:, 0]
        return RouterUse((chosen * valid).sum(0), (probabilities * valid).sum(0), squares.sum())
