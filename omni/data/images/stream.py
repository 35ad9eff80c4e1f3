"""Streams of images."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, final

import numpy as np

from omni.batch import Attribute, ImageBatch
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.captions import encode_captions
from omni.data.images.catalogues import HubImages
from omni.data.images.dataset import ImageDataset, LabelTable, readable
from omni.data.images.rows import ImageRow
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.streaming import SourceStream
from omni.media.images import Preprocessing
from omni.text.tokenizer import Tokenizer


@final
class ImageStream(SourceStream[ImageRow, ImageBatch]):
    """One pass over images of the Hub in batches.

    `buffer` images are shuffled together, and so are the Hub's files in each pass.

    Args:
        sources: The images.
        attributes: Their attributes.
        tokenizer: Of their captions.
        caption_tokens: Largest number of tokens of a caption.
        batch_size: Images of a batch; the rest at the end of a share is dropped.
        errors: Of images that cannot be read.
        preprocessing: See `ImageDataset`, as for the next two.
        size: Side of the images of a batch.
        augmentation: Of the images.
        **options: Of `SourceStream`.
    """

    def __init__(
        self,
        sources: Sequence[HubImages],
        attributes: tuple[Attribute, ...],
        tokenizer: Tokenizer,
        *,
        caption_tokens: int,
        batch_size: int,
        errors: RowErrors,
        preprocessing: Preprocessing,
        size: int,
        augmentation: ImageAugmentation,
        **options: Any,
    ) -> None:
        super().__init__(sources, **options)
        self.attributes, self.tokenizer = attributes, tokenizer
        self.caption_tokens, self.batch_size, self.errors = caption_tokens, batch_size, errors
        self.dataset_options: Any = {"preprocessing": preprocessing, "size": size, "augmentation": augmentation}

    def batches(self, share: int, shares: int) -> Iterator[ImageBatch]:
        rows, first = self.rows(share, shares), 0
        while block := list(islice(rows, self.buffer)):
            block = readable(block, self.errors)
            seed = int(np.random.SeedSequence([self.seed, self.epoch, share, first]).generate_state(1)[0])
            captioned = any(row.captions for row in block)
            captions = encode_captions(block, self.tokenizer, self.caption_tokens)[0] if captioned else None
            table = LabelTable(block, self.attributes)
            images = ImageDataset(block, table, captions, seed=seed, **self.dataset_options)
            order = np.random.default_rng(seed).permutation(len(block))
            for start in range(0, len(block) - self.batch_size + 1, self.batch_size):
                batch = images.__getitems__(order[start : start + self.batch_size].tolist())
                yield batch._replace(rows=share + shares * (first + batch.rows))
            first += len(block)
