"""Where media lie in a conversation: how many tokens each takes, and their positions in time, height and width.

Positions are those of TM-RoPE (Qwen2.5-Omni, arXiv:2503.20215): text goes on by one on all three axes, which is
one-dimensional RoPE; audio by its time on all three; the tokens of an image stand still in time and lie in rows and
columns; those of a video have the time of their frame, too. What follows goes on behind the last position of all.
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

TICKS = 12.5  # positions for a second: one for each frame of an audio encoder that writes 12.5 of them
_MEL_RATE = 100  # mel frames in a second


class Span(NamedTuple):
    """The place that a medium takes.

    Attributes:
        offsets: (3, tokens), fp32: how far each token lies behind the position where the medium begins.
        room: By how much the positions go on behind it.
    """

    offsets: Tensor
    room: int

    @property
    def tokens(self) -> int:
        """Number of its tokens."""
        return self.offsets.shape[1]


@dataclass(frozen=True, kw_only=True)
class MediaLayout:
    """How a model takes media in.

    Args:
        image_grid: Rows and columns of an image's tokens; None for a model that does not see.
        mel_frames: Mel frames for each token of audio; None for a model that does not hear.
    """

    image_grid: tuple[int, int] | None = None
    mel_frames: int | None = None

    def image(self) -> Span:
        """The place of an image.

        Raises:
            UserError: If the model does not see.
        """
        return self.video((0.0,))

    def video(self, times: Sequence[float]) -> Span:
        """The place of frames at some times, in seconds from the first one; raises as `image`."""
        if self.image_grid is None:
            raise UserError("there is an image, and the model sees none: give it a vision encoder and its projector")
        rows, columns = self.image_grid
        time = torch.tensor(times).repeat_interleave(rows * columns) * TICKS
        row = torch.arange(rows).repeat_interleave(columns).repeat(len(times))
        column = torch.arange(columns).repeat(rows * len(times))
        offsets = torch.stack((time, row.float(), column.float()))
        return Span(offsets, math.ceil(float(offsets.max())) + 1)

    def audio(self, mel_frames: int) -> Span:
        """The place of audio of so many mel frames.

        Raises:
            UserError: If the model does not hear.
        """
        if self.mel_frames is None:
            raise UserError("there is audio, and the model hears none: give it an audio encoder and its projector")
        step = self.mel_frames * TICKS / _MEL_RATE
        offsets = torch.arange(-(-mel_frames // self.mel_frames)) * step
        return Span(offsets.expand(3, -1), math.ceil(float(offsets[-1])) + 1)


class LaidOut(NamedTuple):
    """A conversation with a token for each feature of its media.

    Attributes:
        tokens: (time,), int64.
        scored: (time,), bool: as in `ChatTokens`.
        positions: (3, time), fp32: time, height and width.
    """

    tokens: Tensor
    scored: Tensor
    positions: Tensor


def lay_out(chat: ChatTokens, spans: Sequence[Span]) -> LaidOut:
    """Makes room for media in a conversation that has one placeholder for each.

    Args:
        chat: From `encode_chat`, without `placeholders`.
        spans: The place of every medium, in order.

    Raises:
        UserError: If there are more or fewer placeholders than media.
    """
    tokens = torch.tensor(chat.tokens)
    places = ((tokens == IMAGE) | (tokens == AUDIO)).nonzero()[:, 0].tolist()
    if len(places) != len(spans):
        raise UserError(f"the conversation has room for {len(places)} media, and {len(spans)} are given: give as many")
    counts, rooms = torch.ones_like(tokens), torch.ones_like(tokens)
    for place, span in zip(places, spans, strict=True):
        counts[place], rooms[place] = span.tokens, span.room
    begins = (rooms.cumsum(0) - rooms).float().repeat_interleave(counts)
    positions = begins.repeat(3, 1)
    firsts = counts.cumsum(0) - counts
    for place, span in zip(places, spans, strict=True):
        first = int(firsts[place])
        positions[:, first : first + span.tokens] += span.offsets
    scored = torch.tensor(chat.scored)
    return LaidOut(tokens.repeat_interleave(counts), scored.repeat_interleave(counts), positions)
