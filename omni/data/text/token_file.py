"""Tokenised documents in memory-mapped files, computed once."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from omni.batch import TextBatch
from omni.data.loading.bad_rows import RowErrors
from omni.data.text.documents import Documents
from omni.data.text.packing import Ints, Packing, pack
from omni.errors import UserError
from omni.files import atomic_write
from omni.text.tokenizer import BOS, EOS, Tokenizer

_SEGMENT = 1 << 16  # characters, about: small enough for every thread of the tokenizer to have work
_BATCH = 1 << 20  # characters that are tokenised together; lists of ids take 40 bytes for each


@final
class TokenFile:
    """The tokens of a corpus in `<stem>.bin`, the lengths of its documents in `.npy`, and counts in `.json`.

    The `.json` is written last: if it exists, the others are complete.

    Args:
        stem: Path of the three files without their suffixes.
    """

    def __init__(self, stem: Path):
        self.stem = stem

    @property
    def complete(self) -> bool:
        """Whether the files exist and have their final sizes."""
        try:
            counts = self.counts
            size = self._file(".bin").stat().st_size
            documents = np.load(self._file(".npy"), mmap_mode="r").size if counts["documents"] else 0
        except (OSError, ValueError):
            return False
        return size == counts["tokens"] * np.dtype(counts["dtype"]).itemsize and documents == counts["documents"]

    @property
    def counts(self) -> dict[str, Any]:
        """`documents`, `tokens`, `bytes` (of their text in UTF-8), `dtype`, and `left_out`: a line about bad rows."""
        return json.loads(self._file(".json").read_text())

    def lengths(self) -> Ints:
        """(documents,) tokens of each document, with its bos and eos."""
        return np.load(self._file(".npy"))

    def tokens(self) -> Ints:
        """(tokens,) all documents as bos, tokens, eos; memory-mapped."""
        return np.memmap(self._file(".bin"), np.dtype(self.counts["dtype"]), "r")

    def write(self, sources: Sequence[Documents], tokenizer: Tokenizer, *, label: str, errors: RowErrors) -> None:
        """Tokenises a corpus. Another process that writes the files at the same time writes the same bytes.

        Args:
            sources: The corpus.
            tokenizer: Encodes it.
            label: Of the progress bar.
            errors: Of documents that are left out.

        Raises:
            UserError: If a document cannot be read or the files cannot be written.
        """
        dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        lengths: list[int] = []
        num_bytes = 0
        with (
            self._replacing(".bin") as file,
            tqdm(desc=f"tokenising {label}", unit="B", unit_scale=True, disable=None) as bar,
        ):
            for batch in _batches(sources):
                encoded = tokenizer.encode_batch([segment.text for segment in batch])
                stream: list[int] = []
                for segment, tokens in zip(batch, encoded, strict=True):
                    num_bytes += (size := len(segment.text.encode()))
                    bar.update(size)
                    start = len(stream)
                    stream += [BOS, *tokens] if segment.first else tokens
                    if segment.last:
                        stream.append(EOS)
                    lengths += [0] if segment.first else []
                    lengths[-1] += len(stream) - start
                file.write(np.array(stream, dtype).tobytes())
        with self._replacing(".npy") as file:
            np.save(file, np.array(lengths, np.int64))
        counts = {"documents": len(lengths), "tokens": sum(lengths), "bytes": num_bytes, "dtype": dtype.name}
        counts["left_out"] = errors.summary()
        with self._replacing(".json") as file:
            file.write(json.dumps(counts).encode())

    def _file(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    @contextmanager
    def _replacing(self, suffix: str) -> Iterator[BinaryIO]:
        """See `atomic_write`."""
        path = self._file(suffix)
        try:
            with atomic_write(path) as file:
                yield file
        except OSError as error:
            raise UserError(
                f"data.cache_dir {path.parent} cannot be written ({error.strerror}): make room, or name another folder"
            ) from error


@final
class PackedDataset(Dataset[TextBatch]):
    """Packed rows of a token file, a whole batch at a time.

    Args:
        file: The tokens.
        context: Tokens that the model reads in a row.
    """

    def __init__(self, file: TokenFile, context: int):
        self.file = file
        self.packing: Packing = pack(file.lengths(), context + 1)
        self._tokens: Ints | None = None

    def __len__(self) -> int:
        return len(self.packing)

    def __getitems__(self, rows: Sequence[int]) -> TextBatch:
        if self._tokens is None:
            self._tokens = self.file.tokens()
        numbers = np.asarray(rows)
        inputs, targets = self.packing.gather(self._tokens, numbers)
        return TextBatch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(numbers))

    def __getitem__(self, row: int) -> TextBatch:
        return self.__getitems__([row])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokens": None}  # pickling a memory map would copy the file


class _Segment(NamedTuple):
    """A part of a document."""

    text: str
    first: bool
    last: bool


def _batches(sources: Sequence[Documents]) -> Iterator[list[_Segment]]:
    """Segments of documents, about `_BATCH` characters at a time."""
    batch: list[_Segment] = []
    size = 0
    for source in sources:
        for text in source.read():
            start = 0
            while start < len(text):
                end = _segment_end(text, start)
                batch.append(_Segment(text[start:end], first=start == 0, last=end == len(text)))
                size += end - start
                start = end
                if size >= _BATCH:
                    yield batch
                    batch, size = [], 0
    if batch:
        yield batch


def _segment_end(text: str, start: int) -> int:
    """The position after a line end: no token of any tokenizer crosses one."""
    end = text.find("\n", start + _SEGMENT) + 1
    return end or len(text)
