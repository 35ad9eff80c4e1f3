"""Prefix beam search of CTC (Graves and Jaitly, 2014) over plain numbers."""

import math
from collections.abc import Iterable, Sequence

from omni.text.ctc_vocabulary import BLANK

_NEVER = -math.inf
_UNLIKELY = -10.0  # units below this log-probability do not lengthen a prefix


def prefix_beam_search(
    frames: Sequence[Sequence[float]], likeliest: Iterable[Sequence[tuple[int, float]]], width: int
) -> list[int]:
    """The most likely text, each prefix summed over its alignments.

    Args:
        frames: Log-probabilities of all units of each sub-frame.
        likeliest: The units of each sub-frame that may lengthen a prefix, with their log-probabilities, the most
            likely first.
        width: Number of prefixes kept.

    Returns:
        Units of the text.
    """
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NEVER)}  # ending in a blank, and in a unit
    for frame, units in zip(frames, likeliest, strict=True):
        grown = [(unit, value) for unit, value in units if unit != BLANK and value > _UNLIKELY]
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (in_blank, in_unit) in beams.items():
            both = _log_add(in_blank, in_unit)
            after_blank, after_unit = found.get(prefix, (_NEVER, _NEVER))
            if prefix:
                after_unit = _log_add(after_unit, in_unit + frame[prefix[-1]])
            found[prefix] = (_log_add(after_blank, both + frame[BLANK]), after_unit)
            for unit, value in grown:
                longer = (*prefix, unit)
                before = in_blank if prefix and prefix[-1] == unit else both
                after_blank, after_unit = found.get(longer, (_NEVER, _NEVER))
                found[longer] = (after_blank, _log_add(after_unit, before + value))
        beams = dict(sorted(found.items(), key=lambda item: -_log_add(*item[1]))[:width])
    return list(max(beams, key=lambda prefix: _log_add(*beams[prefix])))


def _log_add(one: float, other: float) -> float:
    """Log of the sum of two probabilities, from their logs."""
    high, low = max(one, other), min(one, other)
    return high if low == _NEVER else high + math.log1p(math.exp(low - high))
