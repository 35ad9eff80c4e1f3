"""Tokenised documents in a memory-mapped file, made once and kept under a key."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from omni.batch import TextBatch
from omni.data.text.documents import Documents
from omni.data.text.packing import Ints, Packing, pack
from omni.errors import UserError
from omni.files import atomic_write
from omni.text.tokenizer import BOS, EOS, Tokenizer

_SEGMENT = 1 << 16  # characters, about; enough of them at a time to keep every thread of the tokenizer busy
_BATCH = 1 << 20  # characters: bounds the memory, 40 bytes each in lists of ids


@final
class TokenFile:
    """The tokens of a corpus: `<stem>.bin`, lengths of its documents `<stem>.npy`, and counts `<stem>.json`.

    The `.json` is written last: where it is, the others are whole.

    Args:
        stem: Path of the three files without their endings; holds the key.
    """

    def __init__(self, stem: Path):
        self.stem = stem

    @property
    def complete(self) -> bool:
        """Whether the files are there and whole."""
        try:
            counts = self.counts
            size = self._file(".bin").stat().st_size
            documents = np.load(self._file(".npy"), mmap_mode="r").size if counts["documents"] else 0
        except (OSError, ValueError):
            return False
        return size == counts["tokens"] * np.dtype(counts["dtype"]).itemsize and documents == counts["documents"]

    @property
    def counts(self) -> dict[str, Any]:
        """`documents`, `tokens`, `bytes` (of their text in UTF-8) and `dtype`."""
        return json.loads(self._file(".json").read_text())

    def lengths(self) -> Ints:
        """(documents,) tokens of each document, with its bos and eos."""
        return np.load(self._file(".npy"))

    def tokens(self) -> Ints:
        """(tokens,) every document as bos, tokens, eos, one after the other; mapped, not read."""
        return np.memmap(self._file(".bin"), np.dtype(self.counts["dtype"]), "r")

    def write(self, sources: Sequence[Documents], tokenizer: Tokenizer, *, label: str) -> None:
        """Tokenises a corpus. Whoever else writes the same files at the same time writes the same bytes.

        Args:
            sources: The corpus.
            tokenizer: Encodes it.
            label: Name for the progress bar.

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
                encoded = tokenizer.encode_batch([text for text, _ in batch])
                stream: list[int] = []
                for (text, place), tokens in zip(batch, encoded, strict=True):
                    num_bytes += (size := len(text.encode()))
                    bar.update(size)
                    begun = len(stream)
                    stream += [BOS, *tokens] if place & _FIRST else tokens
                    if place & _LAST:
                        stream.append(EOS)
                    lengths += [0] if place & _FIRST else []
                    lengths[-1] += len(stream) - begun
                file.write(np.array(stream, dtype).tobytes())
        with self._replacing(".npy") as file:
            np.save(file, np.array(lengths, np.int64))
        counts = {"documents": len(lengths), "tokens": sum(lengths), "bytes": num_bytes, "dtype": dtype.name}
        with self._replacing(".json") as file:
            file.write(json.dumps(counts).encode())

    def _file(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)

    @contextmanager
    def _replacing(self, ending: str) -> Iterator[BinaryIO]:
        """A file that appears under its name only when it is whole."""
        path = self._file(ending)
        try:
            with atomic_write(path) as file:
                yield file
        except OSError as error:
            raise UserError(
                f"data.cache_dir {path.parent} cannot be written ({error.strerror}): make room, or name another folder"
            ) from error


@final
class PackedRows(Dataset[TextBatch]):
    """Packed rows of a token file, read by the batch.

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
        return self.__dict__ | {"_tokens": None}  # a map of a file would be pickled as its content


_FIRST, _LAST = 1, 2


def _batches(sources: Sequence[Documents]) -> Iterator[list[tuple[str, int]]]:
    """Segments of documents, each with its place in its document, about `_BATCH` characters at a time."""
    batch: list[tuple[str, int]] = []
    size = 0
    for source in sources:
        for text in source.read():
            begin = 0
            while begin < len(text):
                end = _segment_end(text, begin)
                place = (_FIRST if begin == 0 else 0) | (_LAST if end == len(text) else 0)
                batch.append((text[begin:end], place))
                size += end - begin
                begin = end
                if size >= _BATCH:
                    yield batch
                    batch, size = [], 0
    if batch:
        yield batch


def _segment_end(text: str, begin: int) -> int:
    """Just behind a line end, where every tokenizer may be interrupted: no token reaches over one."""
    end = text.find("\n", begin + _SEGMENT) + 1
    return end or len(text)
