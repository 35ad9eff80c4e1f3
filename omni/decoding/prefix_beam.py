"""Prefix beam search of CTC (Graves and Jaitly, 2014) over plain numbers, with or without a language model."""

import math
from collections.abc import Iterable, Sequence

from omni.decoding.fusion import FusedPrefix, Fusion
from omni.text.ctc_vocabulary import BLANK

_NEVER = -math.inf
_UNLIKELY = -10.0  # units below this log-probability do not lengthen a prefix

# Prefixes with the log-probabilities of their alignments that end in a blank, and in a unit.
_Prefixes = dict[tuple[int, ...], tuple[float, float]]


def prefix_beam_search(
    frames: Sequence[Sequence[float]],
    likeliest: Iterable[Sequence[tuple[int, float]]],
    width: int,
    fusion: Fusion | None = None,
    *,
    start: FusedPrefix | None = None,
    complete: bool = True,
) -> list[int]:
    """The most likely text, each prefix summed over its alignments.

    Args:
        frames: Log-probabilities of all units of each sub-frame.
        likeliest: The units of each sub-frame that may lengthen a prefix, with their log-probabilities, the most
            likely first.
        width: Number of prefixes kept.
        fusion: Adds the scores of a language model and of hotwords.
        start: With `fusion`: the text before the first sub-frame; by default none.
        complete: With `fusion`: whether the text ends with the last sub-frame; otherwise a word does.

    Returns:
        Units of the text.
    """
    beams: _Prefixes = {(): (0.0, _NEVER)}
    scores = None if fusion is None else _FusionScores(fusion, start or fusion.start)
    for frame, units in zip(frames, likeliest, strict=True):
        grown = [(unit, value) for unit, value in units if unit != BLANK and value > _UNLIKELY]
        found: _Prefixes = {}
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
        if scores is None:
            beams = dict(sorted(found.items(), key=lambda item: -_log_add(*item[1]))[:width])
        else:
            beams = scores.likeliest(found, width)
    if scores is None:
        return list(max(beams, key=lambda prefix: _log_add(*beams[prefix])))
    return list(max(beams, key=lambda prefix: _log_add(*beams[prefix]) + scores.at_end(prefix, complete=complete)))


class _FusionScores:
    """Scores of prefixes by a fusion, computed once for each."""

    def __init__(self, fusion: Fusion, start: FusedPrefix) -> None:
        self.fusion = fusion
        self.fused: dict[tuple[int, ...], FusedPrefix] = {(): start}

    def likeliest(self, found: _Prefixes, width: int) -> _Prefixes:
        """The prefixes of the highest scores, in order."""
        for prefix in found:
            if prefix not in self.fused:
                self.fused[prefix] = self.fusion.extend(self.fused[prefix[:-1]], prefix[-1])
        kept = sorted(found, key=lambda prefix: -_log_add(*found[prefix]) - self.fused[prefix].score)[:width]
        self.fused = {prefix: self.fused[prefix] for prefix in kept}
        return {prefix: found[prefix] for prefix in kept}

    def at_end(self, prefix: tuple[int, ...], *, complete: bool) -> float:
        """The score of a prefix if it ends with a word, or the text (`complete`)."""
        return self.fusion.end(self.fused[prefix], complete=complete)


def _log_add(one: float, other: float) -> float:
    """Log of the sum of two probabilities, from their logs."""
    high, low = max(one, other), min(one, other)
    return high if low == _NEVER else high + math.log1p(math.exp(low - high))
