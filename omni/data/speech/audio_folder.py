"""Folders of recordings, of which one is drawn at a time."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.container import AUDIO_SUFFIXES

_KEPT = 64  # recordings in memory: 240 MB of 60 s each
_ANNOUNCED = 10  # files that are named one by one; after these, every hundredth is


@final
class AudioFolder:
    """The recordings of a folder and its subfolders. Files that cannot be read are left out, named and counted.

    All forked workers of a data loader count together.

    Args:
        folder: The folder.
        option: The option that names it, for errors.
        read: Reads a file: (samples,); raises UserError if it cannot be used.
        what: What it holds, for errors.
        select: Selects audio files of the folder, by default all.

    Attributes:
        files: Paths in sorted order.

    Raises:
        UserError: If there are none.
    """

    def __init__(
        self,
        folder: str,
        option: str,
        read: Callable[[Path], Tensor],
        *,
        what: str = "audio",
        select: Callable[[Sequence[Path]], Sequence[Path]] = list,
    ) -> None:
        path = Path(folder).expanduser()
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
        self.folder, self.option, self._read_file = folder, option, read
        self.files = tuple(select(found))
        if not self.files:
            raise UserError(f"{option}: {folder} " + (f"holds no {what}" if path.is_dir() else "does not exist"))
        self._unreadable = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()
        self._recording = lru_cache(_KEPT)(self._read)

    def check(self) -> None:
        """Reads files up to the first that can be used.

        Raises:
            UserError: If there is none.
        """
        first = None
        for file in self.files:
            try:
                self._read_file(file)
            except UserError as error:
                first = first or error
            else:
                return
        raise self._none(str(first))

    def draw(self, rng: np.random.Generator) -> Tensor:
        """A random recording (samples,); the next one by name where it cannot be read.

        So the recording depends on `rng` and the files only, not on what was read before.

        Raises:
            UserError: If no file can be read.
        """
        first = int(rng.integers(len(self.files)))
        for number in range(first, first + len(self.files)):
            recording = self._recording(number % len(self.files))
            if recording is not None:
                return recording
        raise self._none(f"as {self.files[first]}")

    def _read(self, number: int) -> Tensor | None:
        try:
            return self._read_file(self.files[number])
        except UserError as error:
            if not self._unreadable[number]:
                self._unreadable[number] = True
                self._warn(error, int(self._unreadable.sum()))
            return None

    def _warn(self, error: UserError, count: int) -> None:
        if count <= _ANNOUNCED or count % 100 == 0:
            warnings.warn(f"{self.option}: left out: {error} ({count} of {len(self.files)} files so far)", stacklevel=2)

    def _none(self, reason: str) -> UserError:
        return UserError(f"{self.option}: none of the {len(self.files)} files of {self.folder} can be read: {reason}")
