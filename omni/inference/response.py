"""An answer while it is being given."""

from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class TextDelta(NamedTuple):
    """A piece of an answer.

    Attributes:
        text: Joined, the pieces are the answer.
    """

    text: str


class AudioChunk(NamedTuple):
    """A piece of spoken answer.

    Attributes:
        samples: (samples,), float32 within ±1, 16 kHz, on the CPU. Joined, the chunks are the speech.
    """

    samples: Tensor


class StreamedResponse:
    """An answer while it is being given: iterate over it for its pieces, once.

    What fails in it is raised where it is iterated over, and again where one asks for the whole.

    Attributes:
        forgotten: How many of the oldest messages did not fit into the context.
        unspoken: Why parts of the answer could not be said aloud.
    """

    def __init__(self, pieces: Generator[TextDelta | AudioChunk], forgotten: int, unspoken: list[str]) -> None:
        self.forgotten, self.unspoken = forgotten, unspoken
        self._pieces = pieces
        self._failed: Exception | None = None
        self._texts: list[str] = []
        self._sounds: list[Tensor] = []

    def __iter__(self) -> Iterator[TextDelta | AudioChunk]:
        if self._failed is not None:
            raise self._failed
        while True:
            try:
                piece = next(self._pieces)
            except StopIteration:
                return
            except Exception as error:
                self._failed = error
                raise
            if isinstance(piece, TextDelta):
                self._texts.append(piece.text)
            else:
                self._sounds.append(piece.samples)
            yield piece

    def close(self) -> None:
        """Breaks the answer off. What was said so far stays in the history."""
        self._pieces.close()

    @property
    def text(self) -> str:
        """The whole answer; waits for it. Of one that was broken off, what was said."""
        for _ in self:
            pass
        return "".join(self._texts)

    @property
    def audio(self) -> Tensor:
        """The whole speech, (samples,); waits for it."""
        for _ in self:
            pass
        return torch.cat(self._sounds) if self._sounds else torch.zeros(0)
