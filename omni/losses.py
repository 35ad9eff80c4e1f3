"""Losses: pure functions of tensors."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.batch import IGNORE, Attribute

CHUNK_BYTES = 2**25  # fp32 logits at a time; on 2 CPU cores 16–64 MB were equally fast, whole batches 1.7 × slower


class Loss(NamedTuple):
    """A loss as a sum and its number of items, so that micro-batches and ranks can be averaged correctly.

    Attributes:
        total: Sum over all scored items, a scalar with a graph.
        num_items: Number of scored items, a scalar.
        terms: Parts of the loss to log, by name, each a mean.
        stats: Further scalars to log, by name.
    """

    total: Tensor
    num_items: Tensor
    terms: dict[str, Tensor] = {}  # noqa: RUF012  never written to
    stats: dict[str, Tensor] = {}  # noqa: RUF012

    @property
    def mean(self) -> Tensor:
        """The loss per scored item."""
        return self.total / self.num_items.clamp(min=1)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, item_weights: Tensor | None = None) -> Tensor:
    """Sum of the cross-entropies of `hidden @ weight.T`, without ever holding all logits.

    The logits of a large vocabulary take more memory than everything else (32 k × 8 × 512 positions are 524 MB in
    fp32). Here they exist for one chunk of positions at a time, and the gradient is computed from them at once, so
    nothing is computed twice. The same idea as in "Cut Your Losses" (arXiv:2411.09009) and Liger kernels
    (arXiv:2410.10989), in plain PyTorch.

    Args:
        hidden: (..., dim).
        weight: (vocab, dim).
        targets: (...), int64; `IGNORE` is not scored.
        item_weights: (...), fp32: what each position's loss is multiplied by; None for 1.

    Returns:
        A scalar, fp32.
    """
    if not torch.is_grad_enabled():
        nll = token_nll(hidden, weight, targets)
        return (nll if item_weights is None else nll * item_weights).sum()
    flat = None if item_weights is None else item_weights.flatten()
    return _LinearCrossEntropy.apply(hidden.flatten(0, -2), weight, targets.flatten(), flat)


@torch.no_grad()
def token_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each position in nats, without gradient: (...), fp32; 0 where the target is `IGNORE`.

    Arguments are those of `linear_cross_entropy`.
    """
    flat, weight = _in_product_precision(hidden.flatten(0, -2), weight)
    chunk = positions_per_chunk(len(weight))
    with _without_autocast(flat):
        parts = [
            -F.log_softmax((part @ weight.T).float(), dim=-1).gather(1, target.clamp(min=0)[:, None])[:, 0]
            * (target != IGNORE)
            for part, target in zip(flat.split(chunk), targets.flatten().split(chunk), strict=True)
        ]
    return torch.cat(parts).view(targets.shape)


def positions_per_chunk(vocab_size: int) -> int:
    """Number of positions whose logits are held at a time."""
    return max(1, CHUNK_BYTES // (4 * vocab_size))


def _in_product_precision(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Casts once to the precision that autocast chooses for products."""
    device = hidden.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    return hidden, weight


def _without_autocast(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type if like.device.type != "meta" else "cpu", enabled=False)


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes gradients in the forward pass, where the logits are; in fp16 in the backward pass, from new logits.

    Gradients of well-predicted tokens underflow in fp16. The gradient scaler (`torch.amp.GradScaler`) scales the
    gradient of the loss, which is known in the backward pass only. This costs one more product with the weight.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, item_weights: Tensor | None) -> Tensor:
        inputs, matrix = _in_product_precision(hidden, weight)
        weight_wanted = ctx.needs_input_grad[1]  # False for a frozen head
        ctx.dtypes = hidden.dtype, weight.dtype if weight_wanted else None
        ctx.in_backward = matrix.dtype == torch.float16
        if any(ctx.needs_input_grad) and not ctx.in_backward:
            total, *gradients = _with_gradients(inputs, matrix, targets, item_weights, None, ctx.dtypes)
            ctx.save_for_backward(*gradients)
            return total
        if ctx.in_backward:
            ctx.save_for_backward(inputs, matrix, targets, item_weights)
        nll = token_nll(inputs, matrix, targets)
        return (nll if item_weights is None else nll * item_weights).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        if ctx.in_backward:
            inputs, matrix, targets, item_weights = ctx.saved_tensors
            _, hidden_grad, weight_grad = _with_gradients(inputs, matrix, targets, item_weights, grads[0], ctx.dtypes)
            return hidden_grad, weight_grad, None, None
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grads[0], None if weight_grad is None else weight_grad * grads[0], None, None


def _with_gradients(
    inputs: Tensor,
    matrix: Tensor,
    targets: Tensor,
    item_weights: Tensor | None,
    scale: Tensor | None,
    dtypes: tuple[torch.dtype, torch.dtype | None],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The summed loss, and `scale` times its gradients by inputs and matrix.

    Args:
        inputs: (positions, dim), in the precision of the products.
        matrix: (vocab, dim), in the same.
        targets: (positions,).
        item_weights: (positions,), what each loss is multiplied by; None for 1.
        scale: A scalar, multiplied before rounding to the precision of the products; None for 1.
        dtypes: Those of the two gradients; None for the second if the matrix is frozen.
    """
    hidden_grad = torch.empty_like(inputs)
    weight_grad = None if dtypes[1] is None else torch.zeros_like(matrix, dtype=dtypes[1])
    total = torch.zeros((), device=inputs.device)
    chunk = positions_per_chunk(len(matrix))
    with _without_autocast(inputs):
        for start in range(0, len(inputs), chunk):
            part, target = inputs[start : start + chunk], targets[start : start + chunk]
            index, scored = target.clamp(min=0)[:, None], (target != IGNORE)[:, None]
            log_probs = F.log_softmax((part @ matrix.T).float(), dim=-1)
            weight = 1.0 if item_weights is None else item_weights[start : start + chunk, None]
            total -= (log_probs.gather(1, index) * scored * weight).sum()
            slope = log_probs.exp_()  # d loss / d logits = softmax − one-hot
            slope.scatter_add_(1, index, -torch.ones_like(index, dtype=slope.dtype))
            if item_weights is not None:
                slope *= weight
            if scale is not None:
                slope *= scale
            slope = slope.to(matrix.dtype)
            # Positions that are not scored are zeroed in the narrow factors, not in the wide one.
            hidden_grad[start : start + chunk] = (slope @ matrix) * scored
            if weight_grad is not None:
                _add_product(weight_grad, slope.T, part * scored)
    return total, hidden_grad.to(dtypes[0]), weight_grad


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds `a @ b`, in the precision of `total`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def classification_loss(
    logits: Tensor, labels: Tensor, attributes: Sequence[Attribute], *, smoothing: float = 0.0
) -> Tensor:
    """The loss of each image in nats, summed over its attributes; unknown ones are not counted.

    Args:
        logits: (batch, classes), the attributes concatenated.
        labels: (batch, classes), the share of each value; -1 for an unknown attribute.
        attributes: The meaning of the columns. The loss is cross-entropy over the values of an attribute, or binary
            cross-entropy of each value if it may have several.
        smoothing: Share of the target that is spread evenly (arXiv:1512.00567).

    Returns:
        (batch,), fp32.
    """
    sizes = [len(attribute.values) for attribute in attributes]
    parts = []
    columns = zip(attributes, logits.float().split(sizes, 1), labels.split(sizes, 1), strict=True)
    for attribute, scores, target in columns:
        if attribute.several:
            smooth = target.clamp(min=0) * (1 - smoothing) + smoothing / 2
            loss = F.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
        else:
            smooth = target.clamp(min=0) * (1 - smoothing) + smoothing / len(attribute.values)
            loss = -smooth * F.log_softmax(scores, dim=-1)
        parts.append((loss * (target >= 0)).sum(-1))
    return torch.stack(parts).sum(0)


def consistency_loss(log_probs: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Sum over positions of the divergence between two predictions of the same (CR-CTC, arXiv:2410.05101).

    Each prediction approaches the other one, which is a constant: the Kullback-Leibler divergences in both directions,
    in nats.

    Args:
        log_probs: (batch, time, vocab), of the first predictions.
        others: The same shape, of the second.
        mask: (batch, time), bool: positions that are counted.

    Returns:
        A scalar, fp32.
    """
    pairs = ((log_probs.float(), others.float()), (others.float(), log_probs.float()))
    both = [F.kl_div(one, two.detach(), log_target=True, reduction="none").sum(-1) for one, two in pairs]
    return (both[0] + both[1]).masked_fill(~mask, 0).sum()


def contrastive_loss(scores: Tensor, caption_ids: Tensor, *, kind: Literal["sigmoid", "softmax"]) -> Tensor:
    """Sum over images of the contrastive loss against the batch's captions.

    Row `i` and column `i` belong together. A caption that equals another image's is not a negative of it: such pairs
    are not counted, and neither are those of a missing caption.

    Args:
        scores: (batch, batch), of images and captions.
        caption_ids: (batch,), equal for equal captions, -1 for a missing one.
        kind: `sigmoid`: a binary decision for each pair (arXiv:2303.15343); `softmax`: the mean of the cross-entropies
            over captions and over images (arXiv:2103.00020).

    Returns:
        A scalar, fp32.
    """
    scores, present = scores.float(), caption_ids >= 0
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    counted = (own | (caption_ids[:, None] != caption_ids)) & present[:, None] & present
    if kind == "sigmoid":
        signs = own.to(scores.dtype) * 2 - 1
        return -(F.logsigmoid(signs * scores) * counted).sum()
    masked = scores.masked_fill(~(counted | own), -torch.inf)
    both = masked.log_softmax(1).diagonal() + masked.log_softmax(0).diagonal()
    return -(both * present).sum() / 2


def discriminator_hinge_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Hinge loss of discriminators (arXiv:1705.02894): the mean of `max(0, 1 - real) + max(0, 1 + made)`, a scalar.

    Args:
        real: Each discriminator's scores of real audio, of any shape.
        made: Those of generated audio.
    """
    wrong = [F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(real, made, strict=True)]
    return torch.stack(wrong).mean()


def generator_hinge_loss(made: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator: the mean of `max(0, 1 - made)`, a scalar; see `discriminator_hinge_loss`."""
    return torch.stack([F.relu(1 - score).mean() for score in made]).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], made: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean distance of the discriminators' features of generated and real audio (MelGAN, arXiv:1910.06711), a scalar.

    Args:
        real: Features of each layer of each discriminator for real audio; no gradient.
        made: The same for generated audio.
    """
    pairs = [pair for a, b in zip(real, made, strict=True) for pair in zip(a, b, strict=True)]
    return torch.stack([F.l1_loss(b, a.detach()) for a, b in pairs]).mean()


def spectral_distance(made: Tensor, real: Tensor, *, n_ffts: Sequence[int] = (256, 512, 1024)) -> Tensor:
    """Multi-resolution STFT distance (arXiv:1910.11480), a scalar.

    The mean over resolutions and rows of the mean absolute difference of log magnitudes, plus the norm of the
    difference of magnitudes relative to the norm of the real ones.

    Args:
        made: (batch, samples).
        real: The same shape.
        n_ffts: Frame lengths in samples; the hop is a quarter of it.
    """
    distances = []
    with torch.autocast(made.device.type, enabled=False):
        for n_fft in n_ffts:
            window = torch.hann_window(n_fft, device=made.device)
            both = F.pad(torch.cat((made, real)).float(), (n_fft // 2, n_fft // 2))
            spectra = torch.stft(both, n_fft, n_fft // 4, window=window, center=False, return_complex=True)
            a, b = (spectra.real.square() + spectra.imag.square()).clamp(min=1e-6).sqrt().chunk(2)
            shares = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp(min=1e-3)
            distances.append(F.l1_loss(a.log(), b.log()) + shares.mean())
    return torch.stack(distances).mean()
