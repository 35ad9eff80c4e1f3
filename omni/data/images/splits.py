"""Splits: what is held out, and what the images of training, validation and test must have in common."""

import math
from collections.abc import Sequence
from pathlib import Path

from omni.batch import Attribute
from omni.data.images.rows import Faults, ImageRow
from omni.data.images.sources import ImageSource
from omni.errors import UserError


def hold_out(rows: list[ImageRow], fraction: float) -> tuple[list[ImageRow], list[ImageRow]]:
    """Holds images out by a hash of their content, so that copies of one are never on both sides.

    Args:
        rows: The images.
        fraction: Share of them to hold out, about.

    Returns:
        Images to train on, and those held out; neither is empty.

    Raises:
        UserError: If there are not two different images.
    """
    draws = [int.from_bytes(row.identity()) / 2**64 for row in rows]
    if len(set(draws)) < 2:
        raise UserError(f"{len(set(draws))} images cannot be split into training and validation: give data.val")
    threshold = min(max(fraction, math.nextafter(min(draws), 1)), max(draws))
    sides: tuple[list[ImageRow], list[ImageRow]] = ([], [])
    for row, draw in zip(rows, draws, strict=True):
        sides[draw < threshold].append(row)
    return sides


def with_words(rows: list[ImageRow], faults: Faults) -> list[ImageRow]:
    """The rows of which something is known, where something is known of any; the others go to `faults`."""
    if not any(row.captions or row.labels for row in rows):
        return rows
    for row in rows:
        if not row.captions and not row.labels:
            faults.add(UserError(f"{row.where}: an image with neither caption nor label: write one, or leave it out"))
    return [row for row in rows if row.captions or row.labels]


def check_leak(rows: dict[str, list[ImageRow]]) -> None:
    """No file may be trained and measured on; `omni data check` finds copies, too.

    Raises:
        UserError: If one is.
    """
    files = {row.image.resolve() for row in rows.get("train", []) if isinstance(row.image, Path)}
    for split in ("val", "test"):
        for row in rows.get(split, []):
            if isinstance(row.image, Path) and row.image.resolve() in files:
                raise UserError(f"{row.where} is in data.train and in data.{split}: leave it out of one")


def check_classes(sources: Sequence[ImageSource], attributes: tuple[Attribute, ...]) -> None:
    """Folders of classes must be the same in every split.

    Args:
        sources: Of a split that is measured on.
        attributes: Of the training images.

    Raises:
        UserError: If they are not.
    """
    known = {attribute.name: set(attribute.values) for attribute in attributes}
    for source in sources:
        for name, values in source.classes.items() if source.complete else ():
            classes = known.get(name, set())
            if extra := set(values) - classes:
                raise UserError(f"{source.name}: has a class {min(extra)!r} that the training images do not have")
            if missing := classes - set(values):
                raise UserError(f"{source.name}: lacks the class {min(missing)!r} of the training images")
