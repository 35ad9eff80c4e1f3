"""JSON lines: files with one JSON object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni.errors import UserError


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
    """The rows of a file, blank lines left out.

    Yields:
        The row's name in messages, `FILE: row NUMBER`, and the row, or why it cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                where = f"{path}: row {number}"
                yield where, _parsed(line, where)


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
    """The rows of a file with one list of JSON objects; see `jsonl_rows`."""
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield str(path), UserError(f"{path}: byte {error.start} is not UTF-8: convert the file to UTF-8")
        return
    except (ValueError, RecursionError) as error:
        yield str(path), UserError(f"{path}: not JSON ({error}): correct the file")
        return
    if not isinstance(rows, list):
        yield str(path), UserError(f"{path}: a {type(rows).__name__}, not a list: write a list of JSON objects")
        return
    for number, row in enumerate(rows, start=1):
        where = f"{path}: row {number}"
        kind = type(row).__name__
        yield where, row if isinstance(row, dict) else UserError(f"{where}: a {kind}, not an object: correct the row")


def _parsed(line: bytes, where: str) -> dict[str, Any] | UserError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return UserError(f"{where}: byte {error.start} is not UTF-8: convert the file to UTF-8")
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        return UserError(f"{where}: not JSON ({reason}): correct or remove the row")
    if not isinstance(row, dict):
        return UserError(f"{where}: a {type(row).__name__}, not an object: write one JSON object a line")
    return row
