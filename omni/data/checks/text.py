"""Checks of text, which read all of it."""

import hashlib
import re
from collections.abc import Sequence

from tqdm import tqdm

from omni.data.checks.findings import Kind, Report, spread
from omni.data.text.documents import BadLine, Documents
from omni.errors import UserError

TEXT_KINDS = {
    "bad document": Kind("error", "Correct or remove it: `fit` leaves it out, or stops there (`bad_rows: error`)."),
    "bad line": Kind(
        "error", "Convert the file to UTF-8: `fit` leaves the line out, or stops (`bad_rows: error`).", of_rows=False
    ),
    "no documents": Kind("error", "Leave the file out, or put text into it: `fit` refuses it."),
    "leaked document": Kind("error", "The same text is in two splits: remove it from one of them."),
    "empty document": Kind("warning", "It is ignored."),
    "duplicate document": Kind("warning", "It is trained on twice: remove one of them."),
    "replacement character": Kind("warning", "U+FFFD marks bytes that were lost: decode the source again."),
    "control character": Kind("warning", "Neither text nor white space: is it intended?"),
}

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")


class TextCheck:
    """Checks split after split, and compares each with those before.

    Args:
        report: Gets the findings.
    """

    def __init__(self, report: Report):
        self.report = report
        self._first_seen: dict[bytes, tuple[str, str]] = {}  # split and place by a hash of the document

    def split(self, name: str, sources: Sequence[Documents]) -> None:
        """Reads a split.

        Args:
            name: What to call it.
            sources: Its documents.
        """
        lengths: list[int] = []
        progress = tqdm(desc=f"reading {name}", unit=" documents", leave=False, disable=None)
        with progress:
            for source in sources:
                before, number = len(lengths), 0
                for text in source.rows_or_errors():
                    if isinstance(text, BadLine):
                        self.report.add_error("bad line", text)
                        continue
                    number += 1
                    progress.update()
                    self.report.rows += 1
                    where = f"{source.name} document {number}"
                    if isinstance(text, UserError):
                        self.report.add_error("bad document", text)
                    elif not text or text.isspace():
                        self.report.add("empty document", where, "holds only white space" if text else "is empty")
                    else:
                        lengths.append(len(text))
                        self._check(name, text, where)
                if len(lengths) == before:
                    self.report.add("no documents", source.name, "holds no text")
        self.report.figures[name] = {"documents": len(lengths)}
        if lengths:
            self.report.figures[name] |= {"characters": sum(lengths), "characters of a document": spread(lengths)}

    def _check(self, split: str, text: str, where: str) -> None:
        add = self.report.add
        if lost := text.count("\ufffd"):
            add("replacement character", where, f"{lost} of {len(text):,} characters")
        if control := _CONTROL.search(text):
            add("control character", where, f"{control[0]!r} at {control.start():,}")
        digest = hashlib.blake2b(text.strip().encode(errors="surrogatepass"), digest_size=16).digest()
        place = (split, where)
        before = self._first_seen.setdefault(digest, place)
        if before is not place:
            shown = repr(text.strip()[:40])
            if before[0] == split:
                add("duplicate document", where, f"{shown} is the same as {before[1]}")
            else:
                add("leaked document", where, f"{shown} is in {before[0]} too: {before[1]}")
