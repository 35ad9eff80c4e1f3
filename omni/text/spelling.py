"""Spelling of a text in the characters that a Talker knows, cut into segments at pauses."""

import unicodedata
from typing import NamedTuple

from omni.errors import UserError
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.sentences import split_text


def spell(text: str, units: CTCVocabulary) -> list[int]:
    """What a Talker reads of a text: its characters, normalised as in training (punctuation and emoji are left out).

    A letter that the units do not write loses its accents: of "naïve" they may know "naive".

    Args:
        text: Any text.
        units: The Talker's.

    Raises:
        UserError: If nothing is left to be said, or there are characters that the Talker has never read.
    """
    shown = text if len(text) <= 40 else text[:40] + "…"
    if units.outside(text):
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    if outside := units.outside(text):
        some = " ".join(sorted(outside)[:10])
        raise UserError(f"{shown!r} cannot be spoken: the Talker has never read {some}")
    spelled = units.encode(text)
    if not spelled:
        raise UserError(f"{shown!r} cannot be spoken: it holds nothing that is said aloud")
    return spelled


class SpeechSegment(NamedTuple):
    """What is said at once.

    Attributes:
        units: What the Talker reads.
        pause: Seconds of silence behind it; 0 behind the last of a text.
    """

    units: list[int]
    pause: float


def speech_segments(text: str, units: CTCVocabulary) -> list[SpeechSegment]:
    """The sentences of a text, and the parts of long ones, as a Talker reads them.

    What is not said aloud, such as punctuation and emoji, is left out.

    Args:
        text: Of any length.
        units: The Talker's.

    Raises:
        UserError: As in `spell`.
    """
    normalize = units.normalize
    said = [piece for piece in split_text(text, length=lambda part: len(normalize(part))) if normalize(piece.text)]
    if not said:
        spell(text, units)  # tells why
    found = [SpeechSegment(spell(piece.text, units), piece.pause) for piece in said]
    return [*found[:-1], found[-1]._replace(pause=0.0)]
