"""Reads language models in the ARPA format, as `omni data ngram`, SRILM and KenLM write them."""

import gzip
import math
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from omni.errors import UserError
from omni.text.ngram import END, START, UNKNOWN, Ngram, NgramModel

_COUNT = re.compile(r"ngram\s+(\d+)\s*=\s*(\d+)")
_SECTION = re.compile(r"\\(\d+)-grams:")
_BLANKS = re.compile(r"[ \t]+")
_SPELLINGS = {"<UNK>": UNKNOWN, "<S>": START, "</S>": END}  # of the special words, in other toolkits


def read_arpa(path: str | Path) -> NgramModel:
    """Reads an ARPA file, which may be compressed (`.gz`).

    Raises:
        UserError: If it cannot be read, or is malformed; names the line.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _Reader(path, file).read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


class _Reader:
    """Reads one file, line by line."""

    def __init__(self, path: Path, file: Iterable[bytes]) -> None:
        self.path, self.number = path, 0
        self.lines = self._lines(file)
        self.log_probs: dict[Ngram, float] = {}
        self.backoffs: dict[Ngram, float] = {}

    def read(self) -> NgramModel:
        line = next((line for line in self.lines if line == "\\data\\"), None)  # notes may precede it
        if line is None:
            raise UserError(f"{self.path} has no line `\\data\\`: it is not a language model in ARPA format")
        counts, line = self._counts()
        for order, count in counts.items():
            section = _SECTION.fullmatch(line)
            if section is None or int(section[1]) != order:
                raise self._error(f"`{line[:60]}` where `\\{order}-grams:` must be")
            line = self._section(order, count, highest=order == len(counts))
        if line != "\\end\\":
            raise self._error(f"`{line[:60]}` where `\\end\\` must be")
        if END not in {ngram[0] for ngram in self.log_probs if len(ngram) == 1}:
            raise UserError(f"{self.path} has no 1-gram `{END}`: train it on sentences with their ends")
        return NgramModel(self.log_probs, self.backoffs)

    def _counts(self) -> tuple[dict[int, int], str]:
        """The number of n-grams of each order, and the line that follows."""
        counts: dict[int, int] = {}
        for line in self.lines:
            match = _COUNT.fullmatch(line)
            if match is None and line.startswith("\\") and counts:
                return counts, line
            if match is None or int(match[1]) != len(counts) + 1:
                raise self._error(f"`{line[:60]}` where `ngram {len(counts) + 1}=COUNT` must be")
            counts[int(match[1])] = int(match[2])
        raise self._truncated()

    def _section(self, order: int, count: int, *, highest: bool) -> str:
        """Reads the n-grams of an order; returns the line that follows."""
        before = len(self.log_probs)
        for line in self.lines:
            if line.startswith("\\") and (_SECTION.fullmatch(line) or line == "\\end\\"):
                if (found := len(self.log_probs) - before) != count:
                    raise self._error(f"{found} {order}-grams end here, and the header has {count}")
                return line
            fields = _BLANKS.split(line)
            if len(fields) not in (order + 1, order + 2):
                raise self._error(f"`{line[:60]}` is not a probability, {order} words, and a back-off weight or none")
            ngram = tuple(sys.intern(_SPELLINGS.get(word, word)) for word in fields[1 : order + 1])
            if ngram in self.log_probs:
                raise self._error(f"the {order}-gram `{' '.join(ngram)}` is here a second time")
            if order > 1 and not all((word,) in self.log_probs for word in ngram):
                raise self._error(f"`{' '.join(ngram)}` has a word that is not among the 1-grams")
            self.log_probs[ngram] = self._number(fields[0], "a log10 probability")
            if self.log_probs[ngram] > 0:
                raise self._error(f"{fields[0]} is not a log10 probability: it must be at most 0")
            if len(fields) == order + 2 and not highest:  # no n-gram follows the highest order
                self.backoffs[ngram] = self._number(fields[-1], "a back-off weight")
        raise self._truncated()

    def _number(self, field: str, what: str) -> float:
        try:
            value = float(field)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._error(f"`{field[:60]}` is not {what}")
        return value

    def _lines(self, file: Iterable[bytes]) -> Iterator[str]:
        """The lines that are not blank, stripped; counts all of them."""
        for line in file:
            self.number += 1
            try:
                text = line.decode("utf-8-sig" if self.number == 1 else "utf-8").strip(" \t\r\n")
            except UnicodeDecodeError as error:
                raise self._error(f"byte {error.start} is not UTF-8: give a language model in ARPA format") from None
            if text:
                yield text

    def _truncated(self) -> UserError:
        return self._error("the file ends here, without `\\end\\`: it is not complete")

    def _error(self, message: str) -> UserError:
        return UserError(f"{self.path}: line {self.number}: {message}")
