"""Connectionist temporal classification (Graves et al., ICML 2006): loss, decoding and alignment of emissions."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from omni.decoding.fusion import FusedPrefix, Fusion
from omni.decoding.prefix_beam import prefix_beam_search
from omni.errors import UserError
from omni.layers.mask import length_mask
from omni.text.ctc_vocabulary import BLANK


class Span(NamedTuple):
    """Position of a unit in the audio.

    Attributes:
        unit: Index of the unit.
        start: First sub-frame.
        end: Exclusive end sub-frame.
        score: Mean probability of the unit over these, 0–1.
    """

    unit: int
    start: int
    end: int
    score: float


def least_subframes(units: list[int]) -> int:
    """Number of sub-frames that CTC needs for a text: one per unit, and a blank between two equal ones."""
    return len(units) + sum(one == other for one, other in pairwise(units))


def is_feasible(targets: Tensor, target_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Rows whose text fits in their sub-frames: (batch,), bool.

    Args:
        targets: (batch, units), int64.
        target_lengths: (batch,): units of each row.
        lengths: (batch,): sub-frames of each row.
    """
    inside = length_mask(target_lengths, targets.shape[1])[:, 1:]
    repeats = ((targets[:, 1:] == targets[:, :-1]) & inside).sum(1)
    return target_lengths + repeats <= lengths


def ctc_nll(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each row's text, summed over all its alignments.

    On a GPU this synchronises once: PyTorch's kernel copies the lengths to the host and offsets back. Lengths on the
    host would save only the first of these copies.

    Args:
        log_probs: (batch, sub-frames, vocab_size), fp32.
        lengths: (batch,): sub-frames of each row.
        targets: (batch, units), int64.
        target_lengths: (batch,): units of each row.

    Returns:
        Nats, (batch,), 0 for infeasible rows; and the feasible rows, (batch,), bool.
    """
    feasible = is_feasible(targets, target_lengths, lengths)
    # zero_infinity also zeroes the gradient of the rows that are infeasible; `feasible` counts them.
    nll = F.ctc_loss(
        log_probs.transpose(0, 1), targets, lengths, target_lengths, blank=BLANK, reduction="none", zero_infinity=True
    )
    return nll, feasible


def greedy(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """The most likely unit of each sub-frame, with repeats merged and blanks dropped.

    Args:
        log_probs: (batch, sub-frames, vocab_size).
        lengths: (batch,): sub-frames of each row.

    Returns:
        Units of each row.
    """
    best = log_probs.argmax(-1).cpu()
    rows = []
    for row, length in zip(best, lengths.tolist(), strict=True):
        units = torch.unique_consecutive(row[:length])
        rows.append(units[units != BLANK].tolist())
    return rows


def beam_search(
    log_probs: Tensor,
    width: int,
    fusion: Fusion | None = None,
    *,
    start: FusedPrefix | None = None,
    complete: bool = True,
) -> list[int]:
    """Prefix beam search: the most likely text, each prefix summed over its alignments (Graves and Jaitly, 2014).

    The most likely path, which `greedy` takes, may spell another text: a unit that is equally likely in two frames
    appears in both or in neither.

    Args:
        log_probs: (sub-frames, vocab_size), of one row without padding.
        width: Number of prefixes kept.
        fusion: Adds the scores of a language model and of hotwords.
        start: With `fusion`: the text before the first sub-frame; by default none.
        complete: With `fusion`: whether the text ends with the last sub-frame; otherwise a word does.

    Returns:
        Units of the text.
    """
    values, units = (found.tolist() for found in log_probs.topk(min(width, log_probs.shape[1])))
    likeliest = (list(zip(*row, strict=True)) for row in zip(units, values, strict=True))
    return prefix_beam_search(log_probs.tolist(), likeliest, width, fusion, start=start, complete=complete)


def decode(log_probs: Tensor, lengths: Tensor, *, beam: int) -> list[list[int]]:
    """Decodes the text of each row.

    Args:
        log_probs: (batch, sub-frames, vocab_size).
        lengths: (batch,): sub-frames of each row.
        beam: Number of prefixes that `beam_search` keeps; 1 for `greedy`.

    Returns:
        Units of each row.
    """
    if beam == 1:
        return greedy(log_probs, lengths)
    rows = zip(log_probs.float().cpu(), lengths.tolist(), strict=True)
    return [beam_search(row[:length], beam) for row, length in rows]


def align(log_probs: Tensor, units: list[int]) -> list[Span]:
    """Forced alignment: the position of each unit of a known text, by the most likely path (Viterbi).

    Args:
        log_probs: (sub-frames, vocab_size), of one row without padding.
        units: The text, without blanks.

    Returns:
        A span for each unit, in order, without overlap.

    Raises:
        UserError: If the text does not fit in the sub-frames.
    """
    if not units:
        return []
    if least_subframes(units) > len(log_probs):
        raise UserError(
            f"a text of {len(units)} units needs {least_subframes(units)} sub-frames, and its audio has "
            f"{len(log_probs)}: it cannot be aligned"
        )
    path, scores = torchaudio.functional.forced_align(
        log_probs.detach().float().cpu()[None], torch.tensor([units], dtype=torch.int32), blank=BLANK
    )
    spans: Any = torchaudio.functional.merge_tokens(path[0], scores[0].exp(), blank=BLANK)
    return [Span(int(span.token), span.start, span.end, float(span.score)) for span in spans]
