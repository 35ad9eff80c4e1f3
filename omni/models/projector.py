"""The projector: what an encoder says, in the Thinker's width and as loud as its tokens."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.feedforward import activate
from omni.layers.moe import MixtureOfExperts, RouterUse
from omni.layers.norm import RMSNorm
from omni.layers.querying import WindowedQueries
from omni.layers.readout import readout
from omni.models.part import Part

ProjectorKind = Literal["linear", "mlp", "swiglu", "mosa", "moe", "qformer"]


class Projector(Part):
    """Maps the features of an encoder to the width of the Thinker's embeddings.

    Features much louder or quieter than the tokens beside them stall the start of training. So what comes out is
    normalised, and scaled by the root mean square of the Thinker's token embeddings: `calibrate` sets it once, before
    training. It is no weight, for the steps that suit weights near 1 would be too large for it.

    Args:
        in_dim: Width of a feature.
        out_dim: Width of the Thinker.
        kind: `linear` (one matrix); `mlp` (two with a GELU between); `swiglu` (three); `mosa`, a mixture of adapters
            that all work on each feature, weighted by a router (arXiv:2508.18998); `moe`, an expert for all features
            and the best `experts_per_token` of others for each (arXiv:2401.04088, arXiv:2401.06066); or `qformer`,
            learned queries that ask windows of features (arXiv:2301.12597).
        hidden_dim: Width between the matrices, of each adapter or expert, or of the queries; by default twice
            `out_dim`, for `qformer` `out_dim`.
        stack: Features that become one token: laid side by side, or, of `qformer`, asked by one query.
        places: 0, or how many tokens every medium has, as an image; each place among them then learns a vector of its
            own, as loud as what comes out, so that the Thinker can ask for a place from the start. Of a square of
            tokens it begins as the sum of its row's and its column's (as in NaViT, arXiv:2307.06304).
        num_experts: Adapters of `mosa`, or experts of `moe` among which is chosen.
        experts_per_token: Of `moe`.
        queries: Queries of a window of `qformer`.
        num_layers: Blocks of `qformer`.
        num_heads: Attention heads of `qformer`.

    Attributes:
        router_use: Of `moe`: what its router did in the last call, for the one who trains; None of other kinds.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        kind: ProjectorKind = "mlp",
        hidden_dim: int | None = None,
        stack: int = 1,
        places: int = 0,
        num_experts: int = 4,
        experts_per_token: int = 2,
        queries: int = 4,
        num_layers: int = 2,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        if kind not in get_args(ProjectorKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(ProjectorKind))}, not {kind!r}")
        least = {"stack": stack, "num_experts": num_experts, "queries": queries, "num_layers": num_layers}
        if wrong := next((name for name, value in least.items() if value < 1), None):
            raise ValueError(f"{wrong} must be 1 or more, not {least[wrong]}")
        if places < 0:
            raise ValueError(f"places must be 0 or more, not {places}")
        self.in_dim, self.out_dim, self.kind, self.stack = in_dim, out_dim, kind, stack
        width, hidden = stack * in_dim, hidden_dim or (out_dim if kind == "qformer" else 2 * out_dim)
        self.num_experts = num_experts
        self.input_norm = RMSNorm(in_dim if kind == "qformer" else width)
        self.up: Any = nn.Identity()
        if kind == "linear":
            self.down = nn.Linear(width, out_dim, bias=False)
        elif kind == "qformer":
            options = {"queries": queries, "stack": stack, "num_layers": num_layers, "num_heads": num_heads}
            self.former = WindowedQueries(in_dim, hidden, **options)
            self.down = nn.Linear(hidden, out_dim, bias=False)
        else:
            wide = {"swiglu": 2, "mosa": num_experts}.get(kind, 1)
            self.up = nn.Linear(width, wide * hidden, bias=False)
            self.down = nn.Linear((num_experts if kind == "mosa" else 1) * hidden, out_dim, bias=False)
        if kind == "mosa":
            inner, scores = nn.Linear(width, hidden), nn.Linear(hidden, num_experts)
            self.router = nn.Sequential(readout(inner), nn.ReLU(), readout(scores))
        if kind == "moe":
            self.experts = MixtureOfExperts(
                width,
                hidden,
                out_dim=out_dim,
                num_experts=num_experts,
                experts_per_token=experts_per_token,
                activation="gelu",
                balance_over_ranks=False,  # a rank's batch may hold no recording
            )
        for module in (self.up, self.down):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        self.output_norm = RMSNorm(out_dim)
        self.places = nn.Parameter(_places(places, out_dim)) if places else None
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.router_use: RouterUse | None = None

    @torch.no_grad()
    def calibrate(self, rms: float) -> None:
        """Sets the root mean square of what comes out."""
        self.scale.fill_(rms)

    def num_tokens(self, frames: Any) -> Any:
        """Tokens for so many features: ints or tensors."""
        return -(-frames // self.stack)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Projects.

        Args:
            features: (batch, frames, in_dim).
            lengths: (batch,), int64: frames of each row, where some are padding.

        Returns:
            (batch, `num_tokens(frames)`, out_dim): missing neighbours count as zeros.
        """
        if lengths is None:
            lengths = torch.full(features.shape[:1], features.shape[1], device=features.device)
        if self.kind == "qformer":
            x = self.former(self.input_norm(features), lengths)
        else:
            x = self.input_norm(self._stacked(features, lengths) if self.stack > 1 else features)
        x = self.output_norm(self._projected(x, lengths))
        if self.places is not None:
            x = (x + self.places) * 0.5**0.5
        return x * self.scale.to(x.dtype)

    def _projected(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.kind == "swiglu":
            return self.down(activate(self.up(x), "swiglu"))
        if self.kind == "mosa":
            shares = self.router(x).float().softmax(-1).to(x.dtype)
            adapted = F.gelu(self.up(x)).unflatten(-1, (self.num_experts, -1)) * shares[..., None]
            return self.down(adapted.flatten(-2))
        if self.kind in ("linear", "qformer"):
            return self.down(x)
        common = self.down(F.gelu(self.up(x)))
        if self.kind == "mlp":
            return common
        inside = torch.arange(x.shape[1], device=x.device) < self.num_tokens(lengths)[:, None]
        chosen, _ = self.experts(x, inside)
        self.router_use = self.experts.use(x, inside) if self.training else None
        return common + chosen

    def _stacked(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Lays `stack` neighbours side by side, with zeros behind each row's end."""
        inside = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        features = F.pad(features * inside[..., None], (0, 0, 0, -features.shape[1] % self.stack))
        return features.unflatten(1, (-1, self.stack)).flatten(2)


def _places(number: int, dim: int) -> Tensor:
    """What places begin with: (number, dim), normal with variance 1; of a square, row by row, alike where in line."""
    side = round(number**0.5)
    if side**2 != number:
        return torch.randn(number, dim)
    rows, columns = torch.randn(2, side, dim) * 0.5**0.5
    return (rows[:, None] + columns).flatten(0, 1)
