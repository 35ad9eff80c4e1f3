"""Files that several processes may write at once: replaced as a whole, or filled under a lock."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from omni.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What flock answers where a file system has no locks: NFS without its lock service, Lustre mounted without `flock`.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def private(path: Path) -> Path:
    """A name beside `path` that no other process uses, on this or any other machine."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


@contextmanager
def private_copy(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A private path beside `path`, moved to `path` at the end; removed if the body raises.

    Readers see the old file or the new one, never a part of it. Of several writers the last wins.

    Args:
        path: The file to replace. Its folder is made.
        sync: Whether the content is on the disk before the file takes its name, so that it survives a power failure.
            False for many small files that are cheap to make again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = private(path)
    try:
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` once it is complete; see `private_copy`."""
    with private_copy(path, sync=sync) as part, part.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Replaces a file by a text in UTF-8; see `atomic_write`.

    A lone surrogate is written as `\\udXXX`: in JSON that is its escape, and it is read back as it was.
    """
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock while the body runs; waits, and prints so in one line, while another process holds it.

    The lock is released when the process ends, however it ends. The file stays.

    Args:
        path: The lock's file. Its folder is made.

    Yields:
        Whether the lock is held. False where the system or the file system has no locks (Windows, some network
        mounts): the body must then write to private files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        held = _acquire(file.fileno(), path)
        try:
            yield held
        finally:
            if held and fcntl is not None:
                fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _acquire(file: int, path: Path) -> bool:
    if fcntl is None:
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for {path.with_suffix('')}: another process is filling it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def fill_once(files: Sequence[Path], *, complete: Callable[[], bool], fill: Callable[[Sequence[Path]], None]) -> None:
    """Fills files that processes share, in one process at a time; the others wait and use what is there.

    Args:
        files: Of one folder; the last is written last and completes them.
        complete: Whether all of them are there and whole.
        fill: Writes the files that it is given. Under the lock these are `files`, which may hold a part already; where
            the file system has no locks they are private ones, empty, and take the place of `files` at the end.

    Raises:
        UserError: If they cannot be written.
    """
    try:
        with locked(files[0].with_name(f"{files[0].name}.lock")) as held:
            if complete():
                return
            if held:
                fill(files)
                return
            parts = [private(file) for file in files]
            try:
                fill(parts)
                if not complete():  # by another process, meanwhile
                    for part, file in zip(parts, files, strict=True):
                        os.replace(part, file)
            finally:
                for part in parts:
                    part.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{files[0].parent} cannot be written ({why}): make room, or name another folder") from error


def open_for_update(path: Path) -> BinaryIO:
    """A file to read and to write anywhere in it; made if it is missing, never cut short by opening."""
    path.touch()
    return path.open("r+b")


def finish(file: BinaryIO, size: int) -> None:
    """Ends a file at a size, in bytes, and waits until it is on the disk."""
    file.flush()
    file.truncate(size)
    os.fsync(file.fileno())
