"""Documents of text, read one at a time from files and from the Hub."""

import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, final

from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.hub import Columns, HubSplit
from omni.data.loading.jsonl import jsonl_rows
from omni.errors import UserError

_BLOCK = 1 << 24  # bytes of a .txt file that are read at once
_REACH = 4096  # characters before and after a separator that its pattern may look at
_HUB_BATCH = 64  # rows of the Hub that are read at once


class BadLine(UserError):
    """A line of a text file that cannot be read: a part of a document, not one of its own."""


class Documents(ABC):
    """Abstract: a source of documents, always in the same order.

    Attributes:
        name: What messages call it.
    """

    name: str

    @abstractmethod
    def read(self) -> Iterator[str]:
        """All documents that hold more than whitespace.

        Raises:
            UserError: If a document cannot be read; the message names it.
        """

    def rows_or_errors(self) -> Iterator[str | UserError]:
        """All documents, blank ones included where the source keeps them, or the error of each that cannot be read."""
        try:
            yield from self.read()
        except UserError as error:
            yield error

    def stream(self, share: int, shares: int, seed: int) -> Iterator[str]:
        """The documents of one of `shares` disjoint shares; if the source consists of parts, `seed` shuffles those.

        Raises:
            UserError: If a document cannot be read; the message names it.
        """
        return _raised(self.stream_or_errors(share, shares, seed))

    def stream_or_errors(self, share: int, shares: int, seed: int) -> Iterator[str | UserError]:
        """The documents of a share, or the error of each that cannot be read."""
        return islice(_filled(self.rows_or_errors()), share, None, shares)

    @abstractmethod
    def fingerprint(self, *, content: bool) -> str:
        """Identifies the documents by every byte if `content`, otherwise as well as possible without reading them."""


class _File(Documents):
    """Abstract: a file, and the options that it is read with."""

    def __init__(self, path: Path, **options: Any):
        self.name = str(path)
        self.path = path
        self.options = options

    @abstractmethod
    def _rows(self) -> Iterator[str | UserError]:
        """The documents, blank ones included, or the error of each that cannot be read."""

    def rows_or_errors(self) -> Iterator[str | UserError]:
        try:
            yield from self._rows()
        except UserError as error:
            yield error
        except OSError as error:
            yield UserError(f"{self.path}: cannot be read ({error.strerror or error}): check the file")

    def read(self) -> Iterator[str]:
        empty = True
        for row in _raised(_filled(self.rows_or_errors())):
            empty = False
            yield row
        if empty:
            reason = "holds only whitespace" if self.path.stat().st_size else "is empty"
            raise UserError(f"{self.path}: {reason}: leave it out of data.train and data.val, or put text into it")

    def fingerprint(self, *, content: bool) -> str:
        stat = self.path.stat()
        identity = self._sha256 if content else f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        return f"{type(self).__name__} {identity} {json.dumps(self.options)}"

    @cached_property
    def _sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@final
class TextFile(_File):
    """A `.txt` file in UTF-8. Lines that are not are errors, and left out of their document.

    Args:
        path: The file.
        separator: Regular expression of the text between two documents; None: the file is one document.
    """

    def __init__(self, path: Path, *, separator: str | None = None):
        super().__init__(path, separator=separator)

    def _rows(self) -> Iterator[str | UserError]:
        separator, errors = self.options["separator"], []
        blocks = _decoded(self.path, errors)
        texts = ["".join(blocks)] if separator is None else _split(blocks, re.compile(separator, re.MULTILINE))
        for text in texts:
            yield from errors
            errors.clear()
            yield text


@final
class JsonlFile(_File):
    """A `.jsonl` file with the text in `column` of each object."""

    def _rows(self) -> Iterator[str | UserError]:
        for where, row in jsonl_rows(self.path):
            yield row if isinstance(row, UserError) else text_of(row, self.options["column"], where)


@final
class ParquetFile(_File):
    """A `.parquet` file with the text in `column`."""

    def _rows(self) -> Iterator[str | UserError]:
        import pyarrow.parquet  # takes 0.1 s, which no other reader needs

        column, number = self.options["column"], 0
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
        except pyarrow.ArrowException as error:
            raise UserError(f"{self.path}: not a Parquet file ({str(error).splitlines()[0]})") from None
        with file:
            if column not in file.schema_arrow.names:
                raise UserError(
                    f"{self.path}: no column {column!r}, only {file.schema_arrow.names}: set data.text_column"
                )
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield text_of({column: value}, column, f"{self.path}: row {number}")


@final
class HubDocuments(HubSplit, Documents):
    """Documents of the Hub.

    Args:
        entry: See `HubSplit`, as for the next argument.
        split: `train`, `val` or `test`.
        column: Column of the text.
        cache_dir: Folder of downloads.
        streaming: Whether documents are read over the network when they are needed; nothing is stored.
        columns: See `HubSplit`.
    """

    def __init__(
        self,
        entry: str,
        split: str,
        *,
        column: str,
        cache_dir: Path,
        streaming: bool,
        columns: Columns | None = None,
    ):
        super().__init__(entry, split, cache_dir, columns)
        self.column, self.streaming = column, streaming

    def read(self) -> Iterator[str]:
        return _raised(_filled(self.rows_or_errors()))

    def rows_or_errors(self) -> Iterator[str | UserError]:
        return self._texts(self.rows_of(self.open(streaming=self.streaming), _HUB_BATCH))

    def stream_or_errors(self, share: int, shares: int, seed: int) -> Iterator[str | UserError]:
        return _filled(self._texts(self.stream_rows(share, shares, seed, batch_size=_HUB_BATCH)))

    def fingerprint(self, *, content: bool) -> str:
        return f"{self.name} {self.version} {self.columns.get(self.column, self.column)}"

    def _texts(self, rows: Iterator[dict[str, Any]]) -> Iterator[str | UserError]:
        for number, row in enumerate(rows, start=1):
            if self.column not in row:
                raise UserError(f"{self.name}: no column {self.column!r}, only {sorted(row)}: set data.text_column")
            yield text_of(row, self.column, f"{self.name}: row {number}")


@final
class ReadableDocuments(Documents):
    """The documents of a source that can be read; the errors of the others are raised or counted.

    Args:
        source: The documents.
        errors: Of those that cannot be read.
    """

    def __init__(self, source: Documents, errors: RowErrors):
        self.name, self.source, self.errors = source.name, source, errors

    def read(self) -> Iterator[str]:
        empty = True
        for row in _filled(self.source.rows_or_errors()):
            empty = False
            yield from self._readable(iter([row]))
        if empty:
            try:
                yield from self.source.read()  # raises what is wrong with a file without text
            except UserError as error:
                self.errors.add(error)

    def stream(self, share: int, shares: int, seed: int) -> Iterator[str]:
        return self._readable(self.source.stream_or_errors(share, shares, seed))

    def fingerprint(self, *, content: bool) -> str:
        return self.source.fingerprint(content=content)

    def _readable(self, rows: Iterator[str | UserError]) -> Iterator[str]:
        for row in rows:
            if isinstance(row, UserError):
                self.errors.add(row)
            else:
                yield row


def _filled(rows: Iterator[str | UserError]) -> Iterator[str | UserError]:
    """Without blank documents."""
    return (row for row in rows if isinstance(row, UserError) or (row and not row.isspace()))


def _raised(rows: Iterator[str | UserError]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, UserError):
            raise row
        yield row


def text_of(row: Mapping[str, Any], column: str, where: str) -> str | UserError:
    """The text in a column of a row, or the error if it is missing or not valid in UTF-8."""
    if column not in row:
        return UserError(f"{where}: no {column!r}, only {sorted(row)}: set data.text_column")
    value = row[column]
    if not isinstance(value, str):
        kind = type(value).__name__
        return UserError(f"{where}, {column!r}: a {kind}, not text: correct or remove the row, or set data.text_column")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return UserError(f"{where}, {column!r}: character {error.start} is a lone surrogate: correct or remove the row")
    return value


def _decoded(path: Path, errors: list[UserError]) -> Iterator[str]:
    """The text of a UTF-8 file in blocks of lines, line ends as they are, without a byte order mark.

    Args:
        path: The file.
        errors: Those of lines that are not UTF-8, which are left out, are added to it.
    """
    number, offset = 1, 0  # of the next line, and of its first byte
    for block in _blocks(path):
        try:
            text = _decode(block)
        except UnicodeDecodeError:
            text = "".join(_readable_lines(path, block, number, offset, errors))
        yield text.removeprefix("\ufeff") if offset == 0 else text
        number, offset = number + block.count(b"\n"), offset + len(block)


def _blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks that end where a line does."""
    with path.open("rb") as file:
        pending: list[bytes] = []  # the start of a line
        while block := file.read(_BLOCK):
            end = block.rfind(b"\n") + 1
            if end:
                yield b"".join([*pending, block[:end]])
                pending = []
            pending.append(block[end:])
    if last := b"".join(pending):
        yield last


def _decode(content: bytes) -> str:
    """UTF-8 without NUL.

    Raises:
        UnicodeDecodeError: At the first other byte.
    """
    if (nul := content.find(b"\0")) >= 0:
        raise UnicodeDecodeError("utf-8", content, nul, nul + 1, "NUL")
    return content.decode()


def _readable_lines(path: Path, block: bytes, number: int, offset: int, errors: list[UserError]) -> Iterator[str]:
    """The lines of a block that are UTF-8; `number` and `offset` are those of its first line, as in `_decoded`."""
    for line in io.BytesIO(block):
        try:
            yield _decode(line)
        except UnicodeDecodeError as error:
            nul = error.reason == "NUL"
            fault = "is NUL: a binary file (or UTF-16)" if nul else f"is not UTF-8 ({error.reason})"
            where = f"{path}: line {number}: byte {offset + error.start}"
            errors.append(BadLine(f"{where} {fault}: correct or remove the line, or convert the file to UTF-8"))
        number, offset = number + 1, offset + len(line)


def _split(blocks: Iterator[str], separator: re.Pattern[str]) -> Iterator[str]:
    """The texts between separators, with at most a block and a document in memory."""
    text, start = "", 0  # text[:start] is done, and kept only for a pattern to look back at
    for block in blocks:
        done = max(0, start - _REACH)
        text, start = text[done:] + block, start - done
        for match in separator.finditer(text, start):
            if match.end() > len(text) - _REACH:  # the next block may change this match
                break
            yield text[start : match.start()]
            start = match.end()
    for match in separator.finditer(text, start):
        yield text[start : match.start()]
        start = match.end()
    yield text[start:]
