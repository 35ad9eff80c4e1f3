"""Spectrograms of a whole data set, computed once and kept on disk."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SILENCE, LogMel

MARGIN = 2  # frames beyond either end that still hear something of it: windows reach over 3.2 frames


def in_silence(audio: Tensor, lead: int = 0, tail: int = 0) -> Tensor:
    """An utterance (samples,) with so many frames of silence before and behind; the last frame is filled up."""
    filled = -len(audio) % HOP_LENGTH
    return F.pad(audio, (lead * HOP_LENGTH, filled + tail * HOP_LENGTH))


def mel_of(log_mel: LogMel, audio: Tensor, lead: int = 0, tail: int = 0) -> Tensor:
    """The spectrogram of an utterance with so many frames of silence before and behind: (frames, num_mels)."""
    return log_mel(in_silence(audio, lead, tail))


def between_silences(mel: Tensor, lead: int, tail: int) -> Tensor:
    """The same from a spectrogram that was made with `MARGIN` frames of silence on both sides."""
    mel = mel[max(0, MARGIN - lead) : len(mel) - max(0, MARGIN - tail)]
    return F.pad(mel, (0, 0, max(0, lead - MARGIN), max(0, tail - MARGIN)), value=SILENCE)


@final
class FeatureFile:
    """Spectrograms in one file, memory-mapped; with `MARGIN` frames of silence on both sides of each.

    Writing is taken up again where it was cut. Rows that cannot be read have no frames, and the reason is kept.

    Args:
        stem: The files' path without ending.
        num_mels: Mel filters.
    """

    def __init__(self, stem: Path, num_mels: int):
        self.num_mels = num_mels
        self.data = stem.with_name(stem.name + ".mels")
        self.frames_file = stem.with_name(stem.name + ".frames")  # int64, one a row: rows that are done
        self.record = stem.with_name(stem.name + ".json")  # written last
        self._mels: np.memmap | None = None
        self._starts: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return all(file.is_file() for file in (self.record, self.data, self.frames_file))

    @property
    def unreadable(self) -> dict[int, str]:
        """Rows that could not be read, and why."""
        return {int(row): why for row, why in json.loads(self.record.read_text(encoding="utf-8")).items()}

    def write(self, num_rows: int, read: Callable[[int], Tensor], *, label: str) -> None:
        """Computes what is missing.

        Args:
            num_rows: Number of rows.
            read: The audio of a row; raises UserError where it cannot be read.
            label: Of the progress bar.

        Raises:
            UserError: If no row can be read.
        """
        self.data.parent.mkdir(parents=True, exist_ok=True)
        log_mel, unreadable = LogMel(self.num_mels), {}
        done = np.fromfile(self.frames_file, dtype=np.int64) if self.frames_file.is_file() else np.zeros(0, np.int64)
        with self.data.open("ab") as data, self.frames_file.open("ab") as frames_file:
            data.truncate(int(done.sum()) * self.num_mels * 4)
            frames_file.truncate(len(done) * 8)
            for row in tqdm(range(num_rows), desc=f"features of {label}", initial=0, leave=False, disable=None):
                if row < len(done):
                    if not done[row]:
                        unreadable[row] = "could not be read"
                    continue
                try:
                    mel = mel_of(log_mel, read(row), MARGIN, MARGIN).numpy()
                except UserError as error:
                    unreadable[row], mel = str(error), np.zeros((0, self.num_mels), np.float32)
                    rank_zero_warn(f"left out of {label}: {error}")
                data.write(np.ascontiguousarray(mel).tobytes())
                data.flush()
                frames_file.write(np.int64(len(mel)).tobytes())
                frames_file.flush()
        if len(unreadable) == num_rows:
            raise UserError(f"no row of {label} can be read; the first: {unreadable[0]}")
        part = self.record.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(unreadable), encoding="utf-8")
        os.replace(part, self.record)

    def read(self, row: int) -> Tensor:
        """A row's spectrogram with its margins: (frames, num_mels)."""
        if self._mels is None or self._starts is None:
            frames = np.fromfile(self.frames_file, dtype=np.int64)
            self._starts = np.concatenate([[0], frames.cumsum()])
            self._mels = np.memmap(self.data, np.float32, mode="r", shape=(int(self._starts[-1]), self.num_mels))
        return torch.from_numpy(np.array(self._mels[self._starts[row] : self._starts[row + 1]]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mels": None, "_starts": None}
