"""Media in a conversation: the number of their tokens, and positions in time, height and width (TM-RoPE).

TM-RoPE is from Qwen2.5-Omni (arXiv:2503.20215). Text advances by one on all three axes, as in one-dimensional RoPE;
audio advances with its time on all three. The tokens of an image share one time and are numbered by row and column;
those of a video have the time of their frame. The token after a medium follows its largest position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError
from omni.text.chat_template import ChatTokens
from omni.text.tokenizer import AUDIO, IMAGE

TICKS = 12.5  # positions per second: one per frame of an audio encoder at 12.5 Hz
_MEL_RATE = 100  # mel frames per second


class MediaSpan(NamedTuple):
    """Positions of a medium, relative to its first.

    Attributes:
        offsets: (3, tokens), fp32: the position of each token, from the start of the medium.
        extent: Positions that the medium takes: the offset of the token after it.
    """

    offsets: Tensor
    extent: int

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.offsets.shape[1]


@dataclass(frozen=True, kw_only=True)
class MediaLayout:
    """How many tokens a model gives each medium.

    Args:
        image_grid: Rows and columns of the tokens of an image; None for a model without a vision encoder.
        mel_frames: Mel frames per token of audio; None for a model without an audio encoder.
    """

    image_grid: tuple[int, int] | None = None
    mel_frames: int | None = None

    def image(self) -> MediaSpan:
        """The span of an image.

        Raises:
            UserError: If the model has no vision encoder.
        """
        return self.video((0.0,))

    def video(self, times: Sequence[float]) -> MediaSpan:
        """The span of frames at `times`, in seconds after the first; raises as `image`."""
        if self.image_grid is None:
            raise UserError("there is an image, and the model has no vision encoder: give it one, and its projector")
        rows, columns = self.image_grid
        time = torch.tensor(times).repeat_interleave(rows * columns) * TICKS
        row = torch.arange(rows).repeat_interleave(columns).repeat(len(times))
        column = torch.arange(columns).repeat(rows * len(times))
        offsets = torch.stack((time, row.float(), column.float()))
        return MediaSpan(offsets, math.ceil(float(offsets.max())) + 1)

    def audio(self, mel_frames: int) -> MediaSpan:
        """The span of audio of `mel_frames` frames of 10 ms.

        Raises:
            UserError: If the model has no audio encoder.
        """
        if self.mel_frames is None:
            raise UserError("there is audio, and the model has no audio encoder: give it one, and its projector")
        step = self.mel_frames * TICKS / _MEL_RATE
        offsets = torch.arange(-(-mel_frames // self.mel_frames)) * step
        return MediaSpan(offsets.expand(3, -1), math.ceil(float(offsets[-1])) + 1)


class PositionedTokens(NamedTuple):
    """A conversation with one token per feature of its media.

    Attributes:
        tokens: (time,), int64.
        scored: (time,), bool; see `ChatTokens`.
        positions: (3, time), fp32: time, height and width.
    """

    tokens: Tensor
    scored: Tensor
    positions: Tensor


def expand_placeholders(chat: ChatTokens, spans: Sequence[MediaSpan]) -> PositionedTokens:
    """Repeats the placeholder of each medium for its features, and computes the positions of all tokens.

    Args:
        chat: From `encode_chat`, with one placeholder per medium.
        spans: The span of each medium, in order.

    Raises:
        UserError: If the numbers of placeholders and media differ.
    """
    tokens = torch.tensor(chat.tokens)
    places = ((tokens == IMAGE) | (tokens == AUDIO)).nonzero()[:, 0].tolist()
    if len(places) != len(spans):
        raise UserError(f"there are {len(places)} placeholders for {len(spans)} media: give as many")
    counts, extents = torch.ones_like(tokens), torch.ones_like(tokens)
    for place, span in zip(places, spans, strict=True):
        counts[place], extents[place] = span.tokens, span.extent
    starts = (extents.cumsum(0) - extents).float().repeat_interleave(counts)
    positions = starts.repeat(3, 1)
    firsts = counts.cumsum(0) - counts
    for place, span in zip(places, spans, strict=True):
        first = int(firsts[place])
        positions[:, first : first + span.tokens] += span.offsets
    scored = torch.tensor(chat.scored)
    return PositionedTokens(tokens.repeat_interleave(counts), scored.repeat_interleave(counts), positions)
