"""Images that are read from the Hub while training, for data sets too large to download."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, final

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from omni.batch import Attribute, ImageBatch
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.captions import encode_captions
from omni.data.images.catalogues import HubImages
from omni.data.images.dataset import ImageDataset, LabelTable, readable
from omni.data.images.rows import Faults, ImageRow
from omni.media.images import Preprocessing
from omni.text.tokenizer import Tokenizer

_AT_A_TIME = 16  # rows that are drawn from the Hub together


@final
class ImageStream(IterableDataset[ImageBatch]):
    """One pass over streamed images in batches; every rank and worker reads its own share.

    Images of a buffer are shuffled together, and so are the Hub's files in each epoch. Nothing but the arguments and
    `epoch` decides what comes.

    Args:
        sources: The images.
        attributes: What they may be labelled with.
        tokenizer: Of their captions.
        caption_tokens: Most tokens of a caption.
        batch_size: Images of a batch; what is left at the end of a share is dropped.
        buffer: Images that are shuffled together.
        skip: Whether unreadable images are left out.
        preprocessing: See `ImageDataset`, as for the next two.
        size: Side of what a batch holds.
        augmentation: Of training images.
        seed: Of the shuffling.
        rank: Of this process.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        sources: Sequence[HubImages],
        attributes: tuple[Attribute, ...],
        tokenizer: Tokenizer,
        *,
        caption_tokens: int,
        batch_size: int,
        buffer: int,
        skip: bool,
        preprocessing: Preprocessing,
        size: int,
        augmentation: ImageAugmentation,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sources, self.attributes, self.tokenizer = sources, attributes, tokenizer
        self.caption_tokens, self.batch_size, self.buffer, self.skip = caption_tokens, batch_size, buffer, skip
        self.options: dict[str, Any] = {"preprocessing": preprocessing, "size": size, "augmentation": augmentation}
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[ImageBatch]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        share, shares = self.rank * workers + (worker.id if worker else 0), self.world_size * workers
        rows, faults, first = self._rows(share, shares), Faults(skip=self.skip), 0
        while block := list(islice(rows, self.buffer)):
            block = readable(block, faults)
            seed = int(np.random.SeedSequence([self.seed, self.epoch, share, first]).generate_state(1)[0])
            captioned = any(row.captions for row in block)
            captions = encode_captions(block, self.tokenizer, self.caption_tokens)[0] if captioned else None
            images = ImageDataset(block, LabelTable(block, self.attributes), captions, seed=seed, **self.options)
            order = np.random.default_rng(seed).permutation(len(block))
            for start in range(0, len(block) - self.batch_size + 1, self.batch_size):
                batch = images.__getitems__(order[start : start + self.batch_size].tolist())
                yield batch._replace(rows=share + shares * (first + batch.rows))
            first += len(block)
        faults.report("train")

    def _rows(self, share: int, shares: int) -> Iterator[ImageRow]:
        from datasets.distributed import split_dataset_by_node

        for source in self.sources:
            table = source.table.shuffle(seed=int(np.uint32(self.seed + self.epoch)), buffer_size=1)  # of its files
            number = 0
            # not `__iter__`: in a worker that would share the files out once more, and lose some
            for columns in split_dataset_by_node(table, share, shares).iter(batch_size=_AT_A_TIME):
                for values in zip(*columns.values(), strict=True):
                    number += 1
                    yield source.row(dict(zip(columns, values, strict=True)), number)
