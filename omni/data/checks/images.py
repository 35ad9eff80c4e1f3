"""What can be wrong with images, found by reading all of them."""

import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from omni.data.checks.findings import Kind, Report, named
from omni.data.images.folders import EmptyClass
from omni.data.images.rows import Faults, ImageRow
from omni.data.images.sources import ImageSource
from omni.errors import UserError
from omni.media.images import ImageError, image_info, read_image

IMAGE_KINDS = {
    "bad image row": Kind("error", "Mend the manifest, or drop the row: `fit` refuses it."),
    "missing image": Kind("error", "Correct the path, or drop the row: `fit` refuses it."),
    "empty image file": Kind("error", "Get the file again, or drop it: `fit` refuses it."),
    "unreadable image": Kind("error", "No image, or of a kind that cannot be read: convert it, or drop it."),
    "damaged image": Kind("error", "Cut off or damaged: get the file again, or drop it: `fit` refuses it."),
    "too large image": Kind("error", "Perhaps a decompression bomb: scale it down, or drop it: `fit` refuses it."),
    "tiny image": Kind("error", "Nothing can be seen in so few pixels: drop it."),
    "no caption or label": Kind("error", "Nothing is known of it: write a caption or a label, or drop the row."),
    "empty class": Kind("error", "Fill the folder, or remove it: `fit` refuses it.", of_rows=False),
    "other classes": Kind("error", "Splits must have the same classes: `fit` refuses it.", of_rows=False),
    "contradicting labels": Kind("error", "The same image with other labels: keep the right one."),
    "leaked image": Kind("error", "The same image is in two splits: drop it from one of them."),
    "no images": Kind("error", "There is nothing to learn from.", of_rows=False),
    "extreme aspect": Kind("warning", "Cropped to a square most of it is gone: cut it, or set data.fit to pad."),
    "one colour": Kind("warning", "There is nothing to see: is it a placeholder?"),
    "duplicate image": Kind("warning", "The same pixels again: drop one of them."),
    "several frames": Kind("note", "The first is taken, the others are passed over."),
}

_FAULTS = {
    "missing": "missing image",
    "empty": "empty image file",
    "unreadable": "unreadable image",
    "damaged": "damaged image",
    "too large": "too large image",
}
_TINY = 8  # pixels of the shorter side: digits of 8 × 8 can be read
_EXTREME = 4.0  # times as long as wide, or the other way round
_CLASSES = 32  # that are counted one by one; of more, the largest and the smallest are shown
_AT_A_TIME = 256  # rows that wait to be read


class _Seen(NamedTuple):
    """What reading an image has shown."""

    width: int = 0
    height: int = 0
    format: str = ""
    frames: int = 1
    plain: bool = False
    digest: bytes = b""
    error: UserError | None = None


class _Place(NamedTuple):
    """Where an image was met."""

    split: str
    row: ImageRow


class _Reported(Faults):
    """Rows without an image become findings."""

    def __init__(self, report: Report):
        super().__init__(skip=True)
        self._findings = report

    def add(self, error: UserError) -> None:
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
        self._met: dict[bytes, _Place] = {}  # by the image's pixels
        self._classes: dict[str, dict[str, Counter[str]]] = {}  # split -> attribute -> value -> images
        self._listed: dict[str, tuple[bool, str]] = {}  # by attribute: whether it may have several values, and where

    def split(self, name: str, sources: Sequence[ImageSource]) -> None:
        """Reads a split.

        Args:
            name: What to call it.
            sources: Its images.
        """
        seen: list[_Seen] = []
        captions: list[tuple[str, ...]] = []
        classes: dict[str, Counter[str]] = {}
        for source in sources:
            for attribute, values in source.classes.items():
                classes.setdefault(attribute, Counter()).update(dict.fromkeys(values, 0))
        for row, image in _all_seen(sources, name, _Reported(self.report)):
            self.report.rows += 1
            if image.error is not None:
                kind = _FAULTS[image.error.fault] if isinstance(image.error, ImageError) else "unreadable image"
                self.report.add_error(kind, image.error)
                continue
            self._check_image(row, image)
            self._check_content(name, row, image)
            self._check_labels(row, classes)
            seen.append(image._replace(digest=b""))
            captions.append(row.captions)
        if not seen:
            self.report.add("no images", name, "no image of it can be read")
        self._compare(name, classes, complete=any(source.complete for source in sources))
        self.report.figures[name] = _figures(seen, captions, classes)

    # ------------------------------------------------------------------ rows

    def _check_image(self, row: ImageRow, image: _Seen) -> None:
        add, size = self.report.add, f"{image.width} × {image.height} pixels"
        short, long = sorted((image.width, image.height))
        if short < _TINY:
            add("tiny image", row.where, size)
        elif image.plain:
            add("one colour", row.where, "all pixels are the same")
        if long > _EXTREME * short:
            add("extreme aspect", row.where, size)
        if image.frames > 1:
            add("several frames", row.where, f"{image.frames} frames, {image.format}")

    def _check_content(self, split: str, row: ImageRow, image: _Seen) -> None:
        """Has the same been seen before?"""
        place = _Place(split, row)
        before = self._met.setdefault(image.digest, place)
        if before is place or image.plain:  # what has one colour looks like all of that colour
            return
        if before.split != split:
            self.report.add("leaked image", row.where, f"is in {before.split} too: {before.row.where}")
        elif before.row.labels != row.labels:
            told = f"{_told(row.labels)}, and {_told(before.row.labels)} in {before.row.where}"
            self.report.add("contradicting labels", row.where, told)
        else:
            self.report.add("duplicate image", row.where, f"is the same as {before.row.where}")

    def _check_labels(self, row: ImageRow, classes: dict[str, Counter[str]]) -> None:
        if not row.labels and not row.captions:
            self.report.add("no caption or label", row.where, "neither is told")
        for attribute, value in row.labels.items():
            listed, where = self._listed.setdefault(attribute, (isinstance(value, tuple), row.where))
            if listed != isinstance(value, tuple):
                told = f"{attribute} is {'a single value' if listed else 'a list'} here, unlike in {where}"
                self.report.add("bad image row", row.where, told)
            classes.setdefault(attribute, Counter()).update(value if isinstance(value, tuple) else (value,))

    # ------------------------------------------------------------------ splits

    def _compare(self, name: str, classes: dict[str, Counter[str]], *, complete: bool) -> None:
        """Classes of a split must be those of the first one, which is trained on."""
        first = next(iter(self._classes), None)
        self._classes[name] = classes
        if first is None:
            return
        for attribute, counts in classes.items():
            known = self._classes[first].get(attribute, Counter())
            if extra := counts.keys() - known.keys():
                self.report.add("other classes", name, f"{attribute} has values that {first} lacks: {named(extra)}")
            if complete and (missing := known.keys() - counts.keys()):
                self.report.add("other classes", name, f"{attribute} lacks values that {first} has: {named(missing)}")


def _figures(
    seen: Sequence[_Seen], captions: Sequence[tuple[str, ...]], classes: Mapping[str, Counter[str]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"images": len(seen)}
    if not seen:
        return figures
    for name in ("width", "height"):
        sides = [getattr(image, name) for image in seen]
        figures[f"{name} in pixels"] = {"min": min(sides), "median": int(statistics.median(sides)), "max": max(sides)}
    if formats := Counter(image.format for image in seen if image.format):
        figures["formats"] = dict(formats.most_common())
    for attribute, counts in classes.items():
        order = counts.most_common()
        shown = dict(order if len(order) <= _CLASSES else [order[0], order[-1]])
        figures[f"{attribute}, images of each of {len(counts)}"] = shown
    if texts := [text for row in captions for text in row]:
        each = [len(row) for row in captions]
        figures["captions"] = len(texts)
        figures["different captions"] = len(set(texts))
        figures["captions of an image"] = {"min": min(each), "median": int(statistics.median(each)), "max": max(each)}
        figures["characters of a caption, at most"] = max(map(len, texts))
    return figures


def _all_seen(sources: Sequence[ImageSource], name: str, faults: Faults) -> Iterator[tuple[ImageRow, _Seen]]:
    """All rows of all sources, their images read by a few threads; what waits is bounded."""
    rows = (row for source in sources for row in source.rows(faults))
    progress = tqdm(desc=f"reading {name}", unit=" images", leave=False, disable=None)
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress:
        while some := list(islice(rows, _AT_A_TIME)):
            for row, image in zip(some, pool.map(_see, some), strict=True):
                progress.update()
                yield row, image


def _see(row: ImageRow) -> _Seen:
    """Reads an image whole."""
    try:
        if isinstance(row.image, Tensor):
            pixels, format, frames = row.image, "", 1
        else:
            content = row.content()
            pixels = read_image(content, name=row.where)
            _, _, format, _, frames = image_info(content, name=row.where)
    except UserError as error:
        return _Seen(error=error)
    height, width = pixels.shape[-2:]
    digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
    digest.update(pixels.expand(3, -1, -1).contiguous().numpy().data)
    plain = bool((pixels == pixels[:, :1, :1]).all())
    return _Seen(width, height, format, frames, plain, digest.digest())


def _told(labels: Mapping[str, str | tuple[str, ...]]) -> str:
    values = (value if isinstance(value, str) else " ".join(value) for value in labels.values())
    return repr(", ".join(values)) if labels else "no label"
