"""Images that a file lists, with their captions and labels: JSON lines, CSV, COCO's captions."""

import csv
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.data.images.folders import ATTRIBUTE
from omni.data.images.rows import Faults, ImageRow, Labels
from omni.data.images.sources import ImageSource
from omni.errors import UserError
from omni.media.images import ImageError

_FOLDERS = ("", "Images", "images")  # beside a manifest, where its images may lie


class Entry(NamedTuple):
    """What one row of a manifest says.

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


class Manifest(ImageSource):
    """Abstract: a file that lists images. Rows of the same image are joined: their captions are all its captions.

    Args:
        path: The file.
        only: Names of the images to take; None: all.
        image_folder: Where they lie; found by itself if None.
    """

    def __init__(self, path: Path, only: frozenset[str] | None, image_folder: Path | None):
        self.name = str(path)
        self.path = path
        self.only = only
        self.image_folder = image_folder

    @abstractmethod
    def entries(self) -> Iterator[Entry | UserError]:
        """What each row says, or what is wrong with it."""

    def folders(self) -> list[Path]:
        """Where images may lie, the likeliest first."""
        if self.image_folder is not None:
            return [self.image_folder, self.path.parent / self.image_folder]
        return [self.path.parent / name for name in _FOLDERS]

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        joined: dict[str, ImageRow] = {}
        folders, missing = self.folders(), set()
        for entry in self.entries():
            if isinstance(entry, UserError):
                faults.add(entry)
            elif (self.only is None or entry.image in self.only) and entry.image not in missing:
                row = joined.get(entry.image)
                if row is None:
                    path = next((path for folder in folders if (path := folder / entry.image).is_file()), None)
                    if path is None:
                        faults.add(
                            ImageError("missing", f"{entry.where}: there is no image {folders[0] / entry.image}")
                        )
                        missing.add(entry.image)
                        continue
                    joined[entry.image] = ImageRow(f"{entry.where}, {path}", path, entry.labels, entry.captions)
                elif row.labels != entry.labels:
                    faults.add(UserError(f"{entry.where}: {entry.image} has other labels than in an earlier row"))
                else:
                    row.captions += entry.captions
        if self.only is not None and (absent := self.only - joined.keys() - missing):
            faults.add(UserError(f"{self.path}: {len(absent)} listed images have no row, such as {min(absent)}"))
        yield from joined.values()


@final
class JsonLines(Manifest):
    """A `.jsonl` file: an object a line, with `image`, and `caption` or `captions`, `label` or `labels`.

    `label` is a class; `labels` an object of attributes, each a class or a list of them.
    """

    def entries(self) -> Iterator[Entry | UserError]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    where = f"{self.path}: row {number}"
                    try:
                        yield _entry(where, json.loads(line.decode("utf-8-sig")))
                    except ValueError as error:  # of UTF-8 and of JSON
                        yield UserError(f"{where}: not a JSON object in UTF-8 ({error}): mend or drop the row")
                    except UserError as error:
                        yield error


@final
class Table(Manifest):
    """A `.csv` file, or Flickr8k's `captions.txt`, with a head: columns `image`, and `caption` or `label`."""

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
                    try:
                        if "caption" in columns and not {"caption", "label"} & known.keys() and "image" in known:
                            raise UserError(f"{where}: no caption of {known['image']}: write one, or drop the row")
                        yield _entry(where, known)
                    except UserError as error:
                        yield error
            except (UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"{self.path}: not a CSV file in UTF-8 ({error})") from error


@final
class Coco(Manifest):
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
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: no captions as COCO has them ({type(error).__name__}: {error})") from error
        for name in names.values():  # those without a caption too
            yield Entry(f"{self.path}: {name}", name, {}, ())
        for number, annotation in enumerate(annotations, 1):
            where = f"{self.path}: annotation {number}"
            image = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(image, int | str) or image not in names:
                yield UserError(f"{where}: a caption of image {image!r}, which is not there")
            else:
                row = {"image": names[image], "caption": annotation.get("caption") or ""}
                try:
                    yield _entry(where, row)
                except UserError as error:
                    yield error


def open_manifest(path: Path, only: frozenset[str] | None, image_folder: Path | None) -> Manifest:
    """The reader of a manifest, by its suffix.

    Raises:
        UserError: If there is none for it.
    """
    kinds: dict[str, type[Manifest]] = {".jsonl": JsonLines, ".csv": Table, ".txt": Table, ".json": Coco}
    if path.suffix not in kinds:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}: use a folder, or one of {', '.join(kinds)}")
    return kinds[path.suffix](path, only, image_folder)


def _entry(where: str, row: Any) -> Entry:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object: mend or drop the row")
    image = row.get("image")
    if not isinstance(image, str) or not image.strip():
        raise UserError(f"{where}: no image: give its file name under 'image'")
    captions = row.get("captions", row.get("caption"))
    captions = [] if captions is None else [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(text, str) and text.strip() for text in captions):
        raise UserError(f"{where}: 'caption' is no text: give a text, or a list of texts as 'captions'")
    return Entry(where, image.strip(), _labels(where, row), tuple(text.strip() for text in captions))


def _labels(where: str, row: dict[str, Any]) -> Labels:
    given = row["labels"] if isinstance(row.get("labels"), dict) else {}
    if row.get("label") is not None:
        given = {ATTRIBUTE: row["label"], **given}
    labels: Labels = {}
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int) for item in values):
            raise UserError(f"{where}: {name} is {value!r}: a label is a text, a number, or a list of them")
        texts = tuple(map(str, values))
        labels[name] = texts if isinstance(value, list) else texts[0]
    return labels
