"""The sources of a corpus, and the documents held out of them for validation."""

import glob
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, final

from omni.data.loading.hub import HUB, Columns
from omni.data.text.documents import Documents, HubDocuments, JsonlFile, ParquetFile, TextFile
from omni.errors import UserError

_READERS = {".txt": TextFile, ".jsonl": JsonlFile, ".parquet": ParquetFile}


def open_corpus(
    entries: Sequence[str],
    *,
    text_column: str = "text",
    document_separator: str | None = None,
    cache_dir: Path = Path("data/cache"),
    streaming: bool = False,
    split: str = "train",
    columns: Columns | None = None,
) -> list[Documents]:
    """Finds the sources that a list of names stands for; reads nothing yet.

    Args:
        entries: Files, patterns such as `books/*.txt`, folders, or `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        text_column: Column of the text in `.jsonl`, `.parquet` and on the Hub.
        document_separator: Regular expression of the text between two documents of a `.txt` file; None: a file is one.
        cache_dir: Folder of downloads from the Hub.
        streaming: Whether the Hub is streamed instead of downloaded.
        split: `train`, `val` or `test`: the Hub's split where an entry names none.
        columns: Names of columns by data set of the Hub; see `HubSplit`.

    Raises:
        UserError: If a source does not exist or its format is not known.
    """
    sources: list[Documents] = []
    for entry in entries:
        if entry.startswith(HUB):
            options: Any = {"column": text_column, "cache_dir": cache_dir, "streaming": streaming, "columns": columns}
            sources.append(HubDocuments(entry, split, **options))
            continue
        for path in _files(entry):
            reader = _READERS[path.suffix]
            sources.append(
                reader(path, separator=document_separator) if reader is TextFile else reader(path, column=text_column)
            )
    return sources


def _files(entry: str) -> list[Path]:
    """The files that a file name, a pattern or a folder stands for, sorted."""
    path, kinds = Path(entry).expanduser(), ", ".join(_READERS)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in _READERS and file.is_file())
        if not found:
            raise UserError(f"{entry}: the folder holds no {kinds} file: name another")
        return found
    found = [path] if path.exists() else sorted(Path(f) for f in glob.glob(str(path), recursive=True))
    found = [file for file in found if file.is_file()]
    if not found:
        reason = "matches no file" if glob.has_magic(entry) else "does not exist"
        raise UserError(f"{entry}: {reason}: name a file, a pattern, a folder or hub:OWNER/NAME")
    for file in found:
        if file.suffix not in _READERS:
            raise UserError(f"{file}: unknown kind of file {file.suffix!r}: use {kinds}")
    return found


class _Selection(Documents):
    """Some of the documents of a source.

    Args:
        source: The documents.
        select: Yields the selected ones of an iterator.
        description: Of the selection, for the fingerprint.
    """

    def __init__(self, source: Documents, select: Callable[[Iterator[str]], Iterator[str]], description: str):
        self.name = source.name
        self.source, self.select, self.description = source, select, description

    def read(self) -> Iterator[str]:
        return self.select(self.source.read())

    def fingerprint(self, *, content: bool) -> str:
        return f"{self.source.fingerprint(content=content)} {self.description}"


@final
class _StreamableSelection(_Selection):
    """A selection that decides about each document alone, and so selects the same of each share."""

    def stream(self, share: int, shares: int, seed: int) -> Iterator[str]:
        return self.select(self.source.stream(share, shares, seed))


class DocumentSplit:
    """Holds documents out by a hash of their text, so that copies of a document are on the same side.

    The hash depends on nothing else: other seeds, files or file names hold out the same documents.

    Args:
        sources: The corpus.
        fraction: Expected share of the documents that are held out.
        exact: Whether the corpus is read once beforehand, to ensure that neither side is empty.
    """

    def __init__(self, sources: Sequence[Documents], fraction: float, *, exact: bool):
        self.sources = sources
        self.fraction = fraction
        self.exact = exact

    def parts(self) -> tuple[list[Documents], list[Documents]]:
        """The documents to train on, and those held out."""
        return self._part(held_out=False), self._part(held_out=True)

    @cached_property
    def threshold(self) -> float:
        """Documents whose hash is less than this are held out."""
        if not self.exact:
            return self.fraction
        hashes = {_unit_hash(text) for source in self.sources for text in source.read()}
        if len(hashes) < 2:
            raise UserError(
                f"{self.sources[0].name}: {len(hashes)} document cannot be split into training and validation: "
                "give data.val, or set data.val_split: tail, or data.document_separator"
            )
        return min(max(self.fraction, math.nextafter(min(hashes), 1)), max(hashes))

    def _part(self, *, held_out: bool) -> list[Documents]:
        select, description = partial(self._select, held_out), f"documents {self.fraction} {held_out}"
        return [_StreamableSelection(source, select, description) for source in self.sources]

    def _select(self, held_out: bool, texts: Iterator[str]) -> Iterator[str]:
        return (text for text in texts if (_unit_hash(text) < self.threshold) == held_out)


def tail_split(sources: Sequence[Documents], fraction: float) -> tuple[list[Documents], list[Documents]]:
    """Holds out the last `fraction` of the characters of each source; a document at the border is split in two."""

    def part(*, held_out: bool) -> list[Documents]:
        description = f"tail {fraction} {held_out}"
        return [_Selection(one, partial(_select_tail, one, fraction, held_out), description) for one in sources]

    return part(held_out=False), part(held_out=True)


def _select_tail(source: Documents, fraction: float, held_out: bool, texts: Iterator[str]) -> Iterator[str]:
    border = int(sum(map(len, source.read())) * (1 - fraction))
    for text in texts:
        part = text[max(border, 0) :] if held_out else text[: max(border, 0)]
        border -= len(text)
        if part and not part.isspace():
            yield part


def first_documents(source: Documents, limit: int) -> Documents:
    """The first few documents of a source that may be endless."""
    return _Selection(source, partial(_select_first, limit), f"first {limit}")


def _select_first(limit: int, texts: Iterator[str]) -> Iterator[str]:
    return islice(texts, limit)


def corpus_fingerprint(sources: Sequence[Documents], *, content: bool) -> str:
    """Identifies a corpus, in hex; see `Documents.fingerprint`."""
    parts = "\n".join(source.fingerprint(content=content) for source in sources)
    return hashlib.sha256(parts.encode()).hexdigest()


def _unit_hash(text: str) -> float:
    """A hash in [0, 1) of the text without the whitespace around it."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
