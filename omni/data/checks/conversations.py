"""Checks of conversations, which read all of them and their media."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from omni.data.checks.findings import Kind, Report, spread
from omni.data.conversations.dataset import samples_of
from omni.data.conversations.rows import ConversationRow, encode_conversation
from omni.data.conversations.sources import Conversations
from omni.errors import UserError
from omni.media.attachments import Medium
from omni.media.images import read_image
from omni.text.tokenizer import Tokenizer

CONVERSATION_KINDS = {
    "bad conversation": Kind("error", "Correct or remove it: `fit` refuses it."),
    "missing medium": Kind("error", "Correct the path, or remove the row: `fit` refuses it."),
    "unreadable medium": Kind("error", "Get the file again, or remove the row: `fit` refuses it."),
    "no conversations": Kind("error", "There is nothing to train on.", of_rows=False),
    "leaked conversation": Kind("error", "The same conversation is in two splits: remove it from one of them."),
    "leaked medium": Kind("error", "The same image or audio is in two splits: keep it in one of them."),
    "silent audio": Kind("warning", "All samples are zero: is it a placeholder?"),
    "empty answer": Kind("warning", "The assistant's turn has no text: is an answer missing?"),
    "duplicate conversation": Kind("warning", "It is trained on twice: remove one of them."),
}


class ConversationCheck:
    """Checks split after split, and compares each with those before.

    Args:
        report: Gets the findings.
        tokenizer: Counts tokens.
    """

    def __init__(self, report: Report, tokenizer: Tokenizer):
        self.report, self.tokenizer = report, tokenizer
        self._first_seen: dict[bytes, tuple[str, str]] = {}  # split and place by a hash of the content
        self._media: dict[bytes, tuple[str, str]] = {}  # split and file by a hash of the content
        self._read: dict[str, bytes | None] = {}  # hashes of files that have been read; None: cannot be read

    def split(self, name: str, sources: Sequence[Conversations]) -> None:
        """Reads a split.

        Args:
            name: What to call it.
            sources: Its conversations.
        """
        rows: list[ConversationRow] = []
        for source in sources:
            before = len(rows)
            for found in tqdm(source.rows_or_errors(), desc=f"reading {name}", unit=" rows", leave=False, disable=None):
                self.report.rows += 1
                try:
                    if isinstance(found, UserError):
                        raise found
                    row = encode_conversation(found, self.tokenizer)
                except UserError as error:
                    self.report.add_error("bad conversation", error)
                    continue
                rows.append(row)
                self._check(name, row)
                for medium in found.speech:
                    self._medium(name, row, medium, medium.files[0])
            if len(rows) == before:
                self.report.add("no conversations", source.name, "holds none that can be used")
        self.report.figures[name] = _figures(rows)

    def _check(self, split: str, row: ConversationRow) -> None:
        add = self.report.add
        start, end = row.answer
        if start == end:
            add("empty answer", row.where, "the last answer is empty")
        content = []
        for medium in row.media:
            for file in medium.files:
                digest = self._medium(split, row, medium, file)
                content.append(digest or repr(file).encode())
        key = hashlib.blake2b(f"{row.chat.tokens}".encode() + b"".join(content), digest_size=16).digest()
        place = (split, row.where)
        before = self._first_seen.setdefault(key, place)
        if before is not place:
            kind = "duplicate conversation" if before[0] == split else "leaked conversation"
            add(kind, row.where, f"is the same as {before[1]} in {before[0]}")

    def _medium(self, split: str, row: ConversationRow, medium: Medium, file: str | bytes) -> bytes | None:
        """Reads a file once, and returns the hash of its content; None if it cannot be read."""
        name = file if isinstance(file, str) else row.where
        if isinstance(file, str) and file in self._read:
            digest = self._read[file]
        else:
            digest = self._digest(row, medium, file)
            if isinstance(file, str):
                self._read[file] = digest
        if digest is not None:
            place = (split, name)
            before = self._media.setdefault(digest, place)
            if before[0] != split:
                self.report.add("leaked medium", row.where, f"{name} is in {before[0]} too: {before[1]}")
        return digest

    def _digest(self, row: ConversationRow, medium: Medium, file: str | bytes) -> bytes | None:
        if medium.source is None and isinstance(file, str) and not Path(file).is_file():
            self.report.add("missing medium", row.where, f"{file} does not exist")
            return None
        try:
            if medium.kind == "audio":
                content = samples_of(medium)
                if not content.any():
                    self.report.add(
                        "silent audio", row.where, f"{file if isinstance(file, str) else 'audio'} is silent"
                    )
            else:
                content = read_image(file)
        except UserError as error:
            self.report.add("unreadable medium", row.where, str(error))
            return None
        digest = hashlib.blake2b(str(tuple(content.shape)).encode(), digest_size=16)
        digest.update(content.contiguous().numpy().data)
        return digest.digest()


def _figures(rows: Sequence[ConversationRow]) -> dict[str, Any]:
    figures: dict[str, Any] = {"conversations": len(rows)}
    if not rows:
        return figures
    tokens = [len(row.chat.tokens) for row in rows]
    figures["tokens of a conversation, media counted as one"] = spread(tokens)
    figures["media"] = dict(Counter(medium.kind for row in rows for medium in row.media)) or "none"
    figures["tasks"] = dict(Counter(row.task for row in rows).most_common())
    return figures
