"""Which character each codec frame belongs to, from the forced alignment of a recogniser."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from omni.decoding.ctc import Span
from omni.models.talker import MAX_ADVANCE

_MARGIN = 0.03  # seconds that the first and the last character extend beyond their CTC spikes


def borders(spans: Sequence[Span], subframe_seconds: float) -> np.ndarray:
    """Seconds at which each character starts, and at which the last one ends: midway between the spikes of CTC.

    Args:
        spans: Of all characters, from `omni.decoding.ctc.align`; at least one.
        subframe_seconds: Time from one sub-frame to the next.
    """
    inner = [(one.end + other.start) / 2 for one, other in pairwise(spans)]
    edges = np.array([spans[0].start, *inner, spans[-1].end]) * subframe_seconds
    edges[0], edges[-1] = max(0.0, edges[0] - _MARGIN), edges[-1] + _MARGIN
    return edges


def advances(borders: np.ndarray, num_frames: int, frame_rate: float) -> np.ndarray | None:
    """The number of characters by which each frame advances (see `omni.batch.CodesBatch`).

    A frame belongs to the character at its centre. If more than `MAX_ADVANCE` start at once, the alignment is delayed
    by some frames.

    Args:
        borders: Seconds at which each character starts, and at which the last one ends.
        num_frames: Number of frames, at least one.
        frame_rate: Frames a second.

    Returns:
        (frames,), int64, of 0 to `MAX_ADVANCE`; None if there are too few frames.
    """
    centres = (np.arange(num_frames) + 0.5) / frame_rate
    wanted = np.searchsorted(borders, centres)  # 0 is the start symbol
    wanted[0] = 0
    # Each place is limited by `MAX_ADVANCE` for each frame since any earlier place: a running minimum on a slope.
    slope = MAX_ADVANCE * np.arange(num_frames)
    places = np.minimum.accumulate(wanted - slope) + slope
    end = len(borders) + 1  # the characters and two symbols
    steps = np.diff(np.append(places, end))
    return steps if steps[-1] <= MAX_ADVANCE else None
