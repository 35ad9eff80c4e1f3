"""Streams of text: documents that are tokenised and packed while they are read."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from omni.batch import TextBatch
from omni.data.loading.streaming import SourceStream
from omni.data.text.documents import Documents
from omni.data.text.packing import pack
from omni.text.tokenizer import BOS, EOS, Tokenizer

_DOCUMENTS = 64  # tokenised together


@final
class TextStream(SourceStream[str, TextBatch]):
    """One pass over a corpus in batches of packed rows.

    Enough documents for `buffer` rows are packed together, and their rows shuffled.

    Args:
        sources: The corpus.
        tokenizer: Encodes it.
        context: Tokens that the model reads in a row.
        batch_size: Rows of a batch. The last rows of a share that do not fill one are dropped, unless they are all.
        **options: Of `SourceStream`.
    """

    def __init__(
        self, sources: Sequence[Documents], tokenizer: Tokenizer, *, context: int, batch_size: int, **options: Any
    ):
        super().__init__(sources, **options)
        self.tokenizer = tokenizer
        self.capacity = context + 1
        self.batch_size = batch_size

    def batches(self, share: int, shares: int) -> Iterator[TextBatch]:
        inputs, targets = np.empty((2, 0, self.capacity - 1), np.int64)
        count = 0  # rows of the batches so far
        for block in self._blocks(share, shares):
            inputs, targets = np.concatenate([inputs, block[0]]), np.concatenate([targets, block[1]])
            while len(inputs) >= self.batch_size:
                yield _batch(inputs[: self.batch_size], targets[: self.batch_size], share + count * shares, shares)
                inputs, targets = inputs[self.batch_size :], targets[self.batch_size :]
                count += self.batch_size
        if not count and len(inputs):
            yield _batch(inputs, targets, share, shares)

    def _blocks(self, share: int, shares: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Inputs and targets of `buffer` rows at a time, shuffled."""
        random = np.random.default_rng([self.seed, self.epoch, share])
        documents, size = [], 0
        for document in self._documents(share, shares):
            documents.append(document)
            size += len(document)
            if size >= self.buffer * self.capacity:
                yield self._pack(documents, random)
                documents, size = [], 0
        if documents:
            yield self._pack(documents, random)

    def _documents(self, share: int, shares: int) -> Iterator[NDArray[np.int64]]:
        """The tokens of each document of a share."""
        texts = self.rows(share, shares)
        while some := list(islice(texts, _DOCUMENTS)):
            for tokens in self.tokenizer.encode_batch(some):
                yield np.array([BOS, *tokens, EOS])

    def _pack(
        self, documents: list[NDArray[np.int64]], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        packing = pack(np.array([len(document) for document in documents]), self.capacity)
        return packing.gather(np.concatenate(documents), random.permutation(len(packing)))


def _batch(inputs: NDArray[np.int64], targets: NDArray[np.int64], first: int, step: int) -> TextBatch:
    rows = first + step * torch.arange(len(inputs))
    return TextBatch(torch.from_numpy(inputs.copy()), torch.from_numpy(targets.copy()), rows)
