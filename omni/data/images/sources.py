"""What every place that images come from has in common."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omni.data.images.rows import Faults, ImageRow

# What is taken for an image in a folder. SVG is among them so that it is refused by name instead of passed over.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".svg"),
    )
)


class ImageSource(ABC):
    """Some images, always in the same order.

    Attributes:
        name: What to call it in messages.
        classes: Names of the classes by attribute, where the source tells them apart from its rows.
        complete: Whether every split of such a source must have the same classes.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]] = {}
    complete = False

    @abstractmethod
    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        """Every image once, with all that is known of it; rows without an image go to `faults`."""


class Location(NamedTuple):
    """What helps to find images.

    Attributes:
        root: Folder of torchvision's data sets.
        image_folder: Folder of a manifest's images; found by itself if None.
        download: Whether torchvision may download.
        cache_dir: Where downloads from the Hub go.
        streaming: Whether the Hub is streamed.
    """

    root: Path = Path("data/images")
    image_folder: Path | None = None
    download: bool = False
    cache_dir: Path = Path("data/cache")
    streaming: bool = False


def natural(name: str) -> list[Any]:
    """A key that sorts 2 before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
