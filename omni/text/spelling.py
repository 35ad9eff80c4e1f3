"""Spelling of a text in the characters that a Talker knows, cut into segments at pauses."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from omni.errors import UserError
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.pauses import PauseMark, split_pauses
from omni.text.sentences import split_text

_LETTER = re.compile(r"(?s:.)[\u0300-\u036f]*")  # with marks that no composed letter has


def spell(text: str, units: CTCVocabulary) -> list[int]:
    """Encodes a text for a Talker, normalised as in training: without punctuation and emoji.

    Accents of letters that are not in the vocabulary are removed: "naïve" may become "naive".

    Args:
        text: Any text.
        units: The Talker's vocabulary.

    Raises:
        UserError: If nothing is left, or there are characters outside the vocabulary.
    """
    if units.outside(text):
        text = "".join(_known(letter, units) for letter in _LETTER.findall(unicodedata.normalize("NFC", text)))
    if outside := units.outside(text):
        some = " ".join(sorted(outside)[:10])
        raise UserError(f"{_shown(text)!r} cannot be spoken: the Talker was not trained on {some}")
    spelled = units.encode(text)
    if not spelled:
        raise UserError(f"{_shown(text)!r} cannot be spoken: it has no letters or digits")
    return spelled


def _known(letter: str, units: CTCVocabulary) -> str:
    """A letter with its marks, or without them if the vocabulary lacks it: й stays where it is known, as и is."""
    if not units.outside(letter):
        return letter
    return "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


class SpeechSegment(NamedTuple):
    """A segment of text that is synthesised at once, or a mark of a pause.

    Attributes:
        units: Input of the Talker; empty: a mark.
        pause: Seconds of silence after it at tempo 1; 0 for the last of a text and before a mark.
    """

    units: list[int]
    pause: float

    def silence(self, speed: float) -> float:
        """Seconds of silence at a tempo; a mark means the same at every tempo."""
        return self.pause / speed if self.units else self.pause


def speech_segments(text: str, units: CTCVocabulary) -> list[SpeechSegment]:
    """Splits a text into sentences and parts of long ones, and encodes them for a Talker; see `spell`.

    A mark `[pause 0.5]` is a segment of its own. Its silence replaces the pause at the end of a sentence.

    Args:
        text: Of any length.
        units: The Talker's vocabulary.

    Raises:
        UserError: As in `spell`, or if a mark is not valid.
    """
    normalize = units.normalize
    found: list[SpeechSegment] = []
    for piece in split_pauses(text):
        if isinstance(piece, PauseMark):
            found.append(SpeechSegment([], piece.seconds))
            continue
        parts = split_text(piece, length=lambda part: len(normalize(part)))
        found += [SpeechSegment(spell(part.text, units), part.pause) for part in parts if normalize(part.text)]
    if not any(segment.units for segment in found):
        raise UserError(f"{_shown(text)!r} cannot be spoken: it has no letters or digits")
    return without_pauses_at_marks(found)


def without_pauses_at_marks(segments: Sequence[SpeechSegment]) -> list[SpeechSegment]:
    """The segments of a whole text without the pauses before marks and at its end."""
    following = [*segments, SpeechSegment([], 0.0)][1:]
    return [
        one._replace(pause=0.0) if one.units and not after.units else one
        for one, after in zip(segments, following, strict=True)
    ]
