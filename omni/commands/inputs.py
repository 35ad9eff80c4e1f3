"""Files named on the command line; `-` is standard input."""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from omni.errors import UserError
from omni.media.container import AUDIO_SUFFIXES, PipedAudio


def read_text(file: str) -> str:
    """The content of a UTF-8 file, or of standard input.

    Raises:
        UserError: If it cannot be read or is not UTF-8.
    """
    name = "standard input" if file == "-" else file
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 (byte {error.start})") from error


def media_source(file: str) -> Path | bytes:
    """The file's path; or the content of a pipe, or of standard input for `-`, which can be read only once.

    Raises:
        UserError: If a pipe cannot be read.
    """
    if file == "-":
        return PipedAudio(sys.stdin.buffer.read(), "standard input")
    path = Path(file)
    try:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            return path
        return PipedAudio(path.read_bytes(), file)
    except (OSError, ValueError):  # the reader of files reports what is missing
        return path


def files_of_folders(files: Sequence[str]) -> list[str]:
    """The files, with the audio files in a folder and its folders, sorted, in the place of the folder.

    Raises:
        UserError: If a folder holds no audio.
    """
    found: list[str] = []
    for file in files:
        if file == "-" or not Path(file).is_dir():
            found.append(file)
            continue
        inside = sorted(path for path in Path(file).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        if not inside:
            raise UserError(f"{file} holds no audio: name files, or a folder with {', '.join(AUDIO_SUFFIXES[:4])}, ...")
        found += map(str, inside)
    return found


@contextmanager
def reported_errors() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yields a context for each of several files: its `UserError` is printed, and the exit code is 2 at the end.

    Raises:
        SystemExit: With code 2, if there was one.
    """
    failed = False

    @contextmanager
    def one() -> Iterator[None]:
        nonlocal failed
        try:
            yield
        except UserError as error:
            print(f"omni: {error}", file=sys.stderr)
            failed = True

    yield one
    if failed:
        raise SystemExit(2)
