"""Codes and alignments of a data set, computed once and kept on disk."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from omni.data.loading.row_file import RowFile
from omni.data.talker.encoding import EncodedSpeech
from omni.files import fill_once

_RECORD = np.dtype([("frames", "<i8"), ("score", "<f4"), ("speed", "<f4"), ("fault", "u1")])
_BATCH_SECONDS, _BATCH_ROWS = 60.0, 32  # encoded together, padding counted


@final
class CodesFile(RowFile):
    """Codes, advances and the quality of their alignment, memory-mapped.

    One process writes while others wait for it. Writing resumes where it was interrupted.

    Rows are stored in the order of their durations, so that those encoded together are of similar length.

    Args:
        stem: The files' path without suffix.
        durations: Seconds of each row.
        num_codebooks: Codes of a frame.
    """

    def __init__(self, stem: Path, durations: np.ndarray, num_codebooks: int):
        files = (stem.with_suffix(".codes"), stem.with_suffix(".aligned"))
        super().__init__(*files, len(durations), width=num_codebooks + 1, dtype=np.int16, record=_RECORD)
        self.durations = durations
        self.order = np.argsort(durations, kind="stable")
        self.positions = np.argsort(self.order)  # of the rows in the file

    def write(self, encode: Callable[[Sequence[int]], list[EncodedSpeech]], *, label: str) -> None:
        """Computes the missing rows, or waits for the process that does.

        Args:
            encode: Encodes rows of these numbers.
            label: Of the progress bar.

        Raises:
            UserError: If the files cannot be written.
        """
        files = (self.data, self.records_file)
        fill_once(
            files, complete=lambda: self.complete, fill=lambda files: self._fill(*files, encode=encode, label=label)
        )

    def _fill(
        self, data: Path, records: Path, *, encode: Callable[[Sequence[int]], list[EncodedSpeech]], label: str
    ) -> None:
        def compute(first: int) -> Iterator[tuple[np.ndarray, tuple[float, float, int]]]:
            with tqdm(
                total=self.num_rows, initial=first, desc=f"codes of {label}", leave=False, disable=None
            ) as progress:
                for rows in self._batches(first):
                    for row in encode(rows.tolist()):
                        frames = np.concatenate((row.codes, row.advances[:, None]), axis=1)
                        yield frames, (row.score, row.speed, row.fault)
                    progress.update(len(rows))

        self.append_missing(data, records, compute)

    def _batches(self, done: int) -> list[np.ndarray]:
        """The rows that are missing, a batch at a time."""
        batches, first = [], done
        for last in range(done, len(self.order)):
            padded = self.durations[self.order[last]] * (last + 1 - first)
            if last > first and (padded > _BATCH_SECONDS or last - first >= _BATCH_ROWS):
                batches.append(self.order[first:last])
                first = last
        return [*batches, self.order[first:]] if first < len(self.order) else batches

    @cached_property
    def records(self) -> np.ndarray:
        """(rows,) frames, score, speed and fault of each row."""
        return self.read_records()[self.positions]

    def read(self, row: int) -> tuple[Tensor, Tensor]:
        """The codes (frames, codebooks) and advances (frames,) of a row, int64."""
        both = torch.from_numpy(self.read_array(self.positions[row]).astype(np.int64))
        return both[:, :-1], both[:, -1]
