"""Decoding of text token by token."""

import codecs

from omni.text.tokenizer import Tokenizer


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
