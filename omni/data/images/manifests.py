"""Manifests: files that list images with their captions and labels, as JSON lines, CSV or COCO's captions."""

import csv
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.data.images.rows import ImageRow, Labels
from omni.data.images.sources import ATTRIBUTE, ImageSource
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.jsonl import jsonl_rows
from omni.errors import UserError
from omni.media.image_file import ImageError

_FOLDERS = ("", "Images", "images")  # of a manifest's images, relative to it


class Entry(NamedTuple):
    """A row of a manifest.

    Attributes:
        where: File and row.
        image: Name of the image's file.
        labels: As in `ImageRow`.
        captions: As in `ImageRow`.
    """

    where: str
    image: str
    labels: Labels
    captions: tuple[str, ...]


class ImageManifest(ImageSource):
    """Abstract: a file that lists images. The captions of all rows of an image belong to it.

    Args:
        path: The file.
        only: Names of the images to use; None: all.
        image_folder: Their folder; None: beside the manifest.
    """

    def __init__(self, path: Path, only: frozenset[str] | None, image_folder: Path | None):
        self.name = str(path)
        self.path = path
        self.only = only
        self.image_folder = image_folder

    @abstractmethod
    def entries(self) -> Iterator[Entry | UserError]:
        """The rows, or the error of each that cannot be used."""

    def folders(self) -> list[Path]:
        """Folders that are searched for images, in this order."""
        if self.image_folder is not None:
            return [self.image_folder, self.path.parent / self.image_folder]
        return [self.path.parent / name for name in _FOLDERS]

    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        joined: dict[str, ImageRow] = {}
        folders, missing = self.folders(), set()
        for entry in self.entries():
            if isinstance(entry, UserError):
                errors.add(entry)
            elif (self.only is None or entry.image in self.only) and entry.image not in missing:
                row = joined.get(entry.image)
                if row is None:
                    path = next((path for folder in folders if (path := folder / entry.image).is_file()), None)
                    if path is None:
                        errors.add(ImageError("missing", f"{entry.where}: {folders[0] / entry.image} does not exist"))
                        missing.add(entry.image)
                        continue
                    joined[entry.image] = ImageRow(f"{entry.where}, {path}", path, entry.labels, entry.captions)
                elif row.labels != entry.labels:
                    errors.add(UserError(f"{entry.where}: {entry.image} has different labels in an earlier row"))
                else:
                    row.captions += entry.captions
        if self.only is not None and (absent := self.only - joined.keys() - missing):
            errors.add(UserError(f"{self.path}: {len(absent)} listed images have no row, such as {min(absent)}"))
        yield from joined.values()


@final
class JsonlManifest(ImageManifest):
    """A `.jsonl` file with `image`, and `caption` or `captions`, `label` or `labels` in each object.

    `label` is a class; `labels` an object of attributes, each a class or a list of them.
    """

    def entries(self) -> Iterator[Entry | UserError]:
        for where, row in jsonl_rows(self.path):
            yield row if isinstance(row, UserError) else _entry(where, row)


@final
class CsvManifest(ImageManifest):
    """A `.csv` file, or Flickr8k's `captions.txt`, with columns `image`, and `caption` or `label`."""

    def entries(self) -> Iterator[Entry | UserError]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            try:
                columns = reader.fieldnames or []
                if "image" not in columns:
                    raise UserError(f"{self.path}: no column 'image' in its first row, only {', '.join(columns)}")
                for row in reader:
                    where = f"{self.path}: row {reader.line_num}"
                    known = {name: value for name, value in row.items() if name is not None and value}
                    if "caption" in columns and not {"caption", "label"} & known.keys() and "image" in known:
                        yield UserError(f"{where}: no caption of {known['image']}: write one, or remove the row")
                    else:
                        yield _entry(where, known)
            except (UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"{self.path}: not a CSV file in UTF-8 ({error})") from error


@final
class CocoManifest(ImageManifest):
    """COCO's captions: a `.json` object with `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`)."""

    def folders(self) -> list[Path]:
        split = self.path.stem.removeprefix("captions_")
        if self.image_folder is not None:
            return super().folders()
        return [self.path.parent.parent / split, self.path.parent / split, *super().folders()]

    def entries(self) -> Iterator[Entry | UserError]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            names = {image["id"]: image["file_name"] for image in content["images"]}
            annotations = list(content["annotations"])
            if bad := next((name for name in names.values() if not isinstance(name, str)), None):
                raise ValueError(f"file_name is {bad!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.path}: not in the format of COCO's captions ({type(error).__name__}: {error})"
            ) from error
        for name in names.values():  # those without captions too
            yield Entry(f"{self.path}: {name}", name, {}, ())
        for number, annotation in enumerate(annotations, 1):
            where = f"{self.path}: annotation {number}"
            image = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(image, int | str) or image not in names:
                yield UserError(f"{where}: a caption of image {image!r}, which is not listed")
            else:
                yield _entry(where, {"image": names[image], "caption": annotation.get("caption") or ""})


def open_manifest(path: Path, only: frozenset[str] | None, image_folder: Path | None) -> ImageManifest:
    """A manifest by its suffix.

    Raises:
        UserError: If the suffix is not known.
    """
    kinds: dict[str, type[ImageManifest]] = {
        ".jsonl": JsonlManifest, ".csv": CsvManifest, ".txt": CsvManifest, ".json": CocoManifest,
    }  # fmt: skip
    if path.suffix not in kinds:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}: use a folder, or one of {', '.join(kinds)}")
    return kinds[path.suffix](path, only, image_folder)


def _entry(where: str, row: dict[str, Any]) -> Entry | UserError:
    image = row.get("image")
    if not isinstance(image, str) or not image.strip():
        return UserError(f"{where}: no image: give its file name under 'image'")
    captions = row.get("captions", row.get("caption"))
    captions = [] if captions is None else [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(text, str) and text.strip() for text in captions):
        return UserError(f"{where}: 'caption' is not text: give a text, or a list of texts as 'captions'")
    labels = _labels(where, row)
    if isinstance(labels, UserError):
        return labels
    return Entry(where, image.strip(), labels, tuple(text.strip() for text in captions))


def _labels(where: str, row: dict[str, Any]) -> Labels | UserError:
    given = row["labels"] if isinstance(row.get("labels"), dict) else {}
    if row.get("label") is not None:
        given = {ATTRIBUTE: row["label"], **given}
    labels: Labels = {}
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int) for item in values):
            return UserError(f"{where}: {name} is {value!r}: a label is a text, a number, or a list of them")
        texts = tuple(map(str, values))
        labels[name] = texts if isinstance(value, list) else texts[0]
    return labels
