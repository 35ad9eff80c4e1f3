"""The projector: what an encoder says, in the Thinker's width and as loud as its tokens."""

from typing import Literal

import torch
from torch import Tensor, nn

from omni.layers.feedforward import activate
from omni.layers.norm import RMSNorm
from omni.models.part import Part


class Projector(Part):
    """Maps the features of an encoder to the width of the Thinker's embeddings.

    Features much louder or quieter than the tokens beside them stall the start of training. So what comes out is
    normalised, and scaled by the root mean square of the Thinker's token embeddings: `calibrate` sets it once, before
    training. It is no weight, for the steps that suit weights near 1 would be too large for it.

    Args:
        in_dim: Width of a feature.
        out_dim: Width of the Thinker.
        kind: `linear` (one matrix), `mlp` (two with a GELU between) or `swiglu` (three).
        hidden_dim: Width between the matrices; twice `out_dim` if not given.
        stack: Features that are laid side by side and become one: fewer tokens for the Thinker.
        places: 0, or how many tokens every medium has, as an image; each place among them then learns a vector of its
            own, as loud as what comes out, so that the Thinker can ask for a place from the start.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        kind: Literal["linear", "mlp", "swiglu"] = "mlp",
        hidden_dim: int | None = None,
        stack: int = 1,
        places: int = 0,
    ) -> None:
        super().__init__()
        if kind not in ("linear", "mlp", "swiglu"):
            raise ValueError(f"kind must be linear, mlp or swiglu, not {kind!r}")
        if stack < 1:
            raise ValueError(f"stack must be 1 or more, not {stack}")
        if places < 0:
            raise ValueError(f"places must be 0 or more, not {places}")
        self.in_dim, self.out_dim, self.kind, self.stack = in_dim, out_dim, kind, stack
        width, hidden = stack * in_dim, hidden_dim or 2 * out_dim
        self.input_norm = RMSNorm(width)
        if kind == "linear":
            self.up, self.down = nn.Identity(), nn.Linear(width, out_dim, bias=False)
        else:
            self.up = nn.Linear(width, 2 * hidden if kind == "swiglu" else hidden, bias=False)
            self.down = nn.Linear(hidden, out_dim, bias=False)
        for module in (self.up, self.down):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        self.output_norm = RMSNorm(out_dim)
        self.places = nn.Parameter(torch.randn(places, out_dim)) if places else None
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, rms: float) -> None:
        """Sets the root mean square of what comes out."""
        self.scale.fill_(rms)

    def num_tokens(self, frames: int) -> int:
        """Tokens for so many features."""
        return -(-frames // self.stack)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Projects.

        Args:
            features: (batch, frames, in_dim).
            lengths: (batch,), int64: frames of each row, where some are padding.

        Returns:
            (batch, frames / stack, out_dim), rounded up: missing neighbours count as zeros.
        """
        if self.stack > 1:
            features = self._stacked(features, lengths)
        x = self.input_norm(features)
        if self.kind != "linear":
            x = activate(self.up(x), "swiglu" if self.kind == "swiglu" else "gelu")
        x = self.output_norm(self.down(x))
        if self.places is not None:
            x = (x + self.places) * 0.5**0.5
        return x * self.scale.to(x.dtype)

    def _stacked(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Lays `stack` neighbours side by side, with zeros behind each row's end."""
        frames = features.shape[1]
        if lengths is not None:
            inside = torch.arange(frames, device=features.device) < lengths[:, None]
            features = features * inside[..., None]
        features = nn.functional.pad(features, (0, 0, 0, -frames % self.stack))
        return features.unflatten(1, (-1, self.stack)).flatten(2)
