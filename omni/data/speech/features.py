"""Spectrograms of a whole data set, computed once and kept on disk."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from omni.errors import UserError
from omni.files import fill_once, finish, open_for_update, write_text
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

    One process writes; others that want to wait for it. Writing resumes where it was interrupted. Rows that cannot be
    read have no frames, and the reason is kept.

    Args:
        stem: The files' path without ending.
        num_mels: Mel filters.
        num_rows: Number of rows.
    """

    def __init__(self, stem: Path, num_mels: int, num_rows: int):
        self.num_mels, self.num_rows = num_mels, num_rows
        self.data = stem.with_name(stem.name + ".mels")
        self.frames_file = stem.with_name(stem.name + ".frames")  # int64, one a row: rows that are done
        self.record = stem.with_name(stem.name + ".json")  # written last
        self._mels: np.memmap | None = None
        self._starts: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether all rows are there: files of the sizes that they must have."""
        if not all(file.is_file() for file in (self.record, self.data, self.frames_file)):
            return False
        frames = np.fromfile(self.frames_file, dtype=np.int64)
        return len(frames) == self.num_rows and self.data.stat().st_size == self._size(frames)

    @property
    def unreadable(self) -> dict[int, str]:
        """Rows that could not be read, and why."""
        return {int(row): why for row, why in json.loads(self.record.read_text(encoding="utf-8")).items()}

    def write(self, read: Callable[[int], Tensor], *, label: str) -> None:
        """Computes what is missing, or waits for the process that does.

        Args:
            read: The audio of a row; raises UserError where it cannot be read.
            label: Of the progress bar.

        Raises:
            UserError: If no row can be read, or the files cannot be written.
        """
        files = (self.data, self.frames_file, self.record)
        fill_once(files, complete=lambda: self.complete, fill=lambda files: self._fill(*files, read=read, label=label))

    def _fill(self, data: Path, frames_file: Path, record: Path, *, read: Callable[[int], Tensor], label: str) -> None:
        log_mel = LogMel(self.num_mels)
        with open_for_update(data) as mels, open_for_update(frames_file) as counts:
            frames = self._done(data, frames_file)
            unreadable = {row: "could not be read" for row, count in enumerate(frames) if not count}
            mels.seek(self._size(frames))
            counts.seek(len(frames) * 8)
            first = len(frames)
            for row in tqdm(range(first, self.num_rows), f"features of {label}", leave=False, disable=None):
                try:
                    mel = mel_of(log_mel, read(row), MARGIN, MARGIN).numpy()
                except UserError as error:
                    unreadable[row], mel = str(error), np.zeros((0, self.num_mels), np.float32)
                    rank_zero_warn(f"left out of {label}: {error}")
                mels.write(np.ascontiguousarray(mel).tobytes())
                mels.flush()  # first: a row counts once its frames are there
                counts.write(np.int64(len(mel)).tobytes())
                counts.flush()
                frames.append(len(mel))
            finish(mels, self._size(frames))
            finish(counts, len(frames) * 8)
        if np.fromfile(frames_file, dtype=np.int64).tolist() != frames:
            raise UserError(f"{data} was changed while it was filled: start again, with one process at first")
        if len(unreadable) == self.num_rows:
            raise UserError(f"no row of {label} can be read; the first: {unreadable[0]}")
        write_text(record, json.dumps(unreadable))

    def _size(self, frames: Sequence[int] | np.ndarray) -> int:
        return int(np.sum(frames, dtype=np.int64)) * self.num_mels * 4

    def _done(self, data: Path, frames_file: Path) -> list[int]:
        """Frames of the rows that an interrupted process has written, as far as they are there."""
        frames = np.fromfile(frames_file, dtype=np.int64)
        if len(frames) > self.num_rows:  # of several processes, before they waited for each other
            return []
        there = frames.cumsum() * self.num_mels * 4 <= data.stat().st_size
        return frames[there].tolist()

    def read(self, row: int) -> Tensor:
        """A row's spectrogram with its margins: (frames, num_mels)."""
        if self._mels is None or self._starts is None:
            frames = np.fromfile(self.frames_file, dtype=np.int64)
            self._starts = np.concatenate([[0], frames.cumsum()])
            self._mels = np.memmap(self.data, np.float32, mode="r", shape=(int(self._starts[-1]), self.num_mels))
        return torch.from_numpy(np.array(self._mels[self._starts[row] : self._starts[row + 1]]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mels": None, "_starts": None}
