"""Images that a run holds out: what an export is compared on."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from omni.data.images.opening import open_images
from omni.data.images.rows import ImageRow, Labels
from omni.data.images.sources import Location
from omni.data.images.splits import hold_out
from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.loading.run_data import local_entries, run_data


def held_out_images(config: Any, limit: int) -> tuple[list[tuple[Tensor, Labels]], str]:
    """Images that a run of `ImageData` does not train on, of local files.

    Args:
        config: The run's configuration; None if it has none.
        limit: Most images.

    Returns:
        Pixels (1 or 3, height, width) of uint8 and labels of each, and their source; or none, and why.
    """
    data = run_data(config)
    if data.kind not in ("", "ImageData"):
        return [], f"the run's data is {data.kind}"
    folder = data.options.get("image_folder")
    location = Location(image_folder=None if folder is None else Path(folder).expanduser())
    if val := local_entries(data.options.get("val")):
        return _read(_rows(val, location), limit), ", ".join(val)
    train = local_entries(data.options.get("train"))
    if data.options.get("val") or not train:
        return [], data.absent
    rows = hold_out(_rows(train, location), data.options.get("val_fraction", 0.05))[1]
    return _read(rows, limit), f"held-out images of {', '.join(train)}"


def images_of(entry: str, limit: int) -> list[tuple[Tensor, Labels]]:
    """The first images of a manifest or a folder: pixels (1 or 3, height, width) of uint8, and labels.

    Raises:
        UserError: If the source or an image cannot be read.
    """
    return _read(_rows([entry], Location()), limit)


def _rows(entries: Sequence[str], location: Location) -> list[ImageRow]:
    errors = RowErrors("val", BadRowPolicy())
    return [row for entry in entries for row in open_images(entry, "val", location).rows(errors)]


def _read(rows: Sequence[ImageRow], limit: int) -> list[tuple[Tensor, Labels]]:
    return [(row.read(), row.labels) for row in islice(rows, limit)]
