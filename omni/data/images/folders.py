"""Images sorted into a folder for each class, or into one with a list of their classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

from omni.data.images.rows import Faults, ImageRow
from omni.data.images.sources import SUFFIXES, ImageSource, natural
from omni.errors import UserError

ATTRIBUTE = "label"  # what classes are called where nothing else names them


class EmptyClass(UserError):
    """A class of which there is no image."""


@final
class ClassFolders(ImageSource):
    """A folder for each class, as torchvision's `ImageFolder` has it; images may lie deeper in it.

    A class without an image is a faulty row.

    Args:
        folder: The folder that holds those of the classes.

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
            raise UserError(f"{folder}: holds {what}: put images into folder/CLASS/, or name a manifest")
        self.classes = {ATTRIBUTE: tuple(sorted(self._files, key=natural))}

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        for name in self.classes[ATTRIBUTE]:
            if not self._files[name]:
                faults.add(EmptyClass(f"{self.folder / name}: a class without an image: fill it or remove it"))
            for file in self._files[name]:
                yield ImageRow(str(file), file, {ATTRIBUTE: name})


@final
class AnnotatedFolder(ImageSource):
    """Tiny-ImageNet's validation images: `images/`, whose classes `val_annotations.txt` tells (`FILE`, tab, `CLASS`).

    Args:
        folder: The folder that holds both.
    """

    ANNOTATIONS = "val_annotations.txt"

    def __init__(self, folder: Path):
        self.name = str(folder)
        self.folder = folder

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        path = self.folder / self.ANNOTATIONS
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is not UTF-8 (byte {error.start}): save it as UTF-8") from None
        for number, line in enumerate(lines, 1):
            name, *rest = line.split("\t")
            image = self.folder / "images" / name
            if not rest or not rest[0]:
                faults.add(UserError(f"{path}: line {number}: no class of {name!r}: write FILE, a tab, CLASS"))
            elif not image.is_file():
                faults.add(UserError(f"{path}: line {number}: {image} is not there: mend or drop the line"))
            else:
                yield ImageRow(str(image), image, {ATTRIBUTE: rest[0]})


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
