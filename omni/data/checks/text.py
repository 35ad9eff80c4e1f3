"""What can be wrong with text, found by reading all of it."""

import hashlib
import re
import statistics
from collections.abc import Sequence

from tqdm import tqdm

from omni.data.checks.findings import Kind, Report
from omni.data.text.documents import Documents
from omni.errors import UserError

TEXT_KINDS = {
    "bad document": Kind("error", "Mend or drop it: `fit` refuses it."),
    "no documents": Kind("error", "Leave the file out, or put text into it: `fit` refuses it."),
    "leaked document": Kind("error", "The same text is in two splits: drop it from one of them."),
    "empty document": Kind("warning", "It is passed over."),
    "duplicate document": Kind("warning", "It is learned twice: drop one of them."),
    "replacement character": Kind("warning", "U+FFFD stands for bytes that were lost: decode the source again."),
    "control character": Kind("warning", "Neither text nor white space: was it meant?"),
}

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")


class TextCheck:
    """Checks split after split, and compares each with those before.

    Args:
        report: Gets the findings.
    """

    def __init__(self, report: Report):
        self.report = report
        self._met: dict[bytes, tuple[str, str]] = {}  # by the document's content: split and where

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
                before = len(lengths)
                for number, text in enumerate(source.examine(), start=1):
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
            spread = {"min": min(lengths), "median": int(statistics.median(lengths)), "max": max(lengths)}
            self.report.figures[name] |= {"characters": sum(lengths), "characters of a document": spread}

    def _check(self, split: str, text: str, where: str) -> None:
        add = self.report.add
        if lost := text.count("\ufffd"):
            add("replacement character", where, f"{lost} of {len(text):,} characters")
        if control := _CONTROL.search(text):
            add("control character", where, f"{control[0]!r} at {control.start():,}")
        digest = hashlib.blake2b(text.strip().encode(errors="surrogatepass"), digest_size=16).digest()
        place = (split, where)
        before = self._met.setdefault(digest, place)
        if before is not place:
            shown = repr(text.strip()[:40])
            if before[0] == split:
                add("duplicate document", where, f"{shown} is the same as {before[1]}")
            else:
                add("leaked document", where, f"{shown} is in {before[0]} too: {before[1]}")
