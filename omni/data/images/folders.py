"""Images sorted into a folder for each class."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

from omni.data.images.rows import Faults, ImageRow
from omni.data.images.sources import SUFFIXES, ImageSource, natural
from omni.errors import UserError

ATTRIBUTE = "label"  # what classes are called where nothing else names them


@final
class ClassFolders(ImageSource):
    """A folder for each class, as torchvision's `ImageFolder` has it; images may lie deeper in it.

    Args:
        folder: The folder that holds those of the classes.

    Raises:
        UserError: If there is no class, or one without an image.
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
        if empty := [name for name, files in self._files.items() if not files]:
            raise UserError(f"{folder / min(empty)}: a class without an image: fill it or remove it")
        self.classes = {ATTRIBUTE: tuple(sorted(self._files, key=natural))}

    def rows(self, faults: Faults) -> Iterator[ImageRow]:
        for name in self.classes[ATTRIBUTE]:
            for file in self._files[name]:
                yield ImageRow(str(file), file, {ATTRIBUTE: name})


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
