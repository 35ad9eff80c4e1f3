"""Metrics, synchronised over ranks by torchmetrics."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenLoss(Metric):
    """Next-token loss over a whole data set, and what follows from it.

    Losses are summed over tokens, not averaged over batches, so the result does not depend on the batch size.
    `compute` returns the loss in nats per token, its perplexity, and the bits per byte of text, which also counts what
    a tokenizer's longer or shorter tokens hide.
    """

    full_state_update = False
    total: Tensor
    tokens: Tensor
    bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "tokens", "bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")

    def update(self, nll: Tensor, scored: Tensor, num_bytes: Tensor) -> None:
        """Adds a batch.

        Args:
            nll: Loss of each position in nats, 0 where not scored; any shape.
            scored: Which positions are scored; bool.
            num_bytes: UTF-8 bytes that each target stands for; 0 where not scored.
        """
        self.total += nll.double().sum()
        self.tokens += scored.sum()
        self.bytes += num_bytes.sum()

    def compute(self) -> dict[str, Tensor]:
        """`loss` (nats per token), `perplexity`, `bits_per_byte`."""
        loss = self.total / self.tokens
        return {
            "loss": loss.float(),
            "perplexity": loss.exp().float(),
            "bits_per_byte": (self.total / math.log(2) / self.bytes).float(),
        }


class MeanOfItems(Metric):
    """A sum over the number of items it is a sum of, over a whole data set: independent of the batch size."""

    full_state_update = False
    total: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "items"):
            self.add_state(name, torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")

    def update(self, total: Tensor, num_items: Tensor) -> None:
        """Adds a batch: its sum and its number of items, both scalars."""
        self.total += total.double()
        self.items += num_items

    def compute(self) -> Tensor:
        """The mean of an item."""
        return (self.total / self.items).float()


class CodebookUse(Metric):
    """How a quantizer's codebooks are used, over a whole data set.

    Args:
        num_codebooks: Codebooks.
        codebook_size: Entries of each.
    """

    full_state_update = False
    counts: Tensor
    energies: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_codebooks, codebook_size, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("energies", torch.zeros(num_codebooks + 1, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, codes: Tensor, energies: Tensor) -> None:
        """Adds a batch.

        Args:
            codes: (frames, num_codebooks), int64, padding left out.
            energies: (num_codebooks + 1,): what is left before the first and behind each codebook, as a sum of squares.
        """
        self.counts.scatter_add_(1, codes.T, torch.ones_like(codes.T, dtype=torch.double))
        self.energies += energies.double()

    def compute(self) -> dict[str, Tensor]:
        """Each (num_codebooks,): `use` (share of entries that occur), `perplexity` of the codes, `gain` (in dB)."""
        shares = self.counts / self.counts.sum(1, keepdim=True)
        gain = 10 * (self.energies[:-1] / self.energies[1:].clamp(min=1e-12)).log10()
        return {
            "use": (self.counts > 0).double().mean(1).float(),
            "perplexity": torch.special.entr(shares).sum(1).exp().float(),
            "gain": gain.float(),
        }
