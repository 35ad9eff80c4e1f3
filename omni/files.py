"""Files that several processes may write: replaced atomically, or written under a lock."""

import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from omni.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Errors of writing where there is no room: a full disk, a quota, a limit of the size of files.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# Errors of flock on file systems without locks: NFS without its lock service, Lustre mounted without `flock`.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def private(path: Path) -> Path:
    """A temporary path in the same folder, unique across processes and machines."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


@contextmanager
def private_copy(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yields a temporary path, which replaces `path` at the end and is removed on an error.

    Readers see the old file or the new one, never a part. The last of several writers wins.

    Args:
        path: The file to replace; its folder is made if it is missing.
        sync: Whether to flush the content to the disk first (fsync), so that it survives a power failure. False for
            many small files that are cheap to write again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = private(path)
    try:
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` once it is complete; see `private_copy`."""
    with private_copy(path, sync=sync) as part, part.open("wb") as file:
        yield file


def check_free(paths: Iterable[Path], *, overwrite: bool, is_ours: Callable[[Path], bool] = lambda _: False) -> None:
    """Checks that no file of the user's would be replaced.

    Args:
        paths: Files that will be written.
        overwrite: Whether the user allows it.
        is_ours: Whether an existing file was written by omni, so that it may be replaced.

    Raises:
        UserError: If such a file exists, and omni did not write it.
    """
    for path in () if overwrite else paths:
        if path.exists() and not is_ours(path):
            raise UserError(f"{path} exists, and may not be omni's: name another --out, or replace it with --overwrite")


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8; see `atomic_write`. Lone surrogates become `\\udXXX`, their escape in JSON."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a file lock while the body runs; prints a line while it waits for another process.

    The lock is released when the process ends; the file stays.

    Args:
        path: The lock file; its folder is made if it is missing.

    Yields:
        Whether the lock is held. False if the file system has no locks (Windows, some network mounts): the body must
        then write to temporary files.
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
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def fill_once(files: Sequence[Path], *, complete: Callable[[], bool], fill: Callable[[Sequence[Path]], None]) -> None:
    """Writes shared files in one process; the others wait and use them.

    Args:
        files: In one folder; the last is written last and completes them.
        complete: Whether all of them exist and are complete.
        fill: Writes the files that it is given. Under the lock these are `files`, which may be partly written; on file
            systems without locks they are temporary ones, which replace `files` at the end.

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
    """Opens a file for reading and writing without truncation; makes it if it is missing."""
    path.touch()
    return path.open("r+b")


def finish(file: BinaryIO, size: int) -> None:
    """Truncates a file to a size in bytes and flushes it to the disk (fsync)."""
    file.flush()
    file.truncate(size)
    os.fsync(file.fileno())
