"""Files named on the command line; `-` is standard input."""

import sys
from pathlib import Path

from omni.errors import UserError


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
    """The file's path, or the bytes of standard input."""
    return sys.stdin.buffer.read() if file == "-" else Path(file)
