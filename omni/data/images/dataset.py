"""Batches of images with their labels and captions."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from omni.batch import Attribute, ImageBatch
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.captions import Captions
from omni.data.images.rows import ImageRow
from omni.data.images.sources import natural_key
from omni.data.loading.bad_rows import BatchReader, RowErrors
from omni.errors import UserError
from omni.media.images import Preprocessing, to_pixels
from omni.text.tokenizer import PAD

_BLOCK = 256  # images that are read together

Value = TypeVar("Value")


def attributes_of(rows: Sequence[ImageRow], known: dict[str, tuple[str, ...]]) -> tuple[Attribute, ...]:
    """The attributes of some rows, with the sorted values of each.

    Args:
        rows: The images.
        known: Values of attributes whose sources list them.

    Raises:
        UserError: If an attribute has a single value in a row and a list of values in another.
    """
    values: dict[str, set[str]] = {name: set() for name in known}
    several: dict[str, bool] = {}
    for row in rows:
        for name, value in row.labels.items():
            listed = isinstance(value, tuple)
            if several.setdefault(name, listed) != listed:
                raise UserError(f"{row.where}: {name} is a single value here and a list elsewhere: write it one way")
            values.setdefault(name, set()).update(value if isinstance(value, tuple) else (value,))
    return tuple(
        Attribute(name, known.get(name) or tuple(sorted(found, key=natural_key)), several.get(name, False))
        for name, found in values.items()
    )


class LabelTable:
    """Labels of images by number, in one or two bytes each.

    Args:
        rows: The images.
        attributes: Their attributes.

    Raises:
        UserError: If a row has a label that is not among them.
    """

    def __init__(self, rows: Sequence[ImageRow], attributes: Sequence[Attribute]) -> None:
        self.attributes = attributes
        self.columns = [self._column(rows, attribute) for attribute in attributes]
        for row in rows:
            if unknown := row.labels.keys() - {attribute.name for attribute in attributes}:
                raise UserError(f"{row.where}: no training image has a label {min(unknown)!r}")

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The targets of some images: (images, classes), fp32; see `ImageBatch.labels`."""
        parts = [torch.zeros(len(indices), 0)]
        for attribute, column in zip(self.attributes, self.columns, strict=True):
            chosen = column[indices]
            if not attribute.several:
                hot = torch.nn.functional.one_hot(chosen.long().clamp(min=0), len(attribute.values))
                chosen = torch.where(chosen[:, None] < 0, -1, hot)
            parts.append(chosen.float())
        return torch.cat(parts, dim=1)

    @staticmethod
    def _column(rows: Sequence[ImageRow], attribute: Attribute) -> Tensor:
        numbers = {value: number for number, value in enumerate(attribute.values)}
        shape = (len(rows), len(numbers)) if attribute.several else (len(rows),)
        column = torch.full(shape, -1, dtype=torch.int8 if attribute.several else torch.int16)
        for i, row in enumerate(rows):
            value = row.labels.get(attribute.name)
            if value is None:
                continue
            try:
                if isinstance(value, tuple):
                    column[i] = 0
                    column[i, [numbers[name] for name in value]] = 1
                else:
                    column[i] = numbers[value]
            except KeyError as error:
                raise UserError(f"{row.where}: no training image has {attribute.name} {error}") from None
        return column


@final
class ImageDataset(Dataset[ImageBatch]):
    """Images with labels and captions, a whole batch at a time.

    Args:
        rows: The images.
        labels: Of the images.
        captions: Of the images.
        preprocessing: Brings the images to one size.
        size: Side of the images of a batch, in pixels.
        augmentation: Of training images; None for validation.
        seed: Of all that is random: the same rows and the same seed make the same batch.
        pixels: Of all images, from `load_images`; None: each is read when it is needed.
        reader: Leaves out images that cannot be read any more; None: their errors are raised.
    """

    def __init__(
        self,
        rows: Sequence[ImageRow],
        labels: LabelTable,
        captions: Captions | None,
        *,
        preprocessing: Preprocessing,
        size: int,
        augmentation: ImageAugmentation | None,
        seed: int,
        pixels: Tensor | None = None,
        reader: BatchReader | None = None,
    ) -> None:
        self.rows, self.labels, self.captions = rows, labels, captions
        self.preprocessing, self.size, self.augmentation, self.seed = preprocessing, size, augmentation, seed
        self.pixels, self.reader = pixels, reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        """A batch, with one random caption an image in training and all captions in validation."""
        if self.pixels is None:
            indices, images = self._read(indices)
        else:
            images = self.pixels[indices]
        numbers = torch.tensor(indices)
        labels = self.labels[numbers]
        if self.augmentation is None:
            return ImageBatch(to_pixels(images), labels, numbers, *self._captions(indices, None))
        with torch.random.fork_rng(devices=[]):
            draw = hashlib.blake2b(f"{self.seed} {indices}".encode(), digest_size=8).digest()
            torch.default_generator.manual_seed(int.from_bytes(draw) >> 1)
            choices = torch.rand(len(indices)).tolist()
            pixels, labels = self.augmentation(images, labels, self.size)
        return ImageBatch(pixels, labels, numbers, *self._captions(indices, choices))

    def _read(self, indices: list[int]) -> tuple[list[int], Tensor]:
        """The pixels of the images that can be read, and their numbers."""

        def read(number: int) -> tuple[int, Tensor]:
            return number, self.preprocessing(self.rows[number].read())

        found = [read(number) for number in indices] if self.reader is None else self.reader.read(indices, read)
        return [number for number, _ in found], _stack([image for _, image in found])

    def _captions(self, indices: list[int], choices: list[float] | None) -> tuple[Tensor | None, Tensor | None]:
        if self.captions is None:
            return None, None
        tokens = [self.captions.tokens[number] for number in indices]
        ids = [self.captions.ids[number] for number in indices]
        if choices is not None:  # one of each image
            chosen = [int(choice * len(row)) for choice, row in zip(choices, tokens, strict=True)]
            tokens = [row[at : at + 1] for at, row in zip(chosen, tokens, strict=True)]
            ids = [row[at : at + 1] for at, row in zip(chosen, ids, strict=True)]
        most = max(map(len, ids), default=0) or 1
        time = max((len(text) for row in tokens for text in row), default=1)
        padded = torch.full((len(indices), most, time), PAD)
        numbers = torch.full((len(indices), most), -1)
        for i, row in enumerate(tokens):
            for j, text in enumerate(row):
                padded[i, j, : len(text)] = torch.tensor(text)
                numbers[i, j] = ids[i][j]
        return padded, numbers


def load_images(
    rows: Sequence[ImageRow], preprocessing: Preprocessing, errors: RowErrors
) -> tuple[list[ImageRow], Tensor]:
    """Reads all images into memory.

    Returns:
        The rows with readable images, and their pixels (images, channels, size, size) of uint8, with one channel if all
        images are grey. The other rows are added to `errors`.
    """
    kept: list[ImageRow] = []
    pixels = torch.empty(len(rows), 3, preprocessing.size, preprocessing.size, dtype=torch.uint8)  # never held twice
    grey = True
    for start in range(0, len(rows), _BLOCK):
        loaded = _read_all(rows[start : start + _BLOCK], lambda row: preprocessing(row.read()), errors)
        if not loaded:
            continue
        block = _stack([image for _, image in loaded])
        pixels[len(kept) : len(kept) + len(block)] = block
        grey = grey and bool((block == block[:, :1]).all())
        kept += [row for row, _ in loaded]
    pixels = pixels[: len(kept)]
    return kept, pixels[:, :1].clone() if grey else pixels


def readable(rows: Sequence[ImageRow], errors: RowErrors) -> list[ImageRow]:
    """The rows with readable images; the others are added to `errors`. Pixels are not kept."""
    return [row for row, _ in _read_all(rows, lambda row: len(row.read()), errors)]


def _read_all(
    rows: Sequence[ImageRow], read: Callable[[ImageRow], Value], errors: RowErrors
) -> list[tuple[ImageRow, Value]]:
    """Calls `read` for all rows in several threads; rows that raise a UserError are added to `errors`."""

    def attempt(row: ImageRow) -> Value | UserError:
        try:
            return read(row)
        except UserError as error:
            return error

    results = []
    with ThreadPoolExecutor() as pool:
        for row, result in zip(rows, pool.map(attempt, rows), strict=True):
            if isinstance(result, UserError):
                errors.add(result)
            else:
                results.append((row, result))
    return results


def _stack(images: list[Tensor]) -> Tensor:
    """A batch of images, some of which may be grey."""
    channels = max(len(image) for image in images)
    return torch.stack([image.expand(channels, -1, -1) for image in images])
