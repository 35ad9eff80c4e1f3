"""Folders of manifests and media files, written by several processes and resumed after an interruption."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from omni.errors import UserError
from omni.files import atomic_write
from omni.synthetic.pool import in_order
from omni.synthetic.scene import row_id

ORIGIN = "origin.json"
_OWN_FILE = re.compile(r"world-\w+-\d{6,}(-(\d+|answer))?\.(png|wav)|\.world-.*\.part")


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make.

    Attributes:
        seed: Seed of the world.
        split: Name of the split.
        index: Number of the row in its split.
    """

    seed: int
    split: str
    index: int

    @property
    def id(self) -> str:
        """`world-train-000000`: names split and number."""
        return row_id(self.split, self.index)


J = TypeVar("J", bound=Job)


class Row(NamedTuple):
    """A row of a manifest and its media files.

    Attributes:
        content: The row.
        files: Contents of its files, by path inside the folder.
    """

    content: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class MediaFolder:
    """A folder with a manifest `SPLIT.jsonl`, files in `SPLIT/` and their checksums `SPLIT.sha256` for each split.

    Attributes:
        path: The folder.
        splits: Names of all splits that it may hold.
    """

    path: Path
    splits: tuple[str, ...]

    def check_owner(self) -> None:
        """Checks that nothing would be overwritten that is not part of a world.

        Raises:
            UserError: If a manifest or a folder of media files holds something else.
        """
        for split in self.splits:
            check_manifest_owner(self.path / f"{split}.jsonl")
            for file in sorted(self._files(split)):
                if not _OWN_FILE.fullmatch(file.name):
                    raise _foreign(file)

    def write(self, make: Callable[[J], Row], jobs: Sequence[J], *, processes: int, chunk: int) -> list[dict[str, Any]]:
        """Writes all rows and removes what is not among them. Files that exist with the same content are kept.

        Args:
            make: Makes a row; a function that other processes can import.
            jobs: One for each row, split by split. Without any, the folder is removed.
            processes: Number of processes.
            chunk: Number of jobs that a process takes at a time.

        Returns:
            The rows.

        Raises:
            UserError: If a process was killed. What `make` raises is passed on.
        """
        if not jobs:
            self.remove()
            return []
        for split in self.splits:
            (self.path / f"{split}.jsonl").unlink(missing_ok=True)
        rows: dict[str, list[dict[str, Any]]] = {job.split: [] for job in jobs}
        checksums: dict[str, dict[str, str]] = {split: {} for split in rows}
        results = in_order(partial(_store, self.path, make), jobs, processes, chunk)
        progress = tqdm(results, self.path.name, len(jobs), unit=" rows", leave=False, disable=None)
        for job, (content, files) in zip(jobs, progress, strict=True):
            rows[job.split].append(content)
            checksums[job.split] |= files
        for split in self.splits:
            self._discard(split, kept=checksums.get(split, {}))
        for split, contents in rows.items():
            with atomic_write(self.path / f"{split}.sha256", sync=False) as file:
                file.writelines(f"{checksum}  {name}\n".encode() for name, checksum in checksums[split].items())
            write_manifest(self.path / f"{split}.jsonl", contents)
        return [content for contents in rows.values() for content in contents]

    def remove(self) -> None:
        """Removes everything that was written here, and the folder unless it holds something else."""
        for split in self.splits:
            self._discard(split, kept={})
            (self.path / f"{split}.jsonl").unlink(missing_ok=True)
        (self.path / ORIGIN).unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def set_origin(self, origin: dict[str, Any]) -> None:
        """Removes everything if it has another origin, and notes this one in `origin.json`."""
        try:
            same = json.loads((self.path / ORIGIN).read_text(encoding="utf-8")) == origin
        except (FileNotFoundError, ValueError):
            same = False
        if not same:
            self.remove()
        with atomic_write(self.path / ORIGIN, sync=False) as file:
            file.write((json.dumps(origin) + "\n").encode())

    def checksums(self, split: str) -> dict[str, str]:
        """The SHA-256 of each file of a split, as of the last complete run."""
        try:
            lines = (self.path / f"{split}.sha256").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return {}
        return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}

    def is_intact(self, split: str) -> bool:
        """Whether all files in the list of checksums exist and match it."""
        return all(
            (self.path / name).is_file() and sha256(self.path / name) == checksum
            for name, checksum in self.checksums(split).items()
        )

    def _files(self, split: str) -> list[Path]:
        folder = self.path / split
        return [*folder.iterdir()] if folder.is_dir() else []

    def _discard(self, split: str, kept: dict[str, str]) -> None:
        """Removes the files of a split other than `kept`, and what is then empty."""
        for file in self._files(split):
            if _OWN_FILE.fullmatch(file.name) and f"{split}/{file.name}" not in kept:
                file.unlink()
        if (self.path / split).is_dir() and not self._files(split):
            (self.path / split).rmdir()
        if not kept:
            (self.path / f"{split}.sha256").unlink(missing_ok=True)


def _store(folder: Path, make: Callable[[J], Row], job: J) -> tuple[dict[str, Any], dict[str, str]]:
    """Makes a row and writes its files; returns the row and the SHA-256 of each file."""
    row = make(job)
    for name, content in row.files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            with atomic_write(path, sync=False) as file:
                file.write(content)
    return row.content, {name: hashlib.sha256(content).hexdigest() for name, content in row.files.items()}


def write_manifest(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as JSON lines."""
    with atomic_write(path, sync=False) as file:
        file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_manifest_owner(path: Path) -> None:
    """Checks that a manifest, if it exists, was written for a world: the id of its first row says so.

    Raises:
        UserError: If it was not.
    """
    if path.exists():
        with path.open("rb") as file:
            if b'"id": "world-' not in file.readline():
                raise _foreign(path)


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")
