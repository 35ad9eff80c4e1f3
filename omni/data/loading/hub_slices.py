"""Some rows of a data set of the Hub, read over the network once and stored."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, final

from tqdm import tqdm

from omni.data.loading.hub_errors import hub_errors
from omni.errors import UserError
from omni.files import locked, private_copy, write_text

_PART = 256  # rows of a file; an interrupted download resumes after the last complete one


@final
class SliceFolder:
    """Rows of a stream in a folder of Arrow files, filled at first use.

    Args:
        parent: Folder of all slices.
        key: What the rows are, for the folder's name.
        name: Of the data set, for messages.
        stream: Opens the stream; returns a `datasets.IterableDataset` and the version of the data set.
    """

    def __init__(self, parent: Path, key: Sequence[str], name: str, stream: Callable[[], tuple[Any, str]]):
        self.folder = parent / hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:32]
        self.name, self.stream = name, stream

    @property
    def complete(self) -> bool:
        """Whether all rows are stored."""
        return self._summary.is_file()

    @cached_property
    def version(self) -> str:
        """The version of the data set that the rows are of."""
        self.fill()
        return str(json.loads(self._summary.read_text(encoding="utf-8"))["version"])

    def table(self) -> Any:
        """The rows as a `datasets.Dataset`, mapped from the disk.

        Raises:
            UserError: If they cannot be read over the network, or there is no network.
        """
        from datasets import Dataset, concatenate_datasets

        self.fill()
        with hub_errors(self.name):
            return concatenate_datasets([Dataset.from_file(str(part)) for part in self._parts()])

    def fill(self) -> None:
        """Stores the rows that are missing; a part that is complete is not read again, unless the data set changed."""
        if self.complete:
            return
        with hub_errors(self.name), locked(self.folder.with_suffix(".lock")):
            if self.complete:
                return
            rows, version = self.stream()
            self._keep_parts_of(version)
            number = len(self._parts())
            if number:
                rows = rows.skip(number * _PART)
            total = self._write(rows, number)
            if not total:
                raise UserError(f"{self.name}: holds no row: check START and STOP")
            write_text(self._summary, json.dumps({"rows": total, "version": version, "name": self.name}))

    def _write(self, rows: Any, first: int) -> int:
        """Writes parts from number `first` on; returns the number of rows of all parts."""
        from datasets.arrow_writer import ArrowWriter

        rows = rows if rows.features is not None else rows._resolve_features()
        total, features = first * _PART, rows.features
        batches = rows.iter(batch_size=_PART)
        with tqdm(desc=self.name, initial=total, unit=" rows", disable=None) as bar:
            for number in count(first):
                batch = next(batches, None)
                if batch is None:
                    return total
                size = len(next(iter(batch.values())))
                with private_copy(self._part(number)) as path, ArrowWriter(path=str(path), features=features) as writer:
                    writer.write_batch(batch)
                    writer.finalize()
                total += size
                bar.update(size)
        raise AssertionError  # `count` has no end

    def _keep_parts_of(self, version: str) -> None:
        """Removes parts of another version of the data set."""
        note = self.folder / "version.txt"
        if not note.is_file() or note.read_text(encoding="utf-8") != version:
            for part in self._parts():
                part.unlink()
            write_text(note, version)

    @property
    def _summary(self) -> Path:
        return self.folder / "complete.json"

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06}.arrow"

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("??????.arrow"))
