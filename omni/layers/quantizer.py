"""Residual vector quantisation: each vector as a few codes."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from omni.distributed import is_distributed, sum_over_ranks

_KMEANS_SAMPLES = 8  # k-means vectors per entry, from the first batch
_KMEANS_ITERATIONS = 10
_FRESH = 0.3  # initial EMA count of a revived entry, relative to the mean count: it survives its first batches


class Quantized(NamedTuple):
    """Output of a quantizer.

    Attributes:
        output: (batch, time, dim): the quantised vectors, with a straight-through gradient.
        codes: (batch, time, num_codebooks), int64; 0 at padding.
        commitment: (batch, time), fp32: mean squared quantisation error, with a gradient to the input; 0 at padding.
        energies: (num_codebooks + 1,), fp32: sum of squares of all vectors, and of the residuals after each level.
    """

    output: Tensor
    codes: Tensor
    commitment: Tensor
    energies: Tensor


class ResidualQuantizer(nn.Module):
    """Codebooks that each quantise the residual of the previous ones (SoundStream, arXiv:2107.03312).

    Codebooks are not parameters: an entry is the moving average of the vectors assigned to it (VQ-VAE,
    arXiv:1711.00937), initialised by k-means on the first training batch. Entries that are rarely used are replaced by
    vectors of the batch (Jukebox, arXiv:2005.00341). In training some rows use fewer codebooks, so that any number of
    them can be decoded. Several ranks share their statistics and keep equal codebooks. All state is in buffers, and
    random numbers come from PyTorch's global generator.

    Args:
        dim: Width of the vectors.
        num_codebooks: Number of codebooks (levels).
        codebook_size: Entries per codebook.
        codebook_dim: Width of the entries, between two projections (factorised codes, arXiv:2110.04627).
        decay: Decay of the moving averages per training batch.
        revive_below: An entry is replaced if its count is below this share of the mean count.
        dropout: Share of the rows that use fewer codebooks in training, from 1 on.

    Raises:
        ValueError: If an argument is out of range.
    """

    codebooks: Tensor
    counts: Tensor
    sums: Tensor
    revived: Tensor
    initialised: Tensor

    def __init__(
        self,
        dim: int,
        *,
        num_codebooks: int = 4,
        codebook_size: int = 256,
        codebook_dim: int = 32,
        decay: float = 0.98,
        revive_below: float = 0.08,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_codebooks < 1 or codebook_size < 2:
            raise ValueError(
                f"{num_codebooks} codebooks of {codebook_size} entries: there must be at least 1 of at least 2"
            )
        for name, share in {"decay": decay, "revive_below": revive_below, "dropout": dropout}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}: it must be 0 or more and less than 1")
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.decay, self.revive_below, self.dropout = decay, revive_below, dropout
        self.project_in, self.project_out = nn.Linear(dim, codebook_dim), nn.Linear(codebook_dim, dim)
        shape = (num_codebooks, codebook_size, codebook_dim)
        self.register_buffer("codebooks", torch.randn(shape))
        self.register_buffer("counts", torch.ones(shape[:2]))  # moving averages per batch of the vectors assigned to
        self.register_buffer("sums", self.codebooks.clone())  # an entry: their number and their sum
        self.register_buffer("revived", torch.zeros((), dtype=torch.long))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.fixed = False  # whether training leaves the codebooks as they are
        self._ready = False  # host copy of `initialised`, without a device synchronisation
        self.register_load_state_dict_post_hook(_recall)

    @property
    def usage(self) -> dict[str, Tensor]:
        """Scalars: mean perplexity of the codebooks, number of dead entries, number of entries revived so far."""
        shares = self.counts / self.counts.sum(-1, keepdim=True)
        perplexity = torch.special.entr(shares).sum(-1).exp().mean()
        return {
            "perplexity": perplexity,
            "dead_codes": self._dead().sum().float(),
            "revived_codes": self.revived.float(),
        }

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (batch, time, dim) to codes (batch, time, num_codebooks), 0 where `mask` (batch, time) is false."""
        codes, _, _ = self._search(self.project_in(x).float())
        return codes if mask is None else codes * mask[..., None]

    def decode(self, codes: Tensor) -> Tensor:
        """Maps codes (batch, time, codebooks), of all codebooks or of the first few, to (batch, time, dim)."""
        chosen = [self.codebooks[level][codes[..., level]] for level in range(codes.shape[-1])]
        return self.project_out(torch.stack(chosen).sum(0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantises, and in training updates the codebooks unless they are `fixed`.

        Args:
            x: (batch, time, dim).
            mask: (batch, time) of bool, false at padding, which does not update anything.
        """
        z, learning = self.project_in(x), self.training and not self.fixed
        with torch.autocast(_autocast_device(z), enabled=False):
            z = z.float()
            mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if mask is None else mask
            if learning and not self._ready:
                self._initialise(z.detach(), mask)
            codes, chosen, residuals = self._search(z.detach())
            quantized = self._some_of(chosen) if learning and self.dropout else chosen.sum(0)
            commitment = (z - quantized).square().mean(-1) * mask
            energies = torch.stack([(r.square() * mask[..., None]).sum() for r in residuals])
            if learning:
                self._learn(codes, residuals, mask)
            # Straight-through estimator.
            output = z + (quantized - z).detach() if learning else quantized
        return Quantized(self.project_out(output.to(x.dtype)), codes * mask[..., None], commitment, energies)

    @torch.no_grad()
    def _search(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Codes (batch, time, codebooks), their entries (codebooks, batch, time, dim), and the residual of each level.

        In fp32 under autocast, too: the nearest entry by bf16 distances is often another one.
        """
        codes, chosen, residuals = [], [], [z]
        with torch.autocast(_autocast_device(z), enabled=False):
            for book in self.codebooks:
                codes.append(_nearest(residuals[-1], book))
                chosen.append(book[codes[-1]])
                residuals.append(residuals[-1] - chosen[-1])
        return torch.stack(codes, -1), torch.stack(chosen), residuals

    def _some_of(self, chosen: Tensor) -> Tensor:
        """Sum of the entries of all codebooks, in some rows of the first few."""
        rows, device = chosen.shape[1], chosen.device
        fewer = torch.randint(1, self.num_codebooks + 1, (rows,), device=device)
        kept = torch.where(torch.rand(rows, device=device) < self.dropout, fewer, self.num_codebooks)
        used = torch.arange(self.num_codebooks, device=device)[:, None] < kept
        return (chosen * used[..., None, None]).sum(0)

    @torch.no_grad()
    def _learn(self, codes: Tensor, residuals: list[Tensor], mask: Tensor) -> None:
        """Updates the moving averages by a batch, and replaces dead entries."""
        counts, sums, spares = [], [], []
        for level in range(self.num_codebooks):
            vectors = residuals[level].flatten(0, 1)
            hits = _one_hot(codes[..., level].flatten(), self.codebook_size) * mask.flatten()[:, None]
            counts.append(hits.sum(0))
            sums.append(hits.T @ vectors)
            spares.append(_own_share(_pick(vectors, mask, torch.rand(self.codebook_size, device=vectors.device))))
        new_counts, new_sums, spare = _over_ranks(torch.stack(counts), torch.stack(sums), torch.stack(spares))
        self.counts.lerp_(new_counts, 1 - self.decay)
        self.sums.lerp_(new_sums, 1 - self.decay)
        dead = self._dead()
        fresh = _FRESH * self.counts.mean(-1, keepdim=True).expand_as(self.counts)
        self.counts.copy_(torch.where(dead, fresh, self.counts))
        self.sums.copy_(torch.where(dead[..., None], spare * fresh[..., None], self.sums))
        self.codebooks.copy_(self.sums / self.counts.clamp(min=1e-6)[..., None])
        self.revived.add_(dead.sum())

    def _dead(self) -> Tensor:
        """(num_codebooks, codebook_size), bool: counts are compared with their mean, which grows with the batch."""
        return self.counts < self.revive_below * self.counts.mean(-1, keepdim=True)

    @torch.no_grad()
    def _initialise(self, z: Tensor, mask: Tensor) -> None:
        """Initialises the codebooks level by level, by k-means on vectors of all ranks."""
        number, device = _KMEANS_SAMPLES * self.codebook_size, z.device
        spread = (torch.arange(number, device=device) + torch.rand(number, device=device)) / number
        (vectors,) = _over_ranks(_own_share(_pick(z.flatten(0, 1), mask, spread)))
        (tokens,) = _over_ranks(mask.sum().float())
        for level in range(self.num_codebooks):
            centres = vectors[::_KMEANS_SAMPLES].clone()
            counts = torch.ones(self.codebook_size, device=device)
            for _ in range(_KMEANS_ITERATIONS):
                hits = _one_hot(_nearest(vectors, centres), self.codebook_size)
                counts = hits.sum(0)
                means = (hits.T @ vectors) / counts.clamp(min=1)[:, None]
                centres = torch.where(counts[:, None] > 0, means, centres)
            self.codebooks[level] = centres
            self.counts[level] = counts * tokens / number
            vectors = vectors - centres[_nearest(vectors, centres)]
        self.sums.copy_(self.codebooks * self.counts[..., None])
        self.initialised.fill_(True)
        self._ready = True


def _nearest(vectors: Tensor, entries: Tensor) -> Tensor:
    """Index of the nearest entry for each of (..., dim)."""
    return (vectors @ entries.T - entries.square().sum(-1) / 2).argmax(-1)


def _one_hot(codes: Tensor, size: int) -> Tensor:
    """(vectors, size), fp32. Sums by a product with it are deterministic; atomic additions are not."""
    return (codes[:, None] == torch.arange(size, device=codes.device)).float()


def _pick(vectors: Tensor, mask: Tensor, fractions: Tensor) -> Tensor:
    """The rows of (vectors, dim) at fractions from 0 to 1 of all rows that are not padding."""
    ends = mask.flatten().cumsum(0)
    wanted = (fractions * ends[-1]).floor().long()
    return vectors[torch.searchsorted(ends, wanted, right=True).clamp(max=len(vectors) - 1)]


def _own_share(vectors: Tensor) -> Tensor:
    """Every n-th row of (vectors, dim) for n ranks; the others, which other ranks fill, are zero."""
    if not is_distributed():
        return vectors
    turn = torch.arange(len(vectors), device=vectors.device) % dist.get_world_size()
    return vectors * (turn == dist.get_rank())[:, None]


def _over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sums of tensors over all ranks, in one collective."""
    together = sum_over_ranks(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = together.split([tensor.numel() for tensor in tensors])
    return tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))


def _autocast_device(like: Tensor) -> str:
    return like.device.type if like.device.type != "meta" else "cpu"


def _recall(quantizer: ResidualQuantizer, _: object) -> None:
    quantizer._ready = bool(quantizer.initialised)
