"""The interface of the sources of images."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omni.data.images.rows import ImageRow
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.hub import Columns

ATTRIBUTE = "label"  # name of the attribute that classes without one belong to

# Suffixes of images in a folder. SVG, and HEIC without pillow-heif, are refused by name.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".heic", ".heif", ".svg"),
    )
)


class ImageSource(ABC):
    """Abstract: a source of images, always in the same order.

    Attributes:
        name: What messages call it.
        classes: Names of the classes by attribute, if the source lists them apart from its rows.
        complete: Whether every split of such a source must have the same classes.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]] = {}
    complete = False

    @abstractmethod
    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        """All images, each once; rows that cannot be used are added to `errors`."""


class Location(NamedTuple):
    """Folders and options of the sources.

    Attributes:
        root: Folder of torchvision's data sets.
        image_folder: Folder of a manifest's images; None: beside it.
        download: Whether torchvision may download.
        cache_dir: Folder of downloads from the Hub.
        streaming: Whether the Hub is streamed.
        columns: Names of columns by data set of the Hub; see `HubSplit`.
    """

    root: Path = Path("data/images")
    image_folder: Path | None = None
    download: bool = False
    cache_dir: Path = Path("data/cache")
    streaming: bool = False
    columns: Columns | None = None


def natural_key(name: str) -> list[Any]:
    """A sorting key that puts 2 before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
