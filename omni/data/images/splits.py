"""Splits of images: held out by content, and checked against each other."""

import math
from collections.abc import Sequence
from pathlib import Path

from omni.batch import Attribute
from omni.data.images.rows import ImageRow
from omni.data.images.sources import ImageSource
from omni.data.loading.bad_rows import RowErrors
from omni.errors import UserError


def hold_out(rows: list[ImageRow], fraction: float) -> tuple[list[ImageRow], list[ImageRow]]:
    """Holds images out by a hash of their content, so that copies of an image are on the same side.

    Args:
        rows: The images.
        fraction: Expected share of the images to hold out.

    Returns:
        Images to train on, and those held out; neither is empty.

    Raises:
        UserError: If there are fewer than two different images.
    """
    hashes = [int.from_bytes(row.content_hash()) / 2**64 for row in rows]
    if len(set(hashes)) < 2:
        raise UserError(f"{len(set(hashes))} images cannot be split into training and validation: give data.val")
    threshold = min(max(fraction, math.nextafter(min(hashes), 1)), max(hashes))
    sides: tuple[list[ImageRow], list[ImageRow]] = ([], [])
    for row, value in zip(rows, hashes, strict=True):
        sides[value < threshold].append(row)
    return sides


def annotated(rows: list[ImageRow], errors: RowErrors) -> list[ImageRow]:
    """The rows with captions or labels; the others are added to `errors`. All rows if none has any."""
    if not any(row.captions or row.labels for row in rows):
        return rows
    for row in rows:
        if not row.captions and not row.labels:
            errors.add(UserError(f"{row.where}: an image with neither caption nor label: add one, or remove the row"))
    return [row for row in rows if row.captions or row.labels]


def check_leak(rows: dict[str, list[ImageRow]]) -> None:
    """Checks that no file is in the training split and another; `omni data check` finds copies, too.

    Raises:
        UserError: If a file is.
    """
    files = {row.image.resolve() for row in rows.get("train", []) if isinstance(row.image, Path)}
    for split in ("val", "test"):
        for row in rows.get(split, []):
            if isinstance(row.image, Path) and row.image.resolve() in files:
                raise UserError(f"{row.where} is in data.train and in data.{split}: leave it out of one")


def check_classes(sources: Sequence[ImageSource], attributes: tuple[Attribute, ...]) -> None:
    """Checks that a split has the same folders of classes as the training split.

    Args:
        sources: Of the split.
        attributes: Of the training images.

    Raises:
        UserError: If it does not.
    """
    known = {attribute.name: set(attribute.values) for attribute in attributes}
    for source in sources:
        for name, values in source.classes.items() if source.complete else ():
            classes = known.get(name, set())
            if extra := set(values) - classes:
                raise UserError(f"{source.name}: has a class {min(extra)!r} that the training images do not have")
            if missing := classes - set(values):
                raise UserError(f"{source.name}: lacks the class {min(missing)!r} of the training images")
