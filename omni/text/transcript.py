"""Transcripts of recordings, with the times of words."""

from typing import Literal, NamedTuple

Timestamps = Literal["word", "char"]


class Word(NamedTuple):
    """A word or a character with its times.

    Attributes:
        text: Without spaces.
        start: In seconds.
        end: In seconds.
        score: Mean probability of its units, 0–1.
    """

    text: str
    start: float
    end: float
    score: float


class Transcript(NamedTuple):
    """The transcript of a recording.

    Attributes:
        text: The text.
        words: Words or characters with times; empty without timestamps.
        duration: Duration of the audio in seconds.
        confidence: Mean probability of the text's units, 0–1; None without text or timestamps.
    """

    text: str
    words: tuple[Word, ...]
    duration: float
    confidence: float | None = None
