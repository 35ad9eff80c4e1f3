"""Images with labels or captions."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from omni.batch import Attribute, ImageBatch
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.captions import encode_captions, find_caption_tokenizer
from omni.data.images.catalogues import HubImages
from omni.data.images.dataset import ImageDataset, LabelTable, attributes_of, load_images, readable
from omni.data.images.entries import open_images
from omni.data.images.rows import Faults, ImageRow
from omni.data.images.sources import ImageSource, Location
from omni.data.images.splits import check_classes, check_leak, hold_out, with_words
from omni.data.images.stream import ImageStream
from omni.data.loading.resumable import OrderedBatches, ShuffledBatches
from omni.data.loading.streaming import StreamableData, StreamLoader
from omni.errors import UserError
from omni.media.images import Fit, Preprocessing
from omni.text.tokenizer import Tokenizer

_STREAM_VAL = 1000  # images that a stream is validated on, where its validation split is longer
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class _Plan(NamedTuple):
    """What is read with what; found anew by every process."""

    rows: dict[str, list[ImageRow]]  # by split
    faults: dict[str, Faults]
    attributes: tuple[Attribute, ...]
    tokenizer: Tokenizer
    streams: list[HubImages]


@final
class ImageData(StreamableData):
    """Images with labels, captions or both; see `omni.batch.ImageBatch`.

    Images are cropped or padded to squares of one size, stay in memory where there is room, and are augmented in
    training only, a batch at a time. Splits are by image: all captions of an image are on the same side.

    Args:
        train: A folder with a folder for each class; a manifest: .jsonl, .csv, Flickr8k's captions.txt, COCO's
            captions .json, with `@LIST` behind it to take only images that a list beside it names; torchvision:NAME;
            hub:OWNER/NAME[:CONFIG[:SPLIT]]; or several of these.
        val: The same, for validation. By default it is held out of `train`.
        test: The same, for `omni test` and `omni predict`.
        image_size: Side of the squares that the model sees, in pixels.
        fit: What happens to an image that is no square: `crop` (its middle), `pad` (with black) or `stretch`.
        load_size: Side of training images before they are cropped at random; by default `image_size`.
        augmentation: Random changes of training images.
        batch_size: Images of a batch on each device.
        val_batch_size: Images of a validation batch; by default `batch_size`.
        val_fraction: Share of the images held out where `val` is not given.
        tokenizer: Of captions: `bytes`, `bpe` (learned from the training captions), a .model file, or a .ckpt file.
        vocab_size: Of `bpe`.
        caption_tokens: Most tokens of a caption, begin and end counted; longer ones are cropped.
        bad_images: `fail` at the first image that cannot be read, or `skip` and count them.
        root: Folder of torchvision's data sets.
        image_folder: Folder of a manifest's images; by default beside it, or in `Images` beside it.
        download: Whether torchvision may download what is not there.
        memory_gb: Images stay in memory up to this size; beyond it they are read each time.
        streaming: Read from the Hub while training, for a set too large to download. Resuming reads the pass again.
        shuffle_buffer: Images that are shuffled together when streaming.
        num_workers: Processes that make batches; 0: the training process does, which is fast from memory.
        seed: Of shuffling and augmentation.
        cache_dir: Where tokenizers and downloads are kept.

    Attributes:
        attributes: What images are classified by; after `setup`.
        tokenizer: Encodes captions; after `setup`.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: Tokenizer
    attributes: tuple[Attribute, ...]

    no_effect = frozenset({"download", "memory_gb"})

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
        bad_images: str = "fail",
        root: str = "data/images",
        image_folder: str | None = None,
        download: bool = False,
        memory_gb: float = 4.0,
        streaming: bool = False,
        shuffle_buffer: int = 1024,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ) -> None:
        super().__init__(streaming=streaming, num_workers=num_workers, seed=seed)
        given = {"train": train, "val": val, "test": test}
        self.entries = {split: [e] if isinstance(e, str) else list(e) for split, e in given.items() if e is not None}
        self.image_size, self.load_size = image_size, load_size or image_size
        self.preprocessing = Preprocessing(image_size, fit)
        self.augmentation = augmentation or ImageAugmentation()
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.val_fraction = val_fraction
        self.tokenizer_spec, self.vocab_size, self.caption_tokens = tokenizer, vocab_size, caption_tokens
        self.bad_images, self.memory_gb = bad_images, memory_gb
        self.shuffle_buffer = shuffle_buffer
        folder = None if image_folder is None else Path(image_folder).expanduser()
        self.cache_dir = Path(cache_dir).expanduser()
        self.location = Location(Path(root).expanduser(), folder, download, self.cache_dir, streaming)
        self._check_arguments()
        self._plan: _Plan | None = None
        self._images: dict[str, ImageDataset] = {}

    # ------------------------------------------------------------------ what Lightning calls

    def find_fingerprint(self) -> str:
        plan = self._plan_of(may_write=False)
        digest = hashlib.sha256(f"{self.preprocessing} {self.load_size} {plan.tokenizer.fingerprint}".encode())
        for split in ("train", "val"):
            for row in plan.rows.get(split, []):  # the beginning of every file is read
                digest.update(row.identity() + f"{row.labels} {row.captions}".encode())
        for stream in plan.streams:
            digest.update(stream.name.encode())
        return digest.hexdigest()

    @property
    def stream_identity(self) -> str:
        return f"{self.fingerprint} {self.batch_size} {self.shuffle_buffer}"

    def prepare_data(self) -> None:
        self._plan_of(may_write=True)

    def setup(self, stage: str | None = None) -> None:
        plan = self._plan_of(may_write=self.trainer is None)
        self.tokenizer, self.attributes = plan.tokenizer, plan.attributes
        for split in _SPLITS.get(stage or "", ("train", "val", "test")):
            if split in plan.rows and split not in self._images:
                self._images[split] = self._open(split, plan)

    def train_batches(self) -> ShuffledBatches:
        rows = len(self._images["train"])
        return ShuffledBatches(rows, self.batch_size, seed=self.seed, position=self.position, **self.rank())

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        return self._stream_loader() if self.streaming else self.loader(self._images["train"], self.train_batches())

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        return self._ordered("val")

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        return self._ordered("test")

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        # Lightning wraps the sampler, to know which rows a prediction is of; it cannot wrap a batch sampler of ours.
        loader, share = self._ordered("test"), self.rank()
        rows = range(share["rank"], len(self._images["test"]), share["world_size"])
        return DataLoader(loader.dataset, batch_size=self.val_batch_size, sampler=rows, collate_fn=loader.collate_fn)

    # ------------------------------------------------------------------ what is read

    def _plan_of(self, *, may_write: bool) -> _Plan:
        """What to read with what, found once by each process.

        Raises:
            UserError: If a source is not there, has nothing to learn from, or differs from the others in its classes.
        """
        if self._plan is not None:
            return self._plan
        sources = {split: self._sources(split) for split in self.entries}
        streams = [source for source in sources["train"] if isinstance(source, HubImages)] if self.streaming else []
        if self.streaming:
            sources.setdefault("val", [open_images(entry, "val", self.location) for entry in self.entries["train"]])
        faults = {split: Faults(skip=self.bad_images == "skip") for split in ("train", "val", "test")}
        rows = {
            split: [*self._rows(split, some, faults[split])]
            for split, some in sources.items()
            if split != "train" or not self.streaming
        }
        rows |= {split: with_words(some, faults[split]) for split, some in rows.items() if split != "test"}
        if "val" not in rows:
            rows["train"], rows["val"] = hold_out(rows["train"], self.val_fraction)
        check_leak(rows)
        known = {name: values for source in sources["train"] for name, values in source.classes.items()}
        if len(sources["train"]) > 1:
            known = {}  # of several sources, what occurs in their rows counts
        attributes = attributes_of(rows.get("train", []), known)
        for split in ("val", "test"):
            check_classes(sources.get(split, []), attributes)
        captions = {split: [text for row in some for text in row.captions] for split, some in rows.items()}
        self._check_rows(rows, attributes, captions)
        tokenizer = self._tokenizer_of(captions.get("train", []), may_write=may_write)
        self._plan = _Plan(rows, faults, attributes, tokenizer, streams)
        return self._plan

    def _sources(self, split: str) -> list[ImageSource]:
        sources = [open_images(entry, split, self.location) for entry in self.entries[split]]
        if self.streaming and split == "train" and not all(isinstance(source, HubImages) for source in sources):
            raise UserError("data.streaming reads from the Hub: name hub:OWNER/NAME, or set it to false")
        return sources

    def _rows(self, split: str, sources: list[ImageSource], faults: Faults) -> Iterator[ImageRow]:
        for source in sources:
            rows = source.rows(faults)
            yield from islice(rows, _STREAM_VAL) if self.streaming and split == "val" else rows

    def _tokenizer_of(self, captions: list[str], *, may_write: bool) -> Tokenizer:
        if self.tokenizer_spec == "bpe" and self.streaming:
            raise UserError(
                "data.tokenizer is bpe, which is learned before training: with streaming, name a .model file"
            )
        options = {"vocab_size": self.vocab_size, "cache_dir": self.cache_dir, "may_train": may_write}
        return find_caption_tokenizer(self.tokenizer_spec, captions, **options)

    def _open(self, split: str, plan: _Plan) -> ImageDataset:
        """The images of a split: read, if they stay in memory."""
        training, faults = split == "train", plan.faults[split]
        preprocessing = self.preprocessing
        if training:
            preprocessing = Preprocessing(self.load_size, self.preprocessing.fit)
        rows, pixels = plan.rows[split], None
        if len(rows) * 3 * preprocessing.size**2 <= self.memory_gb * 1e9:
            rows, pixels = load_images(rows, preprocessing, faults)
        elif faults.skip:
            rows = readable(rows, faults)
        faults.report(split)
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
        )

    def _summary(self, rows: Sequence[ImageRow], ids: Any, cropped: int, pixels: Tensor | None) -> str:
        parts = [f"{len(rows):,} images"]
        parts += [f"{len(a.values)} {a.name}s" for a in self.attributes]
        if ids:
            parts.append(f"{sum(map(len, ids)):,} captions, {cropped:,} of them cropped")
        if pixels is not None:
            some = pixels[:: max(1, len(pixels) // 1000)].float() / 255
            mean, std = some.mean((0, 2, 3)), some.std((0, 2, 3))
            parts.append(f"mean {[round(x, 3) for x in mean.tolist()]}, std {[round(x, 3) for x in std.tolist()]}")
        return ", ".join(parts)

    def _ordered(self, split: str) -> DataLoader[ImageBatch]:
        if split not in self._images:
            raise UserError(f"there are no images to {split} on: give data.init_args.{split}")
        images = self._images[split]
        return self.loader(images, OrderedBatches(len(images), self.val_batch_size, **self.rank()))

    def _stream_loader(self) -> StreamLoader:
        plan = self._plan_of(may_write=False)
        stream: Any = ImageStream(
            plan.streams,
            plan.attributes,
            plan.tokenizer,
            caption_tokens=self.caption_tokens,
            batch_size=self.batch_size,
            buffer=self.shuffle_buffer,
            skip=self.bad_images == "skip",
            preprocessing=Preprocessing(self.load_size, self.preprocessing.fit),
            size=self.image_size,
            augmentation=self.augmentation,
            seed=self.seed,
            **self.rank(),
        )
        return self.stream_loader(stream)

    # ------------------------------------------------------------------ what is refused

    def _check_arguments(self) -> None:
        least = {"image_size": 2, "batch_size": 1, "val_batch_size": 1}
        least |= {"caption_tokens": 3, "num_workers": 0, "seed": 0}
        for name, limit in {**least, "shuffle_buffer": self.batch_size if self.streaming else 1}.items():
            if getattr(self, name) < limit:
                raise UserError(f"data.{name} is {getattr(self, name)}: it must be {limit} or more")
        if self.load_size < self.image_size:
            raise UserError(f"data.load_size is {self.load_size}: it must be image_size, {self.image_size}, or more")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: it must lie between 0 and 1")
        if self.bad_images not in ("fail", "skip"):
            raise UserError(f"data.bad_images is {self.bad_images!r}: it must be fail or skip")
        for split, entries in self.entries.items():
            if not entries:
                raise UserError(f"data.{split} is an empty list: name a folder, a manifest or a data set")
        twice = set(self.entries["train"]) & set(self.entries.get("val", []))
        if twice and not self.streaming and not any(":" in entry for entry in twice):
            raise UserError(f"{min(twice)} is in data.train and in data.val: leave it out of one")

    def _check_rows(self, rows: Any, attributes: tuple[Attribute, ...], captions: dict[str, list[str]]) -> None:
        for split, some in rows.items():
            if not some:
                raise UserError(f"no image is left for data.{split}: change data.val_fraction, or give data.val")
        if not self.streaming and not attributes and not captions["train"]:
            raise UserError("data.train has neither labels nor captions: there is nothing to learn from")
