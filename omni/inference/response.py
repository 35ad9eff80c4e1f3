"""A streamed answer."""

from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from omni.media.mel_scale import SAMPLE_RATE
from omni.text.transcript import Word


class TextDelta(NamedTuple):
    """A piece of the text of an answer.

    Attributes:
        text: Joined, the pieces are the answer.
    """

    text: str


class AudioChunk(NamedTuple):
    """A piece of the speech of an answer.

    Attributes:
        samples: (samples,), float32 within ±1, on the CPU. Joined, the chunks are the speech.
        words: The words that end in it, with their times since the start of the speech; see `omni.inference.speech`.
    """

    samples: Tensor
    words: tuple[Word, ...] = ()


class StreamedResponse:
    """An iterator over the pieces of an answer while it is generated.

    An error in the generation is raised by the iteration, and again by `text` and `audio`.

    Attributes:
        sample_rate: Of the speech in Hz.
        forgotten: Number of the oldest messages that did not fit into the context.
        unspoken: Why parts of the answer were not synthesised, one line each.
    """

    def __init__(
        self,
        pieces: Generator[TextDelta | AudioChunk],
        forgotten: int,
        unspoken: list[str],
        *,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        self.forgotten, self.unspoken, self.sample_rate = forgotten, unspoken, sample_rate
        self._pieces = pieces
        self._error: Exception | None = None
        self._texts: list[str] = []
        self._chunks: list[Tensor] = []

    def __iter__(self) -> Iterator[TextDelta | AudioChunk]:
        if self._error is not None:
            raise self._error
        while True:
            try:
                piece = next(self._pieces)
            except StopIteration:
                return
            except Exception as error:
                self._error = error
                raise
            if isinstance(piece, TextDelta):
                self._texts.append(piece.text)
            else:
                self._chunks.append(piece.samples)
            yield piece

    def close(self) -> None:
        """Aborts the answer; the text so far stays in the history."""
        self._pieces.close()

    @property
    def text(self) -> str:
        """The complete text; waits for it. The text so far if the answer was aborted."""
        for _ in self:
            pass
        return "".join(self._texts)

    @property
    def audio(self) -> Tensor:
        """The complete speech (samples,); waits for it."""
        for _ in self:
            pass
        return torch.cat(self._chunks) if self._chunks else torch.zeros(0)
