"""Best-fit packing: documents into full rows, without dropping a token."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omni.batch import IGNORE
from omni.text.tokenizer import PAD

Ints = NDArray[np.integer]


class PackingReport(NamedTuple):
    """Statistics of a packed corpus.

    Attributes:
        documents: Number of documents.
        tokens: Their tokens, bos and eos included.
        rows: Number of rows.
        padding: Share of the rows' tokens that are padding.
        cropped: Share of the predictable tokens (all but each document's first) that no row predicts.
    """

    documents: int
    tokens: int
    rows: int
    padding: float
    cropped: float


@dataclass(frozen=True)
class Packing:
    """The pieces of a stream of tokens that each row holds.

    Attributes:
        capacity: Tokens in a row.
        starts: (pieces,) start of each piece in the stream, row by row.
        lengths: (pieces,) tokens in each piece.
        bounds: (rows + 1,) row `r` holds the pieces `bounds[r]` to `bounds[r + 1] - 1`.
        report: Counts and shares.
    """

    capacity: int
    starts: Ints
    lengths: Ints
    bounds: Ints
    report: PackingReport

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def gather(self, stream: Ints, rows: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Reads rows.

        Args:
            stream: The tokens that the packing was computed for.
            rows: Numbers of the rows.

        Returns:
            Inputs and targets, (rows, capacity - 1) each. A target is the next token of the same piece, or `IGNORE`.
        """
        counts = self.bounds[rows + 1] - self.bounds[rows]
        pieces = _ranges(self.bounds[rows], counts)
        lengths = self.lengths[pieces]
        piece_starts = np.cumsum(lengths) - lengths  # of each piece, if the rows were concatenated without padding
        row_starts = piece_starts[np.cumsum(counts) - counts]
        places = piece_starts + np.repeat(np.arange(len(rows)) * self.capacity - row_starts, counts)
        tokens = np.full((len(rows), self.capacity), PAD, np.int64)
        filled = _ranges(places, lengths)
        tokens.ravel()[filled] = stream[_ranges(self.starts[pieces], lengths)]
        predicted = np.zeros(tokens.shape, bool)
        predicted.ravel()[filled] = True
        predicted.ravel()[places] = False  # the token before it belongs to another piece
        return tokens[:, :-1].copy(), np.where(predicted, tokens, IGNORE)[:, 1:].copy()


def pack(document_lengths: Ints, capacity: int) -> Packing:
    """Packs the documents of a stream.

    A document longer than a row is split into pieces that overlap by a token, so that each of its tokens but the first
    is predicted once. Pieces are put, longest first, into the fullest row that has room for them (best-fit decreasing,
    arXiv:2404.10830).

    Args:
        document_lengths: (documents,) tokens of each document, 2 or more.
        capacity: Tokens in a row, 2 or more.
    """
    counts = -(-(document_lengths - 1) // (capacity - 1))
    nth = _ranges(np.zeros_like(counts), counts)  # 0, 1, ... within each document
    offsets = nth * (capacity - 1)
    lengths = np.minimum(np.repeat(document_lengths, counts) - offsets, capacity)
    starts = np.repeat(np.cumsum(document_lengths) - document_lengths, counts) + offsets
    rows = best_fit(lengths, capacity)
    order = np.argsort(rows, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(rows))]).astype(np.int64)
    predictable = int((document_lengths - 1).sum())
    report = PackingReport(
        documents=len(document_lengths),
        tokens=int(document_lengths.sum()),
        rows=len(bounds) - 1,
        padding=1 - float(lengths.sum()) / max(1, (len(bounds) - 1) * capacity),
        cropped=1 - int((lengths - 1).sum()) / max(1, predictable),
    )
    return Packing(capacity, starts[order], lengths[order], bounds, report)


def best_fit(lengths: Ints, capacity: int) -> NDArray[np.int64]:
    """The row of every piece. All pieces of one length are placed together, so that the time hardly grows with them.

    Args:
        lengths: (pieces,) each from 1 to `capacity`.
        capacity: Tokens in a row.
    """
    rows = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(np.bincount(capacity - lengths, minlength=capacity))  # in `order`: longest pieces first
    room: dict[int, list[Ints]] = {}  # space left -> rows that have it
    num_rows, start = 0, 0
    for length, end in zip(range(capacity, 0, -1), ends.tolist(), strict=True):
        while start < end:
            space = min((space for space in room if space >= length), default=None)
            each = (capacity if space is None else space) // length  # pieces of this length that such a row takes
            wanted = -(-(end - start) // each)
            if space is None:
                space, open_rows = capacity, np.arange(num_rows, num_rows + wanted)
                num_rows += wanted
            else:
                open_rows = np.concatenate(room.pop(space))
                if len(open_rows) > wanted:
                    room[space] = [open_rows[wanted:]]
                    open_rows = open_rows[:wanted]
            placed = min(end - start, each * len(open_rows))
            taken = np.repeat(open_rows, each)[:placed]
            rows[order[start : start + placed]] = taken
            start += placed
            last = placed - each * (len(open_rows) - 1)  # the last of these rows may have got fewer
            _put(room, space - each * length, open_rows[:-1])
            _put(room, space - last * length, open_rows[-1:])
    return rows


def _put(room: dict[int, list[Ints]], space: int, rows: Ints) -> None:
    if space and len(rows):
        room.setdefault(space, []).append(rows)


def _ranges(starts: Ints, counts: Ints) -> NDArray[np.int64]:
    """`starts[i], starts[i] + 1, ...`, `counts[i]` of them, for one `i` after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
