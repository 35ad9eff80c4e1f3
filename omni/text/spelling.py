"""Spelling of a text in the characters that a Talker knows, cut into segments at pauses."""

import unicodedata
from typing import NamedTuple

from omni.errors import UserError
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.sentences import split_text


def spell(text: str, units: CTCVocabulary) -> list[int]:
    """Encodes a text for a Talker, normalised as in training: without punctuation and emoji.

    Accents of letters that are not in the vocabulary are removed: "naïve" may become "naive".

    Args:
        text: Any text.
        units: The Talker's vocabulary.

    Raises:
        UserError: If nothing is left, or there are characters outside the vocabulary.
    """
    shown = text if len(text) <= 40 else text[:40] + "…"
    if units.outside(text):
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    if outside := units.outside(text):
        some = " ".join(sorted(outside)[:10])
        raise UserError(f"{shown!r} cannot be spoken: the Talker was not trained on {some}")
    spelled = units.encode(text)
    if not spelled:
        raise UserError(f"{shown!r} cannot be spoken: it has no letters or digits")
    return spelled


class SpeechSegment(NamedTuple):
    """A segment of text that is synthesised at once.

    Attributes:
        units: Input of the Talker.
        pause: Seconds of silence after it; 0 for the last of a text.
    """

    units: list[int]
    pause: float


def speech_segments(text: str, units: CTCVocabulary) -> list[SpeechSegment]:
    """Splits a text into sentences and parts of long ones, and encodes them for a Talker; see `spell`.

    Args:
        text: Of any length.
        units: The Talker's vocabulary.

    Raises:
        UserError: As in `spell`.
    """
    normalize = units.normalize
    parts = split_text(text, length=lambda part: len(normalize(part)))
    found = [SpeechSegment(spell(part.text, units), part.pause) for part in parts if normalize(part.text)]
    if not found:
        spell(text, units)  # raises: there is nothing to say
    return [*found[:-1], found[-1]._replace(pause=0.0)]
