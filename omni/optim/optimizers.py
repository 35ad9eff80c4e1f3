"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omni.distributed import local_share, on_whole_matrices
from omni.errors import UserError
from omni.layers.moe import MixtureOfExperts
from omni.layers.readout import is_readout
from omni.optim.precision import multiplies_bf16

OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "constant"]


def adamw(module: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over all trainable parameters; norms and scales do not decay."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    # A fused optimizer declares that it unscales fp16 gradients itself, and Lightning then refuses to clip any, in bf16
    # too. Without the declaration the scaler unscales them before they are clipped.
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


class Muon(Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), for matrices.

    Its steps equal those of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Moonlight, arXiv:2502.16982).
    PyTorch's always computes in bf16, one matrix after another; on a CPU without bf16 in hardware it took 9 × the time
    of the forward and backward pass. This one computes in the precision that is fast on the device (on a CPU with bf16,
    3 to 5 × as fast as fp32), and all matrices of one shape together.

    Args:
        params: Matrices, or stacks of them, (..., rows, columns).
        lr: Learning rate; the RMS of an update is 0.2 × this, about that of AdamW.
        momentum: Decay of the (Nesterov) momentum.
        weight_decay: Decoupled decay.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a quintic; 5 iterations take singular values to about 1
    ITERATIONS = 5

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; matrices without a gradient are skipped."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                momenta = [self._momentum(p, group["momentum"]) for p in parameters]
                updates = on_whole_matrices(self._orthogonalise_stack, momenta)
                scale = 0.2 * max(shape[-2:]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    share = local_share(parameter)
                    share.mul_(1 - group["lr"] * group["weight_decay"])
                    share.add_(update.to(share.dtype), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: nn.Parameter, decay: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter.grad)
        state["momentum"].lerp_(parameter.grad, 1 - decay)
        return parameter.grad.lerp(state["momentum"], decay)

    @classmethod
    def _orthogonalise_stack(cls, stack: Tensor) -> Tensor:
        return cls.orthogonalise(stack.reshape(-1, *stack.shape[-2:])).view_as(stack)

    @classmethod
    def orthogonalise(cls, matrices: Tensor) -> Tensor:
        """Takes all singular values of (count, rows, columns) to about 1, by Newton–Schulz iterations."""
        a, b, c = cls.COEFFICIENTS
        x = matrices.to(torch.bfloat16 if multiplies_bf16(matrices.device) else torch.float32)
        tall = x.shape[1] > x.shape[2]
        x = x.mT if tall else x
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        if x.dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1]:
            x = cls._polynomial(x @ x.mT) @ x
        else:
            for _ in range(cls.ITERATIONS):
                gram = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x

    @classmethod
    def _polynomial(cls, gram: Tensor) -> Tensor:
        """The product of all iterations' factors of `x`, from its small Gram matrix alone.

        Used where the matrix is much larger than its Gram matrix (192 × 1,024: 0.55 of the operations), and in fp32
        only, because squaring loses half of the digits.
        """
        a, b, c = cls.COEFFICIENTS
        unit = a * torch.eye(gram.shape[-1], device=gram.device)
        product = factor = unit + b * gram + c * gram @ gram
        for _ in range(cls.ITERATIONS - 1):
            gram = factor @ gram @ factor
            factor = unit + b * gram + c * gram @ gram
            product = factor @ product
        return product


class MuonWithAdamW(Optimizer):
    """Muon for hidden matrices, AdamW for the rest, as one optimizer.

    Lightning's automatic optimization takes a single optimizer. Muon's updates have the RMS of AdamW's, so both share
    one learning rate.

    Args:
        muon: The optimizer of the hidden matrices; None if none is trained.
        adamw: The optimizer of embeddings, heads, norms and scales; None if only hidden matrices are trained.
    """

    def __init__(self, muon: Muon | None, adamw: torch.optim.AdamW | None) -> None:
        self.optimizers: list[Optimizer] = [each for each in (muon, adamw) if each is not None]
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})
        self._share_groups()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Both optimizers' steps."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state from `state_dict`.

        Raises:
            UserError: If the state belongs to other parameters: earlier versions gave other matrices to Muon.
        """
        states = state_dict["optimizers"]
        if _sizes(states) != _sizes([optimizer.state_dict() for optimizer in self.optimizers]):
            raise UserError(
                "the checkpoint's optimizer holds other parameters (earlier versions trained some heads with Muon), so "
                "the run cannot be resumed: start a new one from its parts with --init_from"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        # The same dictionaries, not copies: a schedule that sets them here sets them in both optimizers.
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


def _sizes(states: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Number of parameters in each group of each optimizer."""
    return [[len(group["params"]) for group in state["param_groups"]] for state in states]


def muon(
    module: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    momentum: float = 0.95,
) -> MuonWithAdamW:
    """Muon for the matrices of linear layers and experts; AdamW for embeddings, scales and convolutions.

    AdamW also trains the linear layers that `omni.layers.readout` marks: heads and routers.
    """
    matrices: set[int] = set()
    for child in module.modules():
        if isinstance(child, nn.Linear) and not is_readout(child):
            matrices.add(id(child.weight))
        elif isinstance(child, MixtureOfExperts):
            matrices |= {id(child.up), id(child.down)}
    matrices -= {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}  # a tied head
    trainable = [p for p in module.parameters() if p.requires_grad]
    hidden = [p for p in trainable if id(p) in matrices]
    rest = nn.ParameterList([p for p in trainable if id(p) not in matrices])
    return MuonWithAdamW(
        Muon(hidden, lr=lr, momentum=momentum, weight_decay=weight_decay) if hidden else None,
        adamw(rest, lr=lr, betas=betas, weight_decay=weight_decay) if len(rest) else None,
    )


def split_by_part(optimizer: Optimizer, parts: Mapping[str, nn.Module], rates: Mapping[str, float]) -> None:
    """Splits the parameter groups of a new optimizer by part, each with its own learning rate.

    Args:
        optimizer: From `adamw` or `muon`, before its first step.
        parts: Modules by name. All other parameters form one group.
        rates: Learning rates by part; others keep the optimizer's.
    """
    owners = {id(parameter): name for name, part in parts.items() for parameter in part.parameters()}
    for one in optimizer.optimizers if isinstance(optimizer, MuonWithAdamW) else (optimizer,):
        groups = []
        for group in one.param_groups:
            shares: dict[str, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shares.setdefault(owners.get(id(parameter), ""), []).append(parameter)
            for name, some in shares.items():
                groups.append({**group, "params": some, "part": name, "lr": rates.get(name, group["lr"])})
        one.param_groups = groups
    if isinstance(optimizer, MuonWithAdamW):
        optimizer._share_groups()


def lr_factor(step: int, *, schedule: Schedule, warmup_steps: int, total_steps: float, final: float) -> float:
    """The learning rate at an optimizer step, relative to its peak.

    Args:
        step: Number of steps made so far.
        schedule: Decay after the linear warm-up.
        warmup_steps: Steps until the peak.
        total_steps: Steps of the whole run; infinite only with `constant`.
        final: Learning rate at the end, relative to the peak.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * left


def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor | float) -> None:
    """Multiplies all gradients in place; the factor may be on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
