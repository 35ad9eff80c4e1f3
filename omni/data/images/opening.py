"""The source of images that a name in a configuration stands for."""

from pathlib import Path

from omni.data.images.catalogues import HubImages, open_torchvision
from omni.data.images.folders import AnnotatedFolder, ClassFolders
from omni.data.images.manifests import open_manifest
from omni.data.images.sources import ImageSource, Location
from omni.data.loading.hub import HUB
from omni.errors import UserError


def open_images(entry: str, split: str, location: Location) -> ImageSource:
    """Finds the source that a name stands for.

    Args:
        entry: A folder with a folder for each class, or in the layout of Tiny-ImageNet's `val`; a manifest (.jsonl,
            .csv, or Flickr8k's captions.txt), COCO's captions (.json), each with the suffix `@LIST` to use only the
            images that LIST, a file beside it, names; `torchvision:NAME[:SPLIT]`; or
            `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        split: `train`, `val` or `test`: the split of a data set that has splits, where the entry names none.
        location: Folders and options.

    Raises:
        UserError: If it does not exist or its format is not known.
    """
    if entry.startswith("torchvision:"):
        return open_torchvision(entry, split, location)
    if entry.startswith(HUB):
        return HubImages(entry, split, location)
    name, _, only = entry.partition("@")
    path = Path(name).expanduser()
    if path.is_dir():
        return AnnotatedFolder(path) if (path / AnnotatedFolder.ANNOTATIONS).is_file() else ClassFolders(path)
    if not path.is_file():
        raise UserError(
            f"{name}: does not exist: name a folder of class folders, a manifest, torchvision:NAME or hub:OWNER/NAME"
        )
    return open_manifest(path, _names(path.parent / only) if only else None, location.image_folder)


def _names(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="utf-8").split("\n")) - {""}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): it must have the name of an image a line"
        ) from error
