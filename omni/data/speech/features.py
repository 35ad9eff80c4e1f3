"""Spectrograms of a data set, computed once and kept on disk."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from omni.data.loading.row_file import RowFile
from omni.errors import UserError
from omni.files import fill_once, write_text
from omni.media.audio import HOP_LENGTH, LogMel
from omni.media.mel_scale import SILENCE

MARGIN = 2  # frames beyond either end whose windows, of 3.2 frames, still overlap the utterance

_RECORD = np.dtype([("frames", "<i8")])


def in_silence(audio: Tensor, lead: int = 0, tail: int = 0, *, hop_length: int = HOP_LENGTH) -> Tensor:
    """An utterance (samples,) with `lead` and `tail` frames of silence; its last frame is padded."""
    filled = -len(audio) % hop_length
    return F.pad(audio, (lead * hop_length, filled + tail * hop_length))


def mel_of(log_mel: LogMel, audio: Tensor, lead: int = 0, tail: int = 0) -> Tensor:
    """The spectrogram of an utterance with `lead` and `tail` frames of silence: (frames, num_mels)."""
    return log_mel(in_silence(audio, lead, tail))


def between_silences(mel: Tensor, lead: int, tail: int) -> Tensor:
    """The result of `mel_of` from a spectrogram with `MARGIN` frames of silence on both sides."""
    mel = mel[max(0, MARGIN - lead) : len(mel) - max(0, MARGIN - tail)]
    return F.pad(mel, (0, 0, max(0, lead - MARGIN), max(0, tail - MARGIN)), value=SILENCE)


@final
class FeatureFile(RowFile):
    """Spectrograms in one file, memory-mapped; with `MARGIN` frames of silence on both sides of each.

    One process writes while others wait for it. Writing resumes where it was interrupted. Rows that cannot be read have
    no frames, and their errors are stored.

    Args:
        stem: The files' path without suffix.
        num_mels: Mel filters.
        num_rows: Number of rows.
    """

    def __init__(self, stem: Path, num_mels: int, num_rows: int):
        files = (stem.with_name(stem.name + ".mels"), stem.with_name(stem.name + ".frames"))
        super().__init__(*files, num_rows, width=num_mels, dtype=np.float32, record=_RECORD)
        self.errors_file = stem.with_name(stem.name + ".json")  # written last

    @property
    def complete(self) -> bool:
        return self.errors_file.is_file() and super().complete

    @property
    def unreadable(self) -> dict[int, str]:
        """The rows that cannot be read, and why."""
        return {int(row): error for row, error in json.loads(self.errors_file.read_text(encoding="utf-8")).items()}

    def write(self, read: Callable[[int], Tensor], *, label: str) -> None:
        """Computes the missing rows, or waits for the process that does.

        Args:
            read: Returns the audio of a row; raises UserError if it cannot be read.
            label: Of the progress bar.

        Raises:
            UserError: If no row can be read, or the files cannot be written.
        """
        files = (self.data, self.records_file, self.errors_file)
        fill_once(files, complete=lambda: self.complete, fill=lambda files: self._fill(*files, read=read, label=label))

    def _fill(self, data: Path, records: Path, errors_file: Path, *, read: Callable[[int], Tensor], label: str) -> None:
        log_mel, errors = LogMel(self.width), {}

        def compute(first: int) -> Iterator[tuple[np.ndarray, tuple[()]]]:
            for row in tqdm(range(first, self.num_rows), f"features of {label}", leave=False, disable=None):
                try:
                    yield mel_of(log_mel, read(row), MARGIN, MARGIN).numpy(), ()
                except UserError as error:
                    errors[row] = str(error)
                    yield np.zeros((0, self.width), np.float32), ()

        frames = self.append_missing(data, records, compute)["frames"]
        unreadable = {row: errors.get(row, "could not be read") for row in np.flatnonzero(frames == 0).tolist()}
        if len(unreadable) == self.num_rows:
            raise UserError(f"no row of {label} can be read; the first: {unreadable[0]}")
        write_text(errors_file, json.dumps(unreadable))

    def read(self, row: int) -> Tensor:
        """The spectrogram of a row with its margins: (frames, num_mels)."""
        return torch.from_numpy(self.read_array(row))
