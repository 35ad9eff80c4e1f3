"""Conversations that are read while they are trained on, for what is too large to be prepared."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import IterableDataset, get_worker_info

from omni.batch import ConversationBatch
from omni.data.conversations.dataset import Reader, Ready, make_batch
from omni.data.conversations.rows import encoded, fitted
from omni.data.conversations.sources import Conversation, Conversations
from omni.data.conversations.speech import TranscriptionPrompt, one_noise
from omni.data.loading.bucketing import BucketedBatches
from omni.errors import UserError
from omni.text.chat_template import Template
from omni.text.tokenizer import Tokenizer


@final
class ConversationStream(IterableDataset[ConversationBatch]):
    """One pass over conversations in batches of similar length; every rank and worker reads its own share of the rows.

    So many rows at a time are held, sorted into batches and shuffled. Rows that cannot be used are left out and
    counted. Nothing but the arguments and `epoch` decides what comes.

    Args:
        sources: Where they are from.
        reader: Reads their media.
        tokenizer: Of the Thinker.
        template: See `omni.text.chat_template.encode_chat`.
        dictation: How noise is asked about.
        noise_share: Noises, in which nothing is said, for each row.
        max_tokens: What is longer loses its last exchanges, or is left out.
        batch_tokens: Most tokens of a batch, padding counted.
        max_rows: Most rows of a batch.
        skip: Whether rows that cannot be used are left out, rather than an end to it all.
        buffer: Rows held at a time.
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        sources: Sequence[Conversations],
        *,
        reader: Reader,
        tokenizer: Tokenizer,
        template: Template,
        dictation: TranscriptionPrompt,
        noise_share: float,
        max_tokens: int,
        batch_tokens: int,
        max_rows: int,
        skip: bool,
        buffer: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources, self.reader, self.tokenizer = sources, reader, tokenizer
        self.template: Template = template
        self.dictation, self.noise_share = dictation, noise_share
        self.max_tokens, self.skip = max_tokens, skip
        self.limits: Any = {"capacity": batch_tokens, "max_rows": max_rows}
        self.buffer, self.seed = buffer, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[ConversationBatch]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        share, shares = self.rank * workers + (worker.id if worker else 0), self.world_size * workers
        left_out: Counter[str] = Counter()
        for block, held in enumerate(self._blocks(share, shares, left_out)):
            lengths = np.array([len(row.laid.tokens) for row in held])
            batches = BucketedBatches(lengths, seed=self.seed + self.epoch, **self.limits)
            for batch in batches.epoch(block):
                rows = [held[i] for i in batch - block * len(held)]
                yield make_batch(rows, self.tokenizer, silence=self.reader.silence)
        if left_out:
            counts = ", ".join(f"{number} {why}" for why, number in left_out.most_common(5))
            rank_zero_warn(f"train: rows left out of pass {self.epoch}: {counts}")

    def _blocks(self, share: int, shares: int, left_out: Counter[str]) -> Iterator[list[Ready]]:
        """`buffer` usable rows at a time."""
        held: list[Ready] = []
        for number, found in enumerate(self._conversations(share, shares)):
            ready = self._ready(share + number * shares, found, left_out)
            if ready is None:
                continue
            held.append(ready)
            if len(held) >= self.buffer:
                yield held
                held = []
        if held:
            yield held

    def _conversations(self, share: int, shares: int) -> Iterator[Conversation | UserError]:
        """Those of a share, and noises among them."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sources))
        seed = int(np.uint32(self.seed + self.epoch))
        rows = chain.from_iterable(
            self.sources[number].stream((share + turn) % shares, shares, seed) for turn, number in enumerate(order)
        )
        made = 0
        for number, row in enumerate(rows, start=1):
            yield row
            while made < int(number * self.noise_share):
                yield one_noise(share + made * shares, self.dictation, seed)
                made += 1

    def _ready(self, number: int, found: Conversation | UserError, left_out: Counter[str]) -> Ready | None:
        try:
            if isinstance(found, UserError):
                raise found
            row = fitted(encoded(found, self.tokenizer, self.template), self.reader.layout, self.max_tokens)
            if row is not None:
                return self.reader.read(number, row[0])
        except UserError as error:
            if not self.skip:
                raise
            left_out["that cannot be used"] += 1
            if left_out.total() == 1:
                rank_zero_warn(f"left out: {error}")
            return None
        left_out[f"whose first exchange takes more than data.max_tokens, {self.max_tokens}"] += 1
        return None
