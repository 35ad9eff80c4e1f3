"""Projectors: from the features of an encoder to tokens of the Thinker."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.feedforward import activate
from omni.layers.linear import Linear
from omni.layers.mask import length_mask
from omni.layers.moe import MixtureOfExperts, RouterUse
from omni.layers.norm import RMSNorm
from omni.layers.querying import WindowedQueries
from omni.layers.readout import readout
from omni.models.part import Part


class ProjectorOutput(NamedTuple):
    """What a projector returns.

    Attributes:
        tokens: (batch, tokens, out_dim).
        router_use: How its experts were used, in training; None without experts.
    """

    tokens: Tensor
    router_use: RouterUse | None


class Projector(Part, ABC):
    """Abstract: maps the features of an encoder to the width of the Thinker's embeddings.

    Features whose scale differs much from that of the text tokens stall the start of training. So the output is
    normalised, and scaled to the root mean square of the Thinker's token embeddings: `calibrate` sets this scale once,
    before training. It is a buffer and not a weight, because steps that suit weights near 1 would be too large for it.

    A subclass implements `project`. Its constructor calls `super().__init__`, makes its layers, then calls
    `add_output`: parameters are then in the order in which data passes them.

    Args:
        in_dim: Width of a feature.
        out_dim: Width of the Thinker.
        frame_stacking: Features that become one token.
        learned_positions: 0, or the number of tokens that every medium has, as an image. Each position then learns a
            vector with the scale of the tokens, so that the Thinker can tell positions apart from the start. For a
            square of tokens it is initialised as the sum of a row's and a column's (as in NaViT, arXiv:2307.06304).

    Attributes:
        width: Width of the input of `project`.
        experts: A mixture of experts over the input of `project`, whose router is to be balanced; None without one.
    """

    stacks_features: ClassVar[bool] = True
    """Whether a token is made of its own `frame_stacking` features alone, concatenated."""

    def __init__(self, *, in_dim: int, out_dim: int, frame_stacking: int = 1, learned_positions: int = 0) -> None:
        super().__init__()
        _check_positive(frame_stacking=frame_stacking)
        if learned_positions < 0:
            raise ValueError(f"learned_positions must be 0 or more, not {learned_positions}")
        self.in_dim, self.out_dim, self.frame_stacking = in_dim, out_dim, frame_stacking
        self.num_positions = learned_positions
        self.width = frame_stacking * in_dim if self.stacks_features else in_dim
        self.input_norm = RMSNorm(self.width)
        self.experts: MixtureOfExperts | None = None

    scale: Tensor

    def add_output(self) -> None:
        """Ends construction: initialises linear layers with variance 1 / fan-in, adds output norm, positions, scale."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        self.output_norm = RMSNorm(self.out_dim)
        table = _initial_positions(self.num_positions, self.out_dim) if self.num_positions else None
        self.learned_positions = None if table is None else nn.Parameter(table)
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, rms: float) -> None:
        """Sets the root mean square of the output."""
        self.scale.fill_(rms)

    def num_tokens(self, frames: Any) -> Any:
        """Number of tokens for a number of features: ints or tensors."""
        return -(-frames // self.frame_stacking)

    @abstractmethod
    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Maps normalised features to tokens, before they are normalised.

        Args:
            x: (batch, tokens, width) where `stacks_features`, else (batch, frames, in_dim).
            lengths: (batch,), int64: features of each row, before stacking.

        Returns:
            (batch, tokens, out_dim).
        """

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> ProjectorOutput:
        """Projects.

        Args:
            features: (batch, frames, in_dim).
            lengths: (batch,), int64: frames of each row; all if not given.

        Returns:
            (batch, `num_tokens(frames)`, out_dim): missing neighbours count as zeros.
        """
        if lengths is None:
            lengths = torch.full(features.shape[:1], features.shape[1], device=features.device)
        stacked = self.stacks_features and self.frame_stacking > 1
        inputs = self.input_norm(self._stack(features, lengths) if stacked else features)
        use = None
        if self.experts is not None and self.training:
            use = self.experts.use(inputs, length_mask(self.num_tokens(lengths), inputs.shape[1]))
        x = self.output_norm(self.project(inputs, lengths))
        if self.learned_positions is not None:
            x = (x + self.learned_positions) * 0.5**0.5
        return ProjectorOutput(x * self.scale.to(x.dtype), use)

    def _stack(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Concatenates `frame_stacking` neighbours, with zeros after each row's end."""
        features = features * length_mask(lengths, features.shape[1])[..., None]
        features = F.pad(features, (0, 0, 0, -features.shape[1] % self.frame_stacking))
        return features.unflatten(1, (-1, self.frame_stacking)).flatten(2)


class LinearProjector(Projector):
    """One matrix.

    Args:
        kwargs: See `Projector`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.down = Linear(self.width, self.out_dim, bias=False)
        self.add_output()

    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.down(x)


class HiddenProjector(Projector, ABC):
    """Abstract: a projector with one hidden layer.

    Args:
        hidden_dim: Width between the matrices; 2 × `out_dim` by default.
        kwargs: See `Projector`.
    """

    gates = 0  # matrices that gate the hidden values

    def __init__(self, *, hidden_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        hidden_dim = hidden_dim or 2 * self.out_dim
        self.up = Linear(self.width, (1 + self.gates) * hidden_dim, bias=False)
        self.down = Linear(hidden_dim, self.out_dim, bias=False)
        self.add_output()


class MLPProjector(HiddenProjector):
    """Two matrices with a GELU between; arguments as of `HiddenProjector`."""

    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class SwiGLUProjector(HiddenProjector):
    """Three matrices, as in a SwiGLU feed-forward network (arXiv:2002.05202); arguments as of `HiddenProjector`."""

    gates = 1

    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.down(activate(self.up(x), "swiglu"))


class MoSAProjector(Projector):
    """A mixture of simple adapters: all process each feature, weighted by a router (arXiv:2508.18998).

    Args:
        hidden_dim: Width of each adapter and of the router; 2 × `out_dim` by default.
        num_experts: Number of adapters.
        kwargs: See `Projector`.
    """

    def __init__(self, *, hidden_dim: int | None = None, num_experts: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_positive(num_experts=num_experts)
        hidden_dim = hidden_dim or 2 * self.out_dim
        self.num_experts = num_experts
        self.up = Linear(self.width, num_experts * hidden_dim, bias=False)
        self.down = Linear(num_experts * hidden_dim, self.out_dim, bias=False)
        inner, scores = Linear(self.width, hidden_dim), Linear(hidden_dim, num_experts)
        self.router = nn.Sequential(readout(inner), nn.ReLU(), readout(scores))
        self.add_output()

    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        weights = self.router(x).float().softmax(-1).to(x.dtype)
        adapted = F.gelu(self.up(x)).unflatten(-1, (self.num_experts, -1)) * weights[..., None]
        return self.down(adapted.flatten(-2))


class MoEProjector(Projector):
    """A shared expert, and the best of several others for each token (arXiv:2401.04088, arXiv:2401.06066).

    Args:
        hidden_dim: Width of each expert; 2 × `out_dim` by default.
        num_experts: Experts among which the router chooses.
        experts_per_token: Experts that it chooses for a token.
        kwargs: See `Projector`.
    """

    def __init__(
        self, *, hidden_dim: int | None = None, num_experts: int = 4, experts_per_token: int = 2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        hidden_dim = hidden_dim or 2 * self.out_dim
        self.up = Linear(self.width, hidden_dim, bias=False)
        self.down = Linear(hidden_dim, self.out_dim, bias=False)
        self.experts = MixtureOfExperts(
            self.width,
            hidden_dim,
            out_dim=self.out_dim,
            num_experts=num_experts,
            experts_per_token=experts_per_token,
            activation="gelu",
            balance_over_ranks=False,  # a rank's batch may hold no recording
        )
        self.add_output()

    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        assert self.experts is not None
        chosen, _ = self.experts(x, length_mask(self.num_tokens(lengths), x.shape[1]))
        return self.down(F.gelu(self.up(x))) + chosen


class QFormerProjector(Projector):
    """Learned queries that attend to windows of features (arXiv:2301.12597, arXiv:2310.13289).

    Args:
        hidden_dim: Width of the queries; `out_dim` by default.
        queries: Queries of a window.
        num_layers: Number of blocks.
        num_heads: Attention heads.
        kwargs: See `Projector`; `frame_stacking` is the number of features for each query.
    """

    stacks_features = False

    def __init__(
        self,
        *,
        hidden_dim: int | None = None,
        queries: int = 4,
        num_layers: int = 2,
        num_heads: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_positive(queries=queries, num_layers=num_layers)
        self.former = WindowedQueries(
            self.in_dim,
            hidden_dim or self.out_dim,
            queries=queries,
            frame_stacking=self.frame_stacking,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        self.down = Linear(hidden_dim or self.out_dim, self.out_dim, bias=False)
        self.add_output()

    def project(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.down(self.former(x, lengths))


def _check_positive(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")


def _initial_positions(number: int, dim: int) -> Tensor:
    """Initial vectors of positions, (number, dim), with variance 1; of a square, sums of a row's and a column's."""
    side = round(number**0.5)
    if side**2 != number:
        return torch.randn(number, dim)
    rows, columns = torch.randn(2, side, dim) * 0.5**0.5
    return (rows[:, None] + columns).flatten(0, 1)
