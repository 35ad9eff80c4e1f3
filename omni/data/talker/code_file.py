"""Codes and alignments of a whole data set, computed once and kept on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from omni.data.talker.encoding import Encoded
from omni.errors import UserError
from omni.files import fill_once, finish, open_for_update

_RECORD = np.dtype([("frames", "<i8"), ("score", "<f4"), ("speed", "<f4"), ("fault", "u1")])
_BATCH_SECONDS, _BATCH_ROWS = 60.0, 32  # encoded together, padding counted


@final
class CodesFile:
    """Codes, advances and what was found about their alignment, memory-mapped.

    One process writes; others that want to wait for it. Writing resumes where it was interrupted.

    Rows lie in the order of their durations, so that those encoded together are of about the same length.

    Args:
        stem: The files' path without ending.
        durations: Seconds of each row.
        num_codebooks: Codes of a frame.
    """

    def __init__(self, stem: Path, durations: np.ndarray, num_codebooks: int):
        self.data = stem.with_suffix(".codes")
        self.records_file = stem.with_suffix(".aligned")
        self.durations, self.num_codebooks = durations, num_codebooks
        self.order = np.argsort(durations, kind="stable")
        self._records: np.ndarray | None = None
        self._codes: np.memmap | None = None
        self._starts: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether all rows are there: files of the sizes that they must have."""
        if not self.data.is_file() or not self.records_file.is_file():
            return False
        if self.records_file.stat().st_size != len(self.order) * _RECORD.itemsize or not len(self.order):
            return False
        return self.data.stat().st_size == self._size(np.fromfile(self.records_file, dtype=_RECORD))

    def write(self, encode: Callable[[Sequence[int]], list[Encoded]], *, label: str) -> None:
        """Computes what is missing, or waits for the process that does.

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
        self, data: Path, records_file: Path, *, encode: Callable[[Sequence[int]], list[Encoded]], label: str
    ) -> None:
        with open_for_update(data) as codes, open_for_update(records_file) as found:
            done = self._done(data, records_file)
            codes.seek(self._size(done))
            found.seek(done.nbytes)
            records, label = [done], f"codes of {label}"
            with tqdm(total=len(self.order), initial=len(done), desc=label, leave=False, disable=None) as bar:
                for rows in self._batches(len(done)):
                    for row in encode(rows.tolist()):
                        frames = np.concatenate((row.codes, row.advances[:, None]), axis=1)
                        codes.write(np.ascontiguousarray(frames, np.int16).tobytes())
                        codes.flush()  # first: a record counts the frames that are there
                        records.append(np.array([(len(frames), row.score, row.speed, row.fault)], _RECORD))
                        found.write(records[-1].tobytes())
                        found.flush()
                    bar.update(len(rows))
            written = np.concatenate(records)
            finish(codes, self._size(written))
            finish(found, written.nbytes)
        if records_file.read_bytes() != written.tobytes():
            raise UserError(f"{data} was changed while it was filled: start again, with one process at first")

    def _size(self, records: np.ndarray) -> int:
        return int(records["frames"].sum()) * (self.num_codebooks + 1) * 2

    def _done(self, data: Path, records_file: Path) -> np.ndarray:
        """Records of the rows that an interrupted process has written, as far as their codes are there."""
        whole = records_file.stat().st_size // _RECORD.itemsize
        records = np.fromfile(records_file, dtype=_RECORD, count=whole)
        if len(records) > len(self.order):  # of several processes, before they waited for each other
            return records[:0]
        there = records["frames"].cumsum() * (self.num_codebooks + 1) * 2 <= data.stat().st_size
        return records[there]

    def _batches(self, done: int) -> list[np.ndarray]:
        """The rows that are left."""
        batches, first = [], done
        for last in range(done, len(self.order)):
            padded = self.durations[self.order[last]] * (last + 1 - first)
            if last > first and (padded > _BATCH_SECONDS or last - first >= _BATCH_ROWS):
                batches.append(self.order[first:last])
                first = last
        return [*batches, self.order[first:]] if first < len(self.order) else batches

    @property
    def records(self) -> np.ndarray:
        """What was found about each row: frames, score, speed, fault."""
        if self._records is None:
            self._records = np.zeros(len(self.order), _RECORD)
            self._records[self.order] = np.fromfile(self.records_file, dtype=_RECORD)
        return self._records

    def read(self, row: int) -> tuple[Tensor, Tensor]:
        """A row's codes (frames, codebooks) and advances (frames,), int64."""
        if self._codes is None or self._starts is None:
            frames = self.records["frames"][self.order]
            self._starts = np.zeros(len(frames), np.int64)
            self._starts[self.order] = frames.cumsum() - frames
            shape = (int(frames.sum()), self.num_codebooks + 1)
            self._codes = np.memmap(self.data, np.int16, mode="r", shape=shape)
        start = self._starts[row]
        both = torch.from_numpy(self._codes[start : start + self.records["frames"][row]].astype(np.int64))
        return both[:, :-1], both[:, -1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_codes": None, "_starts": None}
