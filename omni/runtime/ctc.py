"""CTC decoding of emissions as arrays, and of long recordings in overlapping chunks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.decoding.prefix_beam import prefix_beam_search
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary

LogProbs = NDArray[np.float32]

_NOT_AGAIN = -30.0  # log-probability of a unit that was decoded before
_SMOOTH = 9  # sub-frames: a pause between words is longer than the blank between two letters
_MIDDLE = 0.5  # weight of the middle of an overlap: a chunk lacks context at its edge


def greedy(log_probs: NDArray[Any]) -> list[int]:
    """The most likely unit of each sub-frame, with repeats merged and blanks dropped, as `omni.decoding.ctc.greedy`.

    Args:
        log_probs: (sub-frames, vocab_size), of one row without padding.
    """
    best = log_probs.argmax(-1)
    first = np.ones(len(best), dtype=bool)
    first[1:] = best[1:] != best[:-1]
    return best[first & (best != BLANK)].tolist()


def decode(log_probs: LogProbs, beam: int) -> list[int]:
    """Units of the text, as `omni.decoding.ctc.decode` of one row.

    Args:
        log_probs: (sub-frames, vocab_size), of one row without padding.
        beam: Number of prefixes that the search keeps; 1: greedy.
    """
    if beam == 1:
        return greedy(log_probs)
    order = np.argsort(-log_probs, axis=-1, kind="stable")[:, :beam]
    values = np.take_along_axis(log_probs, order, axis=-1)
    likeliest = (list(zip(*row, strict=True)) for row in zip(order.tolist(), values.tolist(), strict=True))
    return prefix_beam_search(log_probs.tolist(), likeliest, beam)


class ChunkMerger:
    """Merges the chunks of a recording where both of two are most certain of silence, as in `omni.inference.long_form`.

    Args:
        units: The vocabulary.
        shared: Sub-frames of the overlap of two chunks.
        beam: See `decode`.
    """

    def __init__(self, units: CTCVocabulary, *, shared: int, beam: int) -> None:
        self.units, self.shared, self.beam = units, shared, beam
        self._pauses = [BLANK, *(unit for unit in range(1, units.vocab_size) if units.surface(unit).isspace())]
        self._pending: LogProbs | None = None
        self._last = BLANK
        self._decoded: list[int] = []

    def add(self, log_probs: LogProbs) -> None:
        """Adds a chunk, (sub-frames, vocab_size)."""
        if self._pending is not None:
            shared = min(self.shared, len(log_probs), len(self._pending))
            before = len(self._pending) - shared
            cut = _best_cut(self._pending[before:], log_probs[:shared], self._pauses)
            self._commit(self._pending[: before + cut])
            log_probs = log_probs[cut:]
        self._pending = log_probs

    def finish(self) -> str:
        """Decodes the rest and returns the text."""
        assert self._pending is not None
        self._commit(self._pending)
        return " ".join("".join(map(self.units.surface, self._decoded)).split())

    def _commit(self, log_probs: LogProbs) -> None:
        if not len(log_probs):
            return
        best = log_probs.argmax(-1)
        if best[0] == self._last != BLANK:  # decoded before the cut already
            log_probs = log_probs.copy()
            repeated = int((best != best[0]).argmax()) or len(best)
            log_probs[:repeated] = _NOT_AGAIN
            log_probs[:repeated, BLANK] = 0.0
        self._decoded += decode(log_probs, self.beam)
        self._last = int(best[-1])


def _best_cut(before: LogProbs, after: LogProbs, pauses: list[int]) -> int:
    """The sub-frame of an overlap where both chunks are most certain of silence; arguments (sub-frames, vocab_size)."""
    if not len(before):
        return 0
    quiet = np.logaddexp.reduce(before[:, pauses], axis=1) + np.logaddexp.reduce(after[:, pauses], axis=1)
    width = min(_SMOOTH, len(before))
    padded = np.pad(quiet, (width // 2, (width - 1) // 2), mode="edge")
    smooth = np.convolve(padded, np.full(width, 1 / width, dtype=np.float32), mode="valid")
    return int((smooth - _MIDDLE * np.abs(np.linspace(-1, 1, len(smooth)))).argmax())
