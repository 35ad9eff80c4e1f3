"""Documents of text, read one at a time from files."""

import codecs
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, final

from omni.errors import UserError

_BLOCK = 1 << 24  # bytes of a .txt file that are read at once
_REACH = 4096  # characters before and behind a separator that its pattern may look at


class Documents(ABC):
    """A place that documents come from, always in the same order.

    Attributes:
        name: What to call it in messages.
    """

    name: str

    @abstractmethod
    def read(self) -> Iterator[str]:
        """Every document that holds more than whitespace."""

    def read_share(self, share: int, shares: int, seed: int) -> Iterator[str]:
        """Every document of one of `shares` disjoint shares; where the source is in parts, `seed` shuffles those."""
        return islice(self.read(), share, None, shares)

    def examine(self) -> Iterator[str | UserError]:
        """Every document, blank ones too, or in its place why it cannot be read; not all sources go on behind one."""
        try:
            yield from self.read()
        except UserError as error:
            yield error

    @abstractmethod
    def fingerprint(self, *, content: bool) -> str:
        """Identifies the documents: by every byte of `content`, or else as well as can be told without reading it."""


class _File(Documents):
    """Abstract: a file, and the options that it is read with."""

    def __init__(self, path: Path, **options: Any):
        self.name = str(path)
        self.path = path
        self.options = options

    @abstractmethod
    def _rows(self) -> Iterator[str]:
        """The file's documents, blank ones included."""

    def read(self) -> Iterator[str]:
        empty = True
        try:
            for row in self._rows():
                if row and not row.isspace():
                    empty = False
                    yield row
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error}): check the file") from error
        if empty:
            reason = "holds only whitespace" if self.path.stat().st_size else "is empty"
            raise UserError(f"{self.path}: {reason}: leave it out of data.train and data.val, or put text into it")

    def examine(self) -> Iterator[str | UserError]:
        try:
            yield from self._rows()
        except UserError as error:
            yield error
        except OSError as error:
            yield UserError(f"{self.path}: cannot be read ({error.strerror or error}): check the file")

    def fingerprint(self, *, content: bool) -> str:
        stat = self.path.stat()
        identity = self._digest if content else f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        return f"{type(self).__name__} {identity} {json.dumps(self.options)}"

    @cached_property
    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@final
class TextFile(_File):
    """A `.txt` file in UTF-8.

    Args:
        path: The file.
        separator: Regular expression that stands between documents; None: the file is one document.
    """

    def __init__(self, path: Path, *, separator: str | None = None):
        super().__init__(path, separator=separator)

    def _rows(self) -> Iterator[str]:
        blocks = _decoded(self.path)
        separator = self.options["separator"]
        return iter(["".join(blocks)]) if separator is None else _split(blocks, re.compile(separator, re.MULTILINE))


@final
class JsonlFile(_File):
    """A `.jsonl` file: an object a line, with the text under `column`."""

    def __init__(self, path: Path, *, column: str = "text"):
        super().__init__(path, column=column)

    def _rows(self) -> Iterator[str]:
        return (self._text(line, where) for where, line in self._lines())

    def examine(self) -> Iterator[str | UserError]:
        for where, line in self._lines():
            try:
                yield self._text(line, where)
            except UserError as error:
                yield error

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield f"{self.path}: row {number}", line

    def _text(self, line: bytes, where: str) -> str:
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: byte {error.start} is not UTF-8: convert the file to UTF-8") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno}): mend or drop the row") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: a {type(row).__name__}, not an object: write one JSON object a line")
        column = self.options["column"]
        if column not in row:
            raise UserError(f"{where}: no {column!r}, only {sorted(row)}: set data.text_column")
        return checked(row[column], f"{where}, {column!r}")


@final
class ParquetFile(_File):
    """A `.parquet` file with the text in `column`."""

    def __init__(self, path: Path, *, column: str = "text"):
        super().__init__(path, column=column)

    def _rows(self) -> Iterator[str]:
        return (checked(value, where) for where, value in self._values())

    def examine(self) -> Iterator[str | UserError]:
        try:
            for where, value in self._values():
                try:
                    yield checked(value, where)
                except UserError as error:
                    yield error
        except UserError as error:
            yield error

    def _values(self) -> Iterator[tuple[str, object]]:
        import pyarrow.parquet  # here, because it takes 0.1 s that no other reader needs

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
                    yield f"{self.path}: row {number}, {column!r}", value


def checked(value: object, where: str) -> str:
    """The value, if it is text that UTF-8 can express."""
    if not isinstance(value, str):
        raise UserError(f"{where}: a {type(value).__name__}, not text: mend or drop the row, or set data.text_column")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: character {error.start} is a lone surrogate: mend or drop the row") from None
    return value


def _decoded(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in blocks, line ends as they are, without a byte order mark."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if (nul := block.find(b"\0")) >= 0:
                raise UserError(f"{path}: byte {offset + nul} is NUL: a binary file (or UTF-16), not UTF-8 text")
            text = _decode(path, decoder, block, offset)
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(block)
    _decode(path, decoder, b"", offset)


def _decode(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, offset: int) -> str:
    begun = len(decoder.getstate()[0])  # bytes of a character that the last block cut
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        position = offset - begun + error.start
        raise UserError(f"{path}: byte {position} is not UTF-8 ({error.reason}): convert the file to UTF-8") from None


def _split(blocks: Iterator[str], separator: re.Pattern[str]) -> Iterator[str]:
    """The texts between separators, with no more in memory than a block and a document."""
    text, start = "", 0  # text[:start] is done, and only kept for a pattern to look back at
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
