"""Data sets that a name stands for: those of torchvision and of the Hugging Face Hub."""

import gzip
import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from omni.data.images.rows import ImageRow
from omni.data.images.sources import ATTRIBUTE, ImageSource, Location
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.hub import HubSplit
from omni.errors import UserError
from omni.files import locked

_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker"),
    *("Bag", "Ankle boot"),
)
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# Files in MNIST's format are read here: torchvision reads them only after it has unpacked them itself.
_MNIST = {"MNIST": _DIGITS, "FashionMNIST": _CLOTHES, "KMNIST": _KANA}
_CAPTIONS = ("captions", "caption", "sentences", "text")  # names of the column on the Hub
_STREAM_BATCH = 16  # rows of the Hub that are read at once


@final
class MnistFiles(ImageSource):
    """One split of MNIST, Fashion-MNIST or KMNIST: `ROOT/NAME/raw/*-ubyte`, compressed with gzip or not.

    Args:
        folder: `ROOT/NAME`.
        split: `train` or `test`.
        classes: Names of the ten classes.
    """

    def __init__(self, folder: Path, split: str, classes: tuple[str, ...]):
        self.name = f"{folder}, {split}"
        self.classes = {ATTRIBUTE: classes}
        stem = "train" if split == "train" else "t10k"
        self._images = _idx(folder / "raw" / f"{stem}-images-idx3-ubyte", 3)
        self._labels = _idx(folder / "raw" / f"{stem}-labels-idx1-ubyte", 1)
        if len(self._images) != len(self._labels):
            raise UserError(f"{self.name}: {len(self._images)} images and {len(self._labels)} labels: get them again")

    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        names = self.classes[ATTRIBUTE]
        for number, (image, label) in enumerate(zip(self._images, self._labels.tolist(), strict=True)):
            yield ImageRow(f"{self.name}: image {number}", image[None], {ATTRIBUTE: names[label]})


@final
class TorchvisionSet(ImageSource):
    """One split of any other classification set of torchvision.

    Args:
        name: Of its class in `torchvision.datasets`.
        split: `train`, `val` or `test`, or another name of one of its splits.
        location: Folder of its files, and whether they may be downloaded.
    """

    def __init__(self, name: str, split: str, location: Location):
        import torchvision.datasets

        self.name = f"torchvision:{name}, {split}"
        kind: Any = getattr(torchvision.datasets, name, None)
        if not isinstance(kind, type) or not issubclass(kind, torch.utils.data.Dataset):
            raise UserError(f"torchvision:{name}: torchvision has no data set with this name")
        arguments = {"root": str(location.root), **_arguments(kind, split, self.name)}
        if "download" in inspect.signature(kind).parameters:
            arguments["download"] = location.download
        try:
            # torchvision downloads to the final names: no other process may read them meanwhile.
            with locked(location.root / f"{name}.lock") if arguments.get("download") else nullcontext():
                self._data: Any = kind(**arguments)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.name}: cannot be read in {location.root} ({str(error).splitlines()[0]}): set data.root to its "
                "folder, or data.download to true"
            ) from error
        classes = getattr(self._data, "classes", None)
        if classes is None:
            raise UserError(f"{self.name}: has no class names in torchvision: only classification sets can be used")
        self.classes = {ATTRIBUTE: tuple(", ".join(c) if isinstance(c, tuple) else str(c) for c in classes)}

    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        names, files = self.classes[ATTRIBUTE], self._files()
        for number in range(len(self._data)):
            where = f"{self.name}: image {number}"
            if files:  # read when needed: the pixels of all photographs do not fit into memory
                path, label = files[number]
                yield ImageRow(f"{where}, {path}", Path(path), {ATTRIBUTE: names[label]})
            else:
                image, label = self._data[number]
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
                yield ImageRow(where, pixels, {ATTRIBUTE: names[label]})

    def _files(self) -> list[tuple[str | Path, int]]:
        """File and class of every image, if torchvision keeps them; its classes have several names for them."""
        for name in ("samples", "_samples"):
            if found := getattr(self._data, name, None):
                return found if isinstance(found[0][0], str | Path) else []
        for name in ("_image_files", "_images"):
            if found := getattr(self._data, name, None):
                return list(zip(found, self._data._labels, strict=True))
        return []


@final
class HubImages(HubSplit, ImageSource):
    """Images of the Hub.

    The columns are found by their types: the first of images, the first of class labels, and `captions`, `caption`,
    `sentences` or `text`, or the list of columns that `data.columns` gives for `captions`.

    Args:
        entry: See `HubSplit`, as for the next argument.
        split: `train`, `val` or `test`.
        location: Folder of downloads, and whether it is streamed.

    Raises:
        UserError: If it cannot be loaded or has no column of images.
    """

    def __init__(self, entry: str, split: str, location: Location):
        super().__init__(entry, split, location.cache_dir, location.columns)
        import datasets

        self.streaming = location.streaming
        features = (self.open(streaming=True) if self.streaming else self.table).features or {}
        image = _first(features, datasets.Image)
        if image is None:
            raise UserError(
                f"{self.name}: no column of images, only {', '.join(features)}: name another set, or pin a revision "
                "with one, hub:OWNER/NAME@REVISION"
            )
        self._image = image
        self._label = _first(features, datasets.ClassLabel)
        self._captions = self._caption_columns(features)
        self.classes = {ATTRIBUTE: tuple(features[self._label].names)} if self._label else {}

    @property
    def annotated(self) -> bool:
        """Whether it has a column of labels or of captions."""
        return bool(self._label or self._captions)

    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        for number, columns in enumerate(self.open(streaming=True) if self.streaming else self.table):
            row = self._row(columns, number)
            if not self.streaming and isinstance(row.image, bytes):  # it stays on disk until it is needed
                row.image = partial(_image_bytes, self.table, number, self._image)
            yield row

    def stream(self, share: int, shares: int, seed: int) -> Iterator[ImageRow]:
        """The images of one of `shares` disjoint shares; `seed` shuffles the data set's files."""
        for number, columns in enumerate(self.stream_rows(share, shares, seed, batch_size=_STREAM_BATCH)):
            yield self._row(columns, number)

    def _caption_columns(self, features: Any) -> list[str]:
        given = self.columns.get("captions")
        if not isinstance(given, list):
            return [name for name in _CAPTIONS if name in features][:1]
        if missing := [name for name in given if name not in features]:
            raise UserError(self.missing_column(missing[0], features))
        return given

    def _row(self, columns: dict[str, Any], number: int) -> ImageRow:
        image: Any = columns[self._image] or {}
        cells = [columns[name] or () for name in self._captions]
        captions = tuple(chain.from_iterable([cell] if isinstance(cell, str) else cell for cell in cells))
        label = columns[self._label] if self._label else None
        classes = self.classes.get(ATTRIBUTE, ())
        return ImageRow(
            f"{self.name}: row {number + 1}",
            Path(image["path"]) if image.get("bytes") is None and image.get("path") else image.get("bytes") or b"",
            {} if label is None or label < 0 else {ATTRIBUTE: classes[label]},
            captions,
        )


def open_torchvision(entry: str, split: str, location: Location) -> ImageSource:
    """The source of `torchvision:NAME[:SPLIT]`."""
    _, name, chosen = (*entry.split(":", 2), "")[:3]
    split = chosen or split
    if name in _MNIST and (location.root / name / "raw").is_dir():
        if split not in ("train", "test"):
            raise UserError(
                f"torchvision:{name} has no {split} split: leave data.val out, or name torchvision:{name}:test"
            )
        return MnistFiles(location.root / name, split, _MNIST[name])
    return TorchvisionSet(name, split, location)


def _arguments(kind: Any, split: str, name: str) -> dict[str, Any]:
    """The arguments that select a split of a data set of torchvision; one without splits is for training."""
    parameters = inspect.signature(kind).parameters
    if "split" in parameters:
        return {"split": split}
    if "train" in parameters and split in ("train", "test"):
        return {"train": split == "train"}
    if "train" not in parameters and split == "train":
        return {}
    raise UserError(f"{name}: does not have this split: leave data.val out, or name torchvision:NAME:test")


def _image_bytes(table: Any, number: int, column: str) -> bytes:
    return table[number][column]["bytes"]


def _first(features: Any, kind: type) -> str | None:
    return next((name for name, feature in features.items() if isinstance(feature, kind)), None)


def _idx(path: Path, dims: int) -> Tensor:
    """An array in MNIST's format: a magic number, big-endian sizes, bytes."""
    packed = path.with_name(f"{path.name}.gz")
    file = path if path.is_file() else packed
    try:
        content = gzip.decompress(file.read_bytes()) if file is packed else file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: does not exist, nor {packed.name}: set data.root to its parent folder") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{file}: damaged ({error}): get it again") from error
    sizes = np.frombuffer(content[4 : 4 + 4 * dims], ">u4")
    if content[:4] != bytes((0, 0, 8, dims)) or len(content) != 4 + 4 * dims + int(sizes.prod()):
        raise UserError(f"{file}: is not in MNIST's format, or truncated: get it again")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(*sizes).copy())
