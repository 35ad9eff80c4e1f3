"""The depth module: predicts the codebooks of a frame one after the other."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.layers.norm import RMSNorm
from omni.layers.readout import readout


class DepthModule(nn.Module):
    """Predicts the codes of a frame from its hidden state, each from those before it.

    The backbone's state predicts the first codebook. Then, as in multi-token prediction (DeepSeek-V3,
    arXiv:2412.19437), a small layer maps the state and the chosen code to the state of the next codebook. Codes of a
    residual quantizer refine each other, so one layer each is enough; the backbone runs once per frame.

    Args:
        dim: Width.
        num_codebooks: Codes of a frame.
        codebook_size: Entries of each codebook.
    """

    def __init__(self, dim: int, *, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.embeddings = nn.ModuleList(nn.Embedding(codebook_size, dim) for _ in range(num_codebooks))
        self.mixers = nn.ModuleList(nn.Linear(2 * dim, dim, bias=False) for _ in range(num_codebooks - 1))
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(num_codebooks - 1))
        self.heads = nn.ModuleList(readout(nn.Linear(dim, codebook_size, bias=False)) for _ in range(num_codebooks))
        for name, weight in self.named_parameters():
            if name.startswith("mixers"):
                nn.init.normal_(weight, std=(2 * dim) ** -0.5)
            elif name.startswith("heads"):
                nn.init.normal_(weight, std=0.02)  # logits near 0: the first loss is ln(codebook_size)

    def embed(self, codes: Tensor) -> Tensor:
        """Embeds all codes of a frame: (..., num_codebooks) to (..., dim), with unit variance at initialisation."""
        embedded = [table(code) for table, code in zip(self.embeddings, codes.unbind(-1), strict=True)]
        return torch.stack(embedded).sum(0) * self.num_codebooks**-0.5

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits of all codebooks, given the codes.

        Args:
            hidden: (..., dim), from the backbone.
            codes: (..., num_codebooks), int64: each codebook is predicted from those before it.

        Returns:
            (..., num_codebooks, codebook_size).
        """
        return torch.stack(self._unroll(hidden, lambda index, _: codes[..., index])[0], dim=-2)

    def generate(self, hidden: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Generates codes, one codebook after the other.

        Args:
            hidden: (..., dim).
            choose: Maps the index of a codebook and its logits (..., codebook_size) to codes (...).

        Returns:
            (..., num_codebooks), int64.
        """
        return torch.stack(self._unroll(hidden, choose)[1], dim=-1)

    def _unroll(self, hidden: Tensor, choose: Callable[[int, Tensor], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, codes = [], []
        for index, head in enumerate(self.heads):
            if index:
                code = self.embeddings[index - 1](codes[-1])
                mixed = self.mixers[index - 1](torch.cat((hidden, code.to(hidden.dtype)), dim=-1))
                hidden = self.norms[index - 1](F.gelu(mixed))
            logits.append(head(hidden))
            codes.append(choose(index, logits[-1]))
        return logits, codes
