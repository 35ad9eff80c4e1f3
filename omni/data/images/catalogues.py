"""Data sets with a name: torchvision's, in a local folder, and those of the Hugging Face Hub."""

import gzip
import inspect
import os
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from omni.data.images.folders import ATTRIBUTE
from omni.data.images.rows import Faults, ImageRow
from omni.data.images.sources import ImageSource, Location
from omni.errors import UserError
from omni.files import locked

_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker"),
    *("Bag", "Ankle boot"),
)
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# Files of MNIST's layout are read here: torchvision does so only once it has unpacked them.
_MNIST = {"MNIST": _DIGITS, "FashionMNIST": _CLOTHES, "KMNIST": _KANA}
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@final
class MnistFiles(ImageSource):
    """One split of MNIST, Fashion-MNIST or KMNIST: `ROOT/NAME/raw/*-ubyte`, packed by gzip or not.

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
            raise UserError(f"{self.name}: {len(self._images)} images and {len(self._labels)} labels: get them anew")

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        names = self.classes[ATTRIBUTE]
        for number, (image, label) in enumerate(zip(self._images, self._labels.tolist(), strict=True)):
            yield ImageRow(f"{self.name}: image {number}", image[None], {ATTRIBUTE: names[label]})


@final
class TorchvisionSet(ImageSource):
    """One split of any other classification set of torchvision.

    Args:
        name: Of its class in `torchvision.datasets`.
        split: `train`, `val` or `test`, or what else it calls one of its splits.
        location: Where its files lie, and whether they may be downloaded.
    """

    def __init__(self, name: str, split: str, location: Location):
        import torchvision.datasets

        self.name = f"torchvision:{name}, {split}"
        kind: Any = getattr(torchvision.datasets, name, None)
        if not isinstance(kind, type) or not issubclass(kind, torch.utils.data.Dataset):
            raise UserError(f"torchvision:{name}: torchvision has no data set of this name")
        arguments = {"root": str(location.root), **_arguments(kind, split, self.name)}
        if "download" in inspect.signature(kind).parameters:
            arguments["download"] = location.download
        try:
            # torchvision writes downloads to their final names: another process must not read them in the meantime.
            with locked(location.root / f"{name}.lock") if arguments.get("download") else nullcontext():
                self._data: Any = kind(**arguments)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.name}: cannot be read in {location.root} ({str(error).splitlines()[0]}): set data.root to its "
                "folder, or data.download to true"
            ) from error
        classes = getattr(self._data, "classes", None)
        if classes is None:
            raise UserError(f"{self.name}: has no classes that torchvision names: only classification sets can be used")
        self.classes = {ATTRIBUTE: tuple(", ".join(c) if isinstance(c, tuple) else str(c) for c in classes)}

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        names, files = self.classes[ATTRIBUTE], self._files()
        for number in range(len(self._data)):
            where = f"{self.name}: image {number}"
            if files:  # read when it is needed: all pixels of large photographs would not fit into memory
                path, label = files[number]
                yield ImageRow(f"{where}, {path}", Path(path), {ATTRIBUTE: names[label]})
            else:
                image, label = self._data[number]
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
                yield ImageRow(where, pixels, {ATTRIBUTE: names[label]})

    def _files(self) -> list[tuple[str | Path, int]]:
        """File and class of every image, where torchvision keeps them so; it has several names for that."""
        for name in ("samples", "_samples"):
            if found := getattr(self._data, name, None):
                return found if isinstance(found[0][0], str | Path) else []
        for name in ("_image_files", "_images"):
            if found := getattr(self._data, name, None):
                return list(zip(found, self._data._labels, strict=True))
        return []


@final
class HubImages(ImageSource):
    """One split of a data set of the Hugging Face Hub, or of a folder that `datasets` can load.

    Its columns are found by their types: the first of images, the first of class labels, and `caption`, `captions`,
    `text` or `sentences`.

    Args:
        repository: `owner/name`.
        config: Its configuration; empty: its default.
        split: Names of the split, of which the first that is there is read.
        location: Where downloads go, and whether it is streamed.
    """

    def __init__(self, repository: str, config: str, split: tuple[str, ...], location: Location):
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import datasets

        from omni.data.loading.hub import hub_errors

        self.name = f"hub:{repository}:{config}:{split[0]}"
        self._streaming = location.streaming
        datasets.disable_progress_bars()
        with hub_errors(self.name, "data.train"):
            cache_dir = str(location.cache_dir / "hub")
            builder = datasets.load_dataset_builder(repository, config or None, cache_dir=cache_dir)
            if location.streaming:
                splits: Any = builder.as_streaming_dataset()
            else:
                builder.download_and_prepare()
                splits = builder.as_dataset()
        found = [name for name in split if name in splits]
        if not found:
            raise UserError(f"{self.name}: no such split, only {', '.join(splits)}")
        self.table = splits[found[0]]
        features = self.table.features or {}
        self._image = _first(features, datasets.Image)
        if self._image is None:
            raise UserError(f"{self.name}: no column of images, only {', '.join(features)}")
        self._label = _first(features, datasets.ClassLabel)
        self._caption = next((name for name in ("captions", "caption", "sentences", "text") if name in features), None)
        self.classes = {ATTRIBUTE: tuple(features[self._label].names)} if self._label else {}
        self.table = self.table.cast_column(self._image, datasets.Image(decode=False))

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        for number, values in enumerate(self.table, 1):
            row = self.row(values, number)
            if not self._streaming and isinstance(row.image, bytes):  # it stays on disk until it is needed
                row.image = partial(_cell, self.table, number - 1, self._image or "")
            yield row

    def row(self, row: dict[str, Any], number: int) -> ImageRow:
        """What one row of the table says."""
        image: Any = row[self._image or ""] or {}
        captions = row[self._caption] if self._caption else ()
        captions = (captions,) if isinstance(captions, str) else tuple(captions or ())
        label = row[self._label] if self._label else None
        classes = self.classes.get(ATTRIBUTE, ())
        return ImageRow(
            f"{self.name}: row {number}",
            Path(image["path"]) if image.get("bytes") is None and image.get("path") else image.get("bytes") or b"",
            {} if label is None or label < 0 else {ATTRIBUTE: classes[label]},
            captions,
        )


def open_torchvision(rest: str, split: str, location: Location) -> ImageSource:
    """The source behind `torchvision:NAME[:SPLIT]`."""
    name, _, chosen = rest.partition(":")
    split = chosen or split
    if name in _MNIST and (location.root / name / "raw").is_dir():
        if split not in ("train", "test"):
            raise UserError(
                f"torchvision:{name} has no {split} split: leave data.val out, or name torchvision:{name}:test"
            )
        return MnistFiles(location.root / name, split, _MNIST[name])
    return TorchvisionSet(name, split, location)


def open_hub(rest: str, split: str, location: Location) -> HubImages:
    """The source behind `hub:OWNER/NAME[:CONFIG[:SPLIT]]`."""
    names = rest.split(":")
    if len(names) > 3 or not names[0]:
        raise UserError(f"hub:{rest} is no data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]]")
    repository, config, chosen = (*names, "", "")[:3]
    return HubImages(repository, config, (chosen,) if chosen else _SPLITS[split], location)


def _arguments(kind: Any, split: str, name: str) -> dict[str, Any]:
    """How a data set of torchvision is told its split; one without splits is for training."""
    parameters = inspect.signature(kind).parameters
    if "split" in parameters:
        return {"split": split}
    if "train" in parameters and split in ("train", "test"):
        return {"train": split == "train"}
    if "train" not in parameters and split == "train":
        return {}
    raise UserError(f"{name}: has no such split: leave data.val out, or name torchvision:NAME:test")


def _cell(table: Any, number: int, column: str) -> bytes:
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
        raise UserError(f"{path}: is not there, nor {packed.name}: set data.root to the folder above") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{file}: damaged ({error}): get it anew") from error
    sizes = np.frombuffer(content[4 : 4 + 4 * dims], ">u4")
    if content[:4] != bytes((0, 0, 8, dims)) or len(content) != 4 + 4 * dims + int(sizes.prod()):
        raise UserError(f"{file}: is not in MNIST's format, or cut off: get it anew")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(*sizes).copy())
