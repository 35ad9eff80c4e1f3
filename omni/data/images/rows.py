"""Rows: what a data set says of one image, and what happens to those that cannot be used."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from omni.errors import UserError
from omni.media.images import read_bytes, read_image

_BEGINNING = 2**16  # bytes of a file that tell it from others of its size

Labels = dict[str, str | tuple[str, ...]]  # by attribute; several values, or none, where it is a tuple


@dataclass(slots=True)
class ImageRow:
    """An image, and what is known of it.

    Attributes:
        where: What to call it in messages: its file, and the row that names it.
        image: Its file, the content of its file, what reads that content, or pixels (1 or 3, height, width) of uint8.
        labels: What it is classified as.
        captions: Texts that describe it.
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
        """What its file holds, or its pixels.

        Raises:
            UserError: If the file cannot be read.
        """
        if isinstance(self.image, Tensor):
            return self.image.numpy().tobytes()
        if isinstance(self.image, Path):
            return read_bytes(self.image, name=self.where)
        return self.image if isinstance(self.image, bytes) else self.image()

    def identity(self) -> bytes:
        """The same for copies of an image: a digest of its pixels, or of its file's size and beginning."""
        if isinstance(self.image, Path):
            try:
                with self.image.open("rb") as file:
                    content = f"{self.image.stat().st_size} ".encode() + file.read(_BEGINNING)
            except OSError:
                content = str(self.image).encode()  # the reader will say what is wrong with it
        else:
            content = self.content()
        return hashlib.blake2b(content, digest_size=8).digest()


class Faults:
    """What is wrong with rows: the first ends everything, or all are left out and counted.

    Args:
        skip: Whether to leave them out.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []

    def add(self, error: UserError) -> None:
        """Notes a row that cannot be used.

        Raises:
            UserError: The same, unless rows may be left out.
        """
        if not self.skip:
            raise UserError(f"{error} (data.init_args.bad_images: skip leaves such rows out)") from error
        self.messages.append(str(error))

    def report(self, split: str) -> None:
        """Warns of what was left out."""
        if self.messages:
            rank_zero_warn(f"{split}: {len(self.messages)} rows are left out, the first: {self.messages[0]}")
