"""Folders of images: with a folder for each class, or with a list of the classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

from omni.data.images.rows import ImageRow
from omni.data.images.sources import ATTRIBUTE, SUFFIXES, ImageSource, natural_key
from omni.data.loading.bad_rows import RowErrors
from omni.errors import UserError


class EmptyClass(UserError):
    """A class without images."""


@final
class ClassFolders(ImageSource):
    """A folder for each class, with images at any depth.

    It is not torchvision's `ImageFolder`, which sorts class 10 before class 2, reads fewer formats, and raises at the
    first empty class.

    Args:
        folder: The parent of the folders of the classes.

    Raises:
        UserError: If there is no class.
    """

    complete = True

    def __init__(self, folder: Path):
        self.name = str(folder)
        self.folder = folder
        children = [path for path in folder.iterdir() if not path.name.startswith(".")]
        self._files = {path.name: _images(path) for path in children if path.is_dir()}
        if not self._files:
            loose = sum(path.suffix.lower() in SUFFIXES for path in children)
            what = f"{loose} images but no folders of classes" if loose else "no folders of classes"
            raise UserError(f"{folder}: holds {what}: move images into folder/CLASS/, or name a manifest")
        self.classes = {ATTRIBUTE: tuple(sorted(self._files, key=natural_key))}

    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        for name in self.classes[ATTRIBUTE]:
            if not self._files[name]:
                errors.add(EmptyClass(f"{self.folder / name}: a class without images: add some or remove the folder"))
            for file in self._files[name]:
                yield ImageRow(str(file), file, {ATTRIBUTE: name})


@final
class AnnotatedFolder(ImageSource):
    """Tiny-ImageNet's validation images: `images/`, and `val_annotations.txt` with lines `FILE`, tab, `CLASS`.

    Args:
        folder: The folder that holds both.
    """

    ANNOTATIONS = "val_annotations.txt"

    def __init__(self, folder: Path):
        self.name = str(folder)
        self.folder = folder

    def rows(self, errors: RowErrors) -> Iterator[ImageRow]:
        path = self.folder / self.ANNOTATIONS
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is not UTF-8 (byte {error.start}): convert the file to UTF-8") from None
        for number, line in enumerate(lines, 1):
            name, *rest = line.split("\t")
            image = self.folder / "images" / name
            if not rest or not rest[0]:
                errors.add(UserError(f"{path}: line {number}: no class for {name!r}: write FILE, a tab, CLASS"))
            elif not image.is_file():
                errors.add(UserError(f"{path}: line {number}: {image} does not exist: correct or remove the line"))
            else:
                yield ImageRow(str(image), image, {ATTRIBUTE: rest[0]})


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
