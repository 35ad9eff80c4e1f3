"""Images with labels, captions or both."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from omni.batch import Attribute
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.captions import encode_captions, find_caption_tokenizer
from omni.data.images.catalogues import HubImages
from omni.data.images.dataset import ImageDataset, LabelTable, attributes_of, load_images, readable
from omni.data.images.opening import open_images
from omni.data.images.rows import ImageRow
from omni.data.images.sources import ImageSource, Location
from omni.data.images.splits import annotated, check_classes, check_leak, hold_out
from omni.data.images.stream import ImageStream
from omni.data.loading.bad_rows import BatchReader
from omni.data.loading.batched_data import FixedSizeData
from omni.data.loading.statistics import ROW_BYTES, DataStatistics
from omni.errors import UserError
from omni.media.images import Fit, Preprocessing
from omni.text.tokenizer import Tokenizer

_STREAM_VAL = 1000  # largest number of validation images of a stream
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class _Plan(NamedTuple):
    """The images of each split, and what encodes their labels and captions."""

    rows: dict[str, list[ImageRow]]  # by split
    attributes: tuple[Attribute, ...]
    tokenizer: Tokenizer
    streams: list[HubImages]


@final
class ImageData(FixedSizeData[_Plan]):
    """Images with labels, captions or both; see `omni.batch.ImageBatch`.

    Images are cropped or padded to squares of one size, are kept in memory up to `memory_gb`, and are augmented in
    training, a batch at a time. Splits are by image: all captions of an image are on the same side.

    Args:
        train: A folder with a folder for each class; a manifest: .jsonl, .csv, Flickr8k's captions.txt, COCO's
            captions .json, with the suffix `@LIST` to use only the images that the file LIST beside it names;
            torchvision:NAME; hub:OWNER/NAME[:CONFIG[:SPLIT]]; or several of these.
        val: The same, for validation. By default it is held out of `train`.
        test: The same, for `omni test` and `omni predict`.
        image_size: Side of the model's square input, in pixels.
        fit: How an image that is not square is made so: `crop` (to its middle), `pad` (with black) or `stretch`.
        load_size: Side of training images before they are cropped at random; by default `image_size`.
        augmentation: Random changes of training images.
        batch_size: Images of a batch on each device.
        val_batch_size: Images of a validation batch; by default `batch_size`.
        val_fraction: Share of the images held out where `val` is not given.
        tokenizer: Of captions: `bytes`, `bpe` (trained on the training captions), a .model file, or a .ckpt file.
        vocab_size: Of `bpe`.
        caption_tokens: Largest number of tokens of a caption, bos and eos counted; longer ones are cropped.
        root: Folder of torchvision's data sets.
        image_folder: Folder of a manifest's images; by default beside it, or in `Images` beside it.
        download: Whether torchvision may download missing files.
        memory_gb: Images are kept in memory up to this size; larger splits are read from disk in each epoch.
        shuffle_buffer: Images that are shuffled together when streaming.
        kwargs: See `SplitData`.

    Attributes:
        attributes: Attributes of the images; after `setup`.
        tokenizer: Encodes captions; after `setup`.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: Tokenizer
    attributes: tuple[Attribute, ...]

    no_effect = frozenset({"download", "memory_gb"})
    row_name = "images"

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        image_size: int = 224,
        fit: Fit = "crop",
        load_size: int | None = None,
        augmentation: ImageAugmentation | None = None,
        batch_size: int = 64,
        val_batch_size: int | None = None,
        val_fraction: float = 0.05,
        tokenizer: str = "bytes",
        vocab_size: int = 4096,
        caption_tokens: int = 64,
        root: str = "data/images",
        image_folder: str | None = None,
        download: bool = False,
        memory_gb: float = 4.0,
        shuffle_buffer: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__({"train": train, "val": val, "test": test}, **kwargs)
        self.image_size, self.load_size = image_size, load_size or image_size
        self.preprocessing = Preprocessing(image_size, fit)
        self.augmentation = augmentation or ImageAugmentation()
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.val_fraction = val_fraction
        self.tokenizer_spec, self.vocab_size, self.caption_tokens = tokenizer, vocab_size, caption_tokens
        self.memory_gb = memory_gb
        self.shuffle_buffer = shuffle_buffer
        folder = None if image_folder is None else Path(image_folder).expanduser()
        self.location = Location(
            Path(root).expanduser(), folder, download, self.cache_dir, self.streaming, self.columns
        )
        self._check_arguments()

    def find_fingerprint(self) -> str:
        plan = self.plan()
        digest = hashlib.sha256(f"{self.preprocessing} {self.load_size} {plan.tokenizer.fingerprint}".encode())
        for split in ("train", "val"):
            for row in plan.rows.get(split, []):  # reads the start of every file
                digest.update(row.content_hash() + f"{row.labels} {row.captions}".encode())
        for stream in plan.streams:
            digest.update(stream.name.encode())
        return digest.hexdigest()

    @property
    def stream_identity(self) -> str:
        return f"{self.fingerprint} {self.batch_size} {self.shuffle_buffer}"

    def prepare_data(self) -> None:
        self.plan(may_write=True)

    def setup(self, stage: str | None = None) -> None:
        plan = self.plan(may_write=self.trainer is None)
        self.tokenizer, self.attributes = plan.tokenizer, plan.attributes
        self.open_splits(plan, _SPLITS.get(stage or "", ("train", "val", "test")))

    def open_splits(self, plan: _Plan, splits: Sequence[str] = ("train", "val", "test")) -> None:
        for split in splits:
            if split in plan.rows and split not in self.datasets:
                self.datasets[split] = self._open(split, plan)

    def statistics(self) -> DataStatistics:
        plan = self.plan(may_write=True)
        splits = {split: plan.rows[split] for split in ("train", "val") if split in plan.rows}
        counts = {
            split: {"images": len(rows), "captions": sum(len(row.captions) for row in rows)}
            for split, rows in splits.items()
        }
        classes = sum(len(attribute.values) for attribute in plan.attributes) or None
        sizes = {"train": self.load_size, "val": self.image_size}
        pixels = [3 * len(rows) * sizes[split] ** 2 for split, rows in splits.items()]
        memory = sum(each for each in pixels if each <= self.memory_gb * 1e9) + ROW_BYTES * sum(
            map(len, splits.values())
        )
        rows = {split: len(rows) for split, rows in splits.items()}
        return self.statistics_of("images", counts, rows, classes=classes, memory=memory)

    def stream(self) -> ImageStream:
        plan = self.plan()
        return ImageStream(
            plan.streams,
            plan.attributes,
            plan.tokenizer,
            caption_tokens=self.caption_tokens,
            batch_size=self.batch_size,
            errors=self.stream_errors(),
            preprocessing=self._train_preprocessing,
            size=self.image_size,
            augmentation=self.augmentation,
            **self.stream_options,
        )

    def make_plan(self, *, may_write: bool) -> _Plan:
        """The images of each split, and what encodes their labels and captions.

        Raises:
            UserError: If a source does not exist, has neither labels nor captions, or other classes than the rest.
        """
        sources = {split: self._sources(split) for split in self.entries}
        streams = [source for source in sources["train"] if isinstance(source, HubImages)] if self.streaming else []
        if self.streaming:
            sources.setdefault("val", [open_images(entry, "val", self.location) for entry in self.entries["train"]])
        rows = {
            split: [*self._rows(split, some)]
            for split, some in sources.items()
            if split != "train" or not self.streaming
        }
        rows |= {split: annotated(some, self.row_errors(split)) for split, some in rows.items() if split != "test"}
        if "val" not in rows:
            rows["train"], rows["val"] = hold_out(rows["train"], self.val_fraction)
        check_leak(rows)
        known = {name: values for source in sources["train"] for name, values in source.classes.items()}
        if len(sources["train"]) > 1:
            known = {}  # several sources: the values of their rows count
        attributes = attributes_of(rows.get("train", []), known)
        for split in ("val", "test"):
            check_classes(sources.get(split, []), attributes)
        captions = [text for row in rows.get("train", []) for text in row.captions]
        self._check_rows(rows, attributes, captions, streams)
        return _Plan(rows, attributes, self._tokenizer_of(captions, may_write=may_write), streams)

    @property
    def _train_preprocessing(self) -> Preprocessing:
        return Preprocessing(self.load_size, self.preprocessing.fit)

    def _sources(self, split: str) -> list[ImageSource]:
        sources = [open_images(entry, split, self.location) for entry in self.entries[split]]
        if self.streaming and split == "train" and not all(isinstance(source, HubImages) for source in sources):
            raise UserError("data.streaming reads from the Hub: name hub:OWNER/NAME, or set it to false")
        return sources

    def _rows(self, split: str, sources: list[ImageSource]) -> Iterator[ImageRow]:
        for source in sources:
            rows = source.rows(self.row_errors(split))
            yield from islice(rows, _STREAM_VAL) if self.streaming and split == "val" else rows

    def _tokenizer_of(self, captions: list[str], *, may_write: bool) -> Tokenizer:
        if self.tokenizer_spec == "bpe" and self.streaming:
            raise UserError("data.tokenizer is bpe, which a stream cannot train: name a .model file")
        options = {"vocab_size": self.vocab_size, "cache_dir": self.cache_dir, "may_train": may_write}
        return find_caption_tokenizer(self.tokenizer_spec, captions, **options)

    def _open(self, split: str, plan: _Plan) -> ImageDataset:
        """The images of a split, read if they are kept in memory."""
        training, errors = split == "train", self.row_errors(split)
        preprocessing = self._train_preprocessing if training else self.preprocessing
        rows, pixels = plan.rows[split], None
        if len(rows) * 3 * preprocessing.size**2 <= self.memory_gb * 1e9:
            rows, pixels = load_images(rows, preprocessing, errors)
        elif errors.policy.skip:
            rows = readable(rows, errors)
        errors.report()
        if not rows:
            raise UserError(f"data.{split} has no image that can be read")
        captions, cropped = encode_captions(rows, plan.tokenizer, self.caption_tokens)
        if not any(captions.ids):
            captions = None
        rank_zero_info(f"{split}: {self._summary(rows, captions and captions.ids, cropped, pixels)}")
        return ImageDataset(
            rows,
            LabelTable(rows, plan.attributes),
            captions,
            preprocessing=preprocessing,
            size=self.image_size,
            augmentation=self.augmentation if training else None,
            seed=self.seed,
            pixels=pixels,
            reader=BatchReader(errors, len(rows)),
        )

    def _summary(
        self, rows: Sequence[ImageRow], ids: Sequence[Sequence[int]] | None, cropped: int, pixels: Tensor | None
    ) -> str:
        parts = [f"{len(rows):,} images"]
        parts += [f"{len(a.values)} {a.name}s" for a in self.attributes]
        if ids:
            parts.append(f"{sum(map(len, ids)):,} captions, {cropped:,} of them cropped")
        if pixels is not None:
            some = pixels[:: max(1, len(pixels) // 1000)].float() / 255
            mean, std = some.mean((0, 2, 3)), some.std((0, 2, 3))
            parts.append(f"mean {[round(x, 3) for x in mean.tolist()]}, std {[round(x, 3) for x in std.tolist()]}")
        return ", ".join(parts)

    def _check_arguments(self) -> None:
        buffer = self.batch_size if self.streaming else 1
        self.check_arguments(image_size=2, batch_size=1, val_batch_size=1, caption_tokens=3, shuffle_buffer=buffer)
        if self.load_size < self.image_size:
            raise UserError(f"data.load_size is {self.load_size}: it must be image_size, {self.image_size}, or more")
        twice = set(self.entries["train"]) & set(self.entries.get("val", []))
        if twice and not self.streaming and not any(":" in entry for entry in twice):
            raise UserError(f"{min(twice)} is in data.train and in data.val: leave it out of one")

    def _check_rows(
        self,
        rows: Mapping[str, list[ImageRow]],
        attributes: tuple[Attribute, ...],
        captions: list[str],
        streams: Sequence[HubImages],
    ) -> None:
        for split, some in rows.items():
            if not some:
                raise UserError(f"no image is left for data.{split}: change data.val_fraction, or give data.val")
        streamed = any(source.annotated for source in streams)
        if not attributes and not captions and not streamed:
            raise UserError("data.train has neither labels nor captions: there is nothing to learn from")
