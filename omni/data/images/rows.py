"""Rows of images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from omni.media.image_file import read_bytes
from omni.media.images import read_image

_HASHED = 2**16  # first bytes of a file, which are hashed together with its size

Labels = dict[str, str | tuple[str, ...]]  # by attribute; a tuple if it may have several values or none


@dataclass(slots=True)
class ImageRow:
    """An image with its labels and captions.

    Attributes:
        where: Its name in messages: file and row.
        image: Its file, the content of the file, a function that reads it, or pixels (1 or 3, height, width) of uint8.
        labels: Its classes.
        captions: Its captions.
    """

    where: str
    image: Path | bytes | Tensor | Callable[[], bytes]
    labels: Labels = field(default_factory=dict)
    captions: tuple[str, ...] = ()

    def read(self) -> Tensor:
        """Its pixels, (1 or 3, height, width), uint8.

        Raises:
            UserError: If they cannot be read.
        """
        return self.image if isinstance(self.image, Tensor) else read_image(self.content(), name=self.where)

    def content(self) -> bytes:
        """The content of its file, or its pixels.

        Raises:
            UserError: If the file cannot be read.
        """
        if isinstance(self.image, Tensor):
            return self.image.numpy().tobytes()
        if isinstance(self.image, Path):
            return read_bytes(self.image, name=self.where)
        return self.image if isinstance(self.image, bytes) else self.image()

    def content_hash(self) -> bytes:
        """The same for copies of an image: a hash of its pixels, or of the size and the start of its file."""
        if isinstance(self.image, Path):
            try:
                with self.image.open("rb") as file:
                    content = f"{self.image.stat().st_size} ".encode() + file.read(_HASHED)
            except OSError:
                content = str(self.image).encode()  # reading it raises the error
        else:
            content = self.content()
        return hashlib.blake2b(content, digest_size=8).digest()
