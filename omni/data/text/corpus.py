"""Where a corpus lies, and which of its documents are held out for validation."""

import glob
import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import final

from omni.data.loading.hub import HubDataset
from omni.data.text.documents import Documents, JsonlFile, ParquetFile, TextFile
from omni.errors import UserError

_READERS = {".txt": TextFile, ".jsonl": JsonlFile, ".parquet": ParquetFile}


def open_corpus(
    entries: Sequence[str],
    *,
    text_column: str = "text",
    document_separator: str | None = None,
    cache_dir: Path = Path("data/cache"),
    streaming: bool = False,
    hub_split: str = "train",
) -> list[Documents]:
    """Finds the sources that a list of names stands for; reads nothing yet.

    Args:
        entries: Files, patterns such as `books/*.txt`, folders, or `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        text_column: Where the text is in `.jsonl`, `.parquet` and on the Hub.
        document_separator: Regular expression between the documents of a `.txt` file; None: a file is a document.
        cache_dir: Where downloads from the Hub go.
        streaming: Whether the Hub is streamed rather than downloaded.
        hub_split: The Hub's split where an entry names none.

    Raises:
        UserError: If nothing is there, or is of a kind that cannot be read.
    """
    sources: list[Documents] = []
    for entry in entries:
        if entry.startswith("hub:"):
            names = entry.removeprefix("hub:").split(":")
            if len(names) > 3 or not names[0]:
                raise UserError(f"{entry!r} is no data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]]")
            repository, config, split = (*names, "", "")[:3]
            where = {"column": text_column, "cache_dir": cache_dir, "streaming": streaming}
            sources.append(HubDataset(repository, config, split or hub_split, **where))
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


class DocumentSplit:
    """Holds documents out by a hash of their text, so that copies of a document are never on both sides.

    The hash knows nothing else: other seeds, files or file names hold out the same documents.

    Args:
        sources: The corpus.
        fraction: Expected share of the documents that are held out.
        exact: Read the corpus once beforehand, to be sure that neither side is empty.
    """

    def __init__(self, sources: Sequence[Documents], fraction: float, *, exact: bool):
        self.sources = sources
        self.fraction = fraction
        self.exact = exact

    def parts(self) -> tuple[list[Documents], list[Documents]]:
        """The documents to train on, and those held out."""
        kept: list[Documents] = [_DocumentPart(source, self, held_out=False) for source in self.sources]
        return kept, [_DocumentPart(source, self, held_out=True) for source in self.sources]

    @cached_property
    def threshold(self) -> float:
        """Documents that draw less than this are held out."""
        if not self.exact:
            return self.fraction
        draws = {_draw(text) for source in self.sources for text in source.read()}
        if len(draws) < 2:
            raise UserError(
                f"{self.sources[0].name}: {len(draws)} document cannot be split into training and validation: "
                "give data.val, or set data.val_split: tail, or data.document_separator"
            )
        return min(max(self.fraction, math.nextafter(min(draws), 1)), max(draws))


@final
class _DocumentPart(Documents):
    def __init__(self, source: Documents, split: DocumentSplit, *, held_out: bool):
        self.name = source.name
        self.source = source
        self.split = split
        self.held_out = held_out

    def read(self) -> Iterator[str]:
        return self._filter(self.source.read())

    def read_share(self, share: int, shares: int, seed: int) -> Iterator[str]:
        return self._filter(self.source.read_share(share, shares, seed))

    def fingerprint(self, *, content: bool) -> str:
        return f"{self.source.fingerprint(content=content)} documents {self.split.fraction} {self.held_out}"

    def _filter(self, texts: Iterator[str]) -> Iterator[str]:
        threshold = self.split.threshold
        return (text for text in texts if (_draw(text) < threshold) == self.held_out)


def tail_split(sources: Sequence[Documents], fraction: float) -> tuple[list[Documents], list[Documents]]:
    """Holds out the last `fraction` of the characters of each source; a document on the border is cut in two."""
    kept: list[Documents] = [_TailPart(source, fraction, held_out=False) for source in sources]
    return kept, [_TailPart(source, fraction, held_out=True) for source in sources]


@final
class _TailPart(Documents):
    def __init__(self, source: Documents, fraction: float, *, held_out: bool):
        self.name = source.name
        self.source = source
        self.fraction = fraction
        self.held_out = held_out

    def read(self) -> Iterator[str]:
        border = int(sum(map(len, self.source.read())) * (1 - self.fraction))
        for text in self.source.read():
            part = text[max(border, 0) :] if self.held_out else text[: max(border, 0)]
            border -= len(text)
            if part and not part.isspace():
                yield part

    def fingerprint(self, *, content: bool) -> str:
        return f"{self.source.fingerprint(content=content)} tail {self.fraction} {self.held_out}"


@final
class FirstDocuments(Documents):
    """The first few documents of a source that may be endless."""

    def __init__(self, source: Documents, limit: int):
        self.name = source.name
        self.source = source
        self.limit = limit

    def read(self) -> Iterator[str]:
        return islice(self.source.read(), self.limit)

    def fingerprint(self, *, content: bool) -> str:
        return f"{self.source.fingerprint(content=content)} first {self.limit}"


def fingerprint(sources: Sequence[Documents], *, content: bool) -> str:
    """Identifies a corpus, in hex; see `Documents.fingerprint`."""
    parts = "\n".join(source.fingerprint(content=content) for source in sources)
    return hashlib.sha256(parts.encode()).hexdigest()


def _draw(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text; blanks around it do not count."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
