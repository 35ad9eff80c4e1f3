"""Positions of media in a conversation as arrays; see `omni.text.media_positions`, which is the same in PyTorch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omni.errors import UserError
from omni.text.tokenizer import AUDIO, IMAGE

TICKS = 12.5  # positions per second: one per frame of an audio encoder at 12.5 Hz
_MEL_RATE = 100  # mel frames per second


class SpanArray(NamedTuple):
    """Positions of a medium, relative to its first.

    Attributes:
        offsets: (3, tokens), fp32: the position of each token, from the start of the medium.
        extent: Positions that the medium takes: the offset of the token after it.
    """

    offsets: NDArray[np.float32]
    extent: int


def video_span(times: Sequence[float], grid: tuple[int, int]) -> SpanArray:
    """The span of frames, or of a single image at time 0.

    Args:
        times: Of each frame, in seconds after the first.
        grid: Rows and columns of the tokens of a frame.
    """
    rows, columns = grid
    time = np.repeat(np.array(times, dtype=np.float32), rows * columns) * np.float32(TICKS)
    row = np.tile(np.repeat(np.arange(rows), columns), len(times))
    column = np.tile(np.arange(columns), rows * len(times))
    offsets = np.stack((time, row, column)).astype(np.float32)
    return SpanArray(offsets, math.ceil(float(offsets.max())) + 1)


def audio_span(mel_frames: int, frames_per_token: int) -> SpanArray:
    """The span of audio.

    Args:
        mel_frames: Its length in frames of 10 ms.
        frames_per_token: Mel frames per token.
    """
    step = frames_per_token * TICKS / _MEL_RATE
    places = (np.arange(-(-mel_frames // frames_per_token)) * step).astype(np.float32)
    return SpanArray(np.tile(places, (3, 1)), math.ceil(float(places[-1])) + 1)


def expand(tokens: Sequence[int], spans: Sequence[SpanArray]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Repeats the placeholder of each medium for its tokens.

    Args:
        tokens: Of `omni.text.chat_template.encode_chat`, with one placeholder per medium.
        spans: The span of each medium, in order.

    Returns:
        How often each of `tokens` occurs, (len(tokens),), and the positions (3, time) of all.

    Raises:
        UserError: If the numbers of placeholders and media differ.
    """
    places = [place for place, token in enumerate(tokens) if token in (IMAGE, AUDIO)]
    if len(places) != len(spans):
        raise UserError(f"there are {len(places)} placeholders for {len(spans)} media: give as many")
    counts, extents = np.ones((2, len(tokens)), dtype=np.int64)
    for place, span in zip(places, spans, strict=True):
        counts[place], extents[place] = span.offsets.shape[1], span.extent
    starts = (extents.cumsum() - extents).astype(np.float32).repeat(counts)
    positions = np.tile(starts, (3, 1))
    firsts = counts.cumsum() - counts
    for place, span in zip(places, spans, strict=True):
        first = int(firsts[place])
        positions[:, first : first + span.offsets.shape[1]] += span.offsets
    return counts, positions
