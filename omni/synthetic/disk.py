"""Disk: whether files are there as they were written, and what tells ours from others."""

import hashlib
from pathlib import Path

from omni.errors import UserError


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_foreign(path: Path) -> None:
    """Keep what somebody else wrote: rows are overwritten only where the first of them is the world's."""
    if not path.exists():
        return
    with path.open("rb") as file:
        first = file.readline()
    if b'"id": "world-' not in first:
        raise UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")


def whole(folder: Path, split: str, size: int | None) -> bool:
    """Whether every file that `SPLIT.sha256` lists is there, as it was written; `size` of them, where that is told."""
    expected = checksums(folder, split)
    return size in (None, len(expected)) and all(
        (folder / name).is_file() and digest(folder / name) == checksum for name, checksum in expected.items()
    )


def checksums(folder: Path, split: str) -> dict[str, str]:
    """File -> SHA-256, as noted when all was written."""
    try:
        lines = (folder / f"{split}.sha256").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
