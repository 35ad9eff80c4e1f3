"""Media in a conversation: the number of their tokens, and positions in time, height and width (TM-RoPE).

TM-RoPE is from Qwen2.5-Omni (arXiv:2503.20215). Text advances by one on all three axes, as in one-dimensional RoPE;
audio advances with its time on all three. The tokens of an image share one time and are numbered by row and column;
those of a video have the time of their frame. The token after a medium follows its largest position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError
from omni.text.chat_template import ChatTokens
from omni.text.media_spans import SpanArray, audio_span, expand, video_span


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
        return _span(video_span(times, self.image_grid))

    def audio(self, mel_frames: int) -> MediaSpan:
        """The span of audio of `mel_frames` frames of 10 ms.

        Raises:
            UserError: If the model has no audio encoder.
        """
        if self.mel_frames is None:
            raise UserError("there is audio, and the model has no audio encoder: give it one, and its projector")
        return _span(audio_span(mel_frames, self.mel_frames))


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
    counts, positions = expand(chat.tokens, [SpanArray(span.offsets.numpy(), span.extent) for span in spans])
    repeats = torch.from_numpy(counts)
    tokens, scored = (torch.tensor(part).repeat_interleave(repeats) for part in (chat.tokens, chat.scored))
    return PositionedTokens(tokens, scored, torch.from_numpy(positions))


def _span(array: SpanArray) -> MediaSpan:
    return MediaSpan(torch.from_numpy(array.offsets), array.extent)
