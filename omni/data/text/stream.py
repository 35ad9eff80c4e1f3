"""Streams of text: documents tokenised and packed as they come, shared over ranks and workers, resumable."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from omni.batch import TextBatch
from omni.data.text.documents import Documents
from omni.data.text.packing import pack
from omni.text.tokenizer import BOS, EOS, Tokenizer

_DOCUMENTS = 64  # tokenised together


@final
class TextStream(IterableDataset[TextBatch]):
    """One pass over a corpus in batches of packed rows; every rank and worker reads its own share of the documents.

    Enough documents for `buffer` rows are packed together and their rows shuffled; so are the sources in each epoch.
    Nothing but the arguments and `epoch` decides what comes.

    Args:
        sources: The corpus.
        tokenizer: Encodes it.
        context: Tokens that the model reads in a row.
        batch_size: Rows of a batch. The last rows of a share that fill none are dropped, unless they are all it has.
        buffer: Rows that are packed and shuffled together.
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        sources: Sequence[Documents],
        tokenizer: Tokenizer,
        *,
        context: int,
        batch_size: int,
        buffer: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources = sources
        self.tokenizer = tokenizer
        self.capacity = context + 1
        self.batch_size = batch_size
        self.buffer = buffer
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[TextBatch]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        share, shares = self.rank * workers + (worker.id if worker else 0), self.world_size * workers
        inputs, targets = np.empty((2, 0, self.capacity - 1), np.int64)
        count = 0  # rows that were yielded
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
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sources))
        texts = chain.from_iterable(
            # the share turns with the sources: of many files of one document each, every share gets some
            self.sources[number].read_share((share + turn) % shares, shares, int(np.uint32(self.seed + self.epoch)))
            for turn, number in enumerate(order)
        )
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
