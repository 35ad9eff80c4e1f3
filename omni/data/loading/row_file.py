"""Arrays of a data set, one a row and of different lengths, computed once and kept on disk."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from omni.errors import UserError
from omni.files import finish, open_for_update


class RowFile:
    """Arrays (frames, width) in a memory-mapped file, and a record for each in a second file.

    Args:
        data: File of the arrays.
        records_file: File of the records.
        num_rows: Number of rows.
        width: Second dimension of the arrays.
        dtype: Of the arrays.
        record: Of the records; its first field is the number of frames.
    """

    def __init__(
        self, data: Path, records_file: Path, num_rows: int, *, width: int, dtype: DTypeLike, record: np.dtype
    ):
        self.data, self.records_file, self.num_rows = data, records_file, num_rows
        self.width, self.dtype, self.record = width, np.dtype(dtype), record
        self._arrays: np.memmap | None = None
        self._starts = np.zeros(0, np.int64)

    @property
    def complete(self) -> bool:
        """Whether all rows are stored: the files have their final sizes."""
        if not self.num_rows or not self.data.is_file() or not self.records_file.is_file():
            return False
        if self.records_file.stat().st_size != self.num_rows * self.record.itemsize:
            return False
        return self.data.stat().st_size == self._size(self.read_records())

    def append_missing(
        self, data: Path, records_file: Path, compute: Callable[[int], Iterable[tuple[np.ndarray, tuple[Any, ...]]]]
    ) -> np.ndarray:
        """Continues where an interrupted process has stopped.

        Args:
            data: File to write the arrays to.
            records_file: File to write the records to.
            compute: Yields array and record, without the number of frames, of each row from the given one on.

        Returns:
            The records of all rows.

        Raises:
            UserError: If another process has changed the files meanwhile.
        """
        with open_for_update(data) as arrays, open_for_update(records_file) as records:
            written = [self._done(data, records_file)]
            arrays.seek(self._size(written[0]))
            records.seek(written[0].nbytes)
            for array, record in compute(len(written[0])):
                arrays.write(np.ascontiguousarray(array, self.dtype).tobytes())
                arrays.flush()  # before the record that counts its frames
                written.append(np.array([(len(array), *record)], self.record))
                records.write(written[-1].tobytes())
                records.flush()
            whole = np.concatenate(written)
            finish(arrays, self._size(whole))
            finish(records, whole.nbytes)
        if records_file.read_bytes() != whole.tobytes():
            raise UserError(f"{data} was changed while it was filled: start again, with a single process first")
        return whole

    def read_records(self) -> np.ndarray:
        """(rows,) the records, in the order of the file."""
        return np.fromfile(self.records_file, self.record)

    def read_array(self, position: int) -> np.ndarray:
        """(frames, width) the array at a position in the file."""
        if self._arrays is None:
            frames = self.read_records()["frames"]
            self._starts = np.concatenate([[0], frames.cumsum()])
            self._arrays = np.memmap(self.data, self.dtype, mode="r", shape=(int(self._starts[-1]), self.width))
        return np.array(self._arrays[self._starts[position] : self._starts[position + 1]])

    def _size(self, records: np.ndarray) -> int:
        return int(records["frames"].sum()) * self.width * self.dtype.itemsize

    def _done(self, data: Path, records_file: Path) -> np.ndarray:
        """The records of the rows that an interrupted process has written."""
        records = np.fromfile(records_file, self.record, count=records_file.stat().st_size // self.record.itemsize)
        if len(records) > self.num_rows:  # written by several processes without a lock
            return records[:0]
        return records[records["frames"].cumsum() * self.width * self.dtype.itemsize <= data.stat().st_size]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": None}  # pickling a memory map would copy the file
