"""Checks of images, which read all of them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from omni.data.checks.findings import Kind, Report, first_names, map_threads, spread
from omni.data.images.folders import EmptyClass
from omni.data.images.rows import ImageRow
from omni.data.images.sources import ImageSource
from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.errors import UserError
from omni.media.image_file import ImageError, image_info
from omni.media.images import read_image

IMAGE_KINDS = {
    "bad image row": Kind("error", "Correct the manifest, or remove the row: `fit` refuses it."),
    "missing image": Kind("error", "Correct the path, or remove the row: `fit` refuses it."),
    "empty image file": Kind("error", "Get the file again, or remove it: `fit` refuses it."),
    "unreadable image": Kind("error", "Not an image, or of an unknown format: convert it, or remove it."),
    "damaged image": Kind("error", "Truncated or damaged: get the file again, or remove it: `fit` refuses it."),
    "too large image": Kind("error", "Perhaps a decompression bomb: scale it down, or remove it: `fit` refuses it."),
    "tiny image": Kind("error", "Too small to show anything: remove it."),
    "no caption or label": Kind("error", "Add a caption or a label, or remove the row."),
    "empty class": Kind("error", "Add images to the folder, or remove it: `fit` refuses it.", of_rows=False),
    "other classes": Kind("error", "Splits must have the same classes: `fit` refuses it.", of_rows=False),
    "contradicting labels": Kind("error", "The same image with different labels: keep the right one."),
    "leaked image": Kind("error", "The same image is in two splits: remove it from one of them."),
    "no images": Kind("error", "There is nothing to train on.", of_rows=False),
    "extreme aspect": Kind("warning", "A square crop loses most of it: crop it yourself, or set data.fit to pad."),
    "one colour": Kind("warning", "All pixels are equal: is it a placeholder?"),
    "duplicate image": Kind("warning", "The same pixels again: remove one of them."),
    "several frames": Kind("note", "The first is used, the others are ignored."),
}

_FAULTS = {
    "missing": "missing image",
    "empty": "empty image file",
    "unreadable": "unreadable image",
    "damaged": "damaged image",
    "too large": "too large image",
}
_TINY = 8  # pixels of the shorter side: digits of 8 × 8 are legible
_EXTREME = 4.0  # ratio of the longer to the shorter side
_CLASSES = 32  # largest number of classes that are listed; of more, the largest and the smallest are


class _ImageStats(NamedTuple):
    """Properties of an image that has been read."""

    width: int = 0
    height: int = 0
    format: str = ""
    frames: int = 1
    uniform: bool = False  # of a single colour
    digest: bytes = b""
    error: UserError | None = None


class _Place(NamedTuple):
    """The first row of an image."""

    split: str
    row: ImageRow


class _ReportedErrors(RowErrors):
    """Adds the errors of rows to a report."""

    def __init__(self, report: Report):
        super().__init__("data", BadRowPolicy(skip=True))
        self._findings = report

    def add(self, error: UserError, *, count: int | None = None) -> None:
        if isinstance(error, EmptyClass):
            kind = "empty class"
        else:
            kind = _FAULTS[error.fault] if isinstance(error, ImageError) else "bad image row"
            self._findings.rows += 1
        self._findings.add_error(kind, error)


class ImageCheck:
    """Checks split after split, and compares each with those before.

    Args:
        report: Gets the findings.
    """

    def __init__(self, report: Report):
        self.report = report
        self._first_seen: dict[bytes, _Place] = {}  # by a hash of the pixels
        self._classes: dict[str, dict[str, Counter[str]]] = {}  # split -> attribute -> value -> images
        self._listed: dict[str, tuple[bool, str]] = {}  # by attribute: whether it may have several values, and where

    def split(self, name: str, sources: Sequence[ImageSource]) -> None:
        """Reads a split.

        Args:
            name: What to call it.
            sources: Its images.
        """
        stats: list[_ImageStats] = []
        captions: list[tuple[str, ...]] = []
        classes: dict[str, Counter[str]] = {}
        for source in sources:
            for attribute, values in source.classes.items():
                classes.setdefault(attribute, Counter()).update(dict.fromkeys(values, 0))
        rows = (row for source in sources for row in source.rows(_ReportedErrors(self.report)))
        for row, image in map_threads(lambda row: (row, _read_image(row)), rows, name, "images"):
            self.report.rows += 1
            if image.error is not None:
                kind = _FAULTS[image.error.fault] if isinstance(image.error, ImageError) else "unreadable image"
                self.report.add_error(kind, image.error)
                continue
            self._check_image(row, image)
            self._check_content(name, row, image)
            self._check_labels(row, classes)
            stats.append(image._replace(digest=b""))
            captions.append(row.captions)
        if not stats:
            self.report.add("no images", name, "no image of it can be read")
        self._compare(name, classes, complete=any(source.complete for source in sources))
        self.report.figures[name] = _figures(stats, captions, classes)

    # ------------------------------------------------------------------ rows

    def _check_image(self, row: ImageRow, image: _ImageStats) -> None:
        add, size = self.report.add, f"{image.width} × {image.height} pixels"
        short, long = sorted((image.width, image.height))
        if short < _TINY:
            add("tiny image", row.where, size)
        elif image.uniform:
            add("one colour", row.where, "all pixels are the same")
        if long > _EXTREME * short:
            add("extreme aspect", row.where, size)
        if image.frames > 1:
            add("several frames", row.where, f"{image.frames} frames, {image.format}")

    def _check_content(self, split: str, row: ImageRow, image: _ImageStats) -> None:
        """Compares the image with those before it."""
        place = _Place(split, row)
        before = self._first_seen.setdefault(image.digest, place)
        if before is place or image.uniform:  # images of a single colour are alike
            return
        if before.split != split:
            self.report.add("leaked image", row.where, f"is in {before.split} too: {before.row.where}")
        elif before.row.labels != row.labels:
            both = f"{_described(row.labels)}, and {_described(before.row.labels)} in {before.row.where}"
            self.report.add("contradicting labels", row.where, both)
        else:
            self.report.add("duplicate image", row.where, f"is the same as {before.row.where}")

    def _check_labels(self, row: ImageRow, classes: dict[str, Counter[str]]) -> None:
        if not row.labels and not row.captions:
            self.report.add("no caption or label", row.where, "it has neither")
        for attribute, value in row.labels.items():
            listed, where = self._listed.setdefault(attribute, (isinstance(value, tuple), row.where))
            if listed != isinstance(value, tuple):
                problem = f"{attribute} is {'a single value' if listed else 'a list'} here, unlike in {where}"
                self.report.add("bad image row", row.where, problem)
            classes.setdefault(attribute, Counter()).update(value if isinstance(value, tuple) else (value,))

    # ------------------------------------------------------------------ splits

    def _compare(self, name: str, classes: dict[str, Counter[str]], *, complete: bool) -> None:
        """Compares the classes of a split with those of the first one, the training split."""
        first = next(iter(self._classes), None)
        self._classes[name] = classes
        if first is None:
            return
        for attribute, counts in classes.items():
            known = self._classes[first].get(attribute, Counter())
            if extra := counts.keys() - known.keys():
                self.report.add(
                    "other classes", name, f"{attribute} has values that {first} lacks: {first_names(extra)}"
                )
            if complete and (missing := known.keys() - counts.keys()):
                self.report.add(
                    "other classes", name, f"{attribute} lacks values that {first} has: {first_names(missing)}"
                )


def _figures(
    stats: Sequence[_ImageStats], captions: Sequence[tuple[str, ...]], classes: Mapping[str, Counter[str]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"images": len(stats)}
    if not stats:
        return figures
    for name in ("width", "height"):
        sides = [getattr(image, name) for image in stats]
        figures[f"{name} in pixels"] = spread(sides)
    if formats := Counter(image.format for image in stats if image.format):
        figures["formats"] = dict(formats.most_common())
    for attribute, counts in classes.items():
        order = counts.most_common()
        shown = dict(order if len(order) <= _CLASSES else [order[0], order[-1]])
        figures[f"{attribute}, images of each of {len(counts)}"] = shown
    if texts := [text for row in captions for text in row]:
        each = [len(row) for row in captions]
        figures["captions"] = len(texts)
        figures["different captions"] = len(set(texts))
        figures["captions of an image"] = spread(each)
        figures["characters of a caption, at most"] = max(map(len, texts))
    return figures


def _read_image(row: ImageRow) -> _ImageStats:
    try:
        if isinstance(row.image, Tensor):
            pixels, format, frames = row.image, "", 1
        else:
            content = row.content()
            pixels = read_image(content, name=row.where)
            _, _, format, _, frames = image_info(content, name=row.where)
    except UserError as error:
        return _ImageStats(error=error)
    height, width = pixels.shape[-2:]
    digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
    digest.update(pixels.expand(3, -1, -1).contiguous().numpy().data)
    uniform = bool((pixels == pixels[:, :1, :1]).all())
    return _ImageStats(width, height, format, frames, uniform, digest.digest())


def _described(labels: Mapping[str, str | tuple[str, ...]]) -> str:
    values = (value if isinstance(value, str) else " ".join(value) for value in labels.values())
    return repr(", ".join(values)) if labels else "no label"
