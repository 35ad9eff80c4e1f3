"""Decoding of text token by token."""

import codecs
from collections.abc import Iterable
from typing import NamedTuple

from omni.text.tokenizer import Tokenizer


class Delta(NamedTuple):
    """A piece of the continuation of a prompt.

    Attributes:
        row: Number of the prompt.
        text: The piece; may be empty while a character is incomplete.
    """

    row: int
    text: str


def joined_rows(deltas: Iterable[Delta], rows: int) -> list[str]:
    """The whole text of each of `rows` prompts."""
    texts = [""] * rows
    for row, text in deltas:
        texts[row] += text
    return texts


class StreamDecoder:
    """Decodes token by token: the joined output equals `tokenizer.decode` of all tokens.

    A character is returned once its last byte is there.

    Args:
        tokenizer: The tokenizer of the ids.
        turn: Decode as `tokenizer.decode_turn`.
    """

    def __init__(self, tokenizer: Tokenizer, *, turn: bool = False):
        self._tokenizer = tokenizer
        self._lead = self._dropped = tokenizer.lead if turn else ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes; often empty."""
        text = self._decoder.decode(self._tokenizer.bytes_of(token))
        if text:
            text, self._dropped = text.removeprefix(self._dropped), ""
        return text

    def finish(self) -> str:
        """An incomplete character as U+FFFD; resets the decoder for another text."""
        self._dropped = self._lead
        return self._decoder.decode(b"", final=True)
