"""Options of recognition with a language model or hotwords, checked before the work."""

import math
from dataclasses import dataclass
from pathlib import Path

from omni.decoding.fusion import HOTWORD_BONUS, LM_WEIGHT, Fusion
from omni.errors import UserError
from omni.text.arpa import read_arpa
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary
from omni.text.ngram import END, UNKNOWN, Ngram, NgramModel

WORD_BONUS = 1.5  # with a language model
_CHECKED = 1000  # words of a language model that are compared with the recogniser's vocabulary


@dataclass(frozen=True)
class FusionOptions:
    """Options of recognition with a language model or hotwords.

    Args:
        lm: A language model in ARPA format, as `omni data ngram` writes it (.arpa, or .gz), used by the beam search.
        lm_weight: Weight of the language model's log-probabilities, 0 or more; 0.5 by default. `omni eval lm` finds it.
        word_bonus: Nats added for each word; by default 1.5 with a language model, otherwise 0.
        hotwords: Words and phrases that are expected, separated by commas: "New York,Ada Lovelace".
        hotword_bonus: Nats added for each word of a hotword; 5 by default.
    """

    lm: Path | None = None
    lm_weight: float | None = None
    word_bonus: float | None = None
    hotwords: str | None = None
    hotword_bonus: float | None = None

    @property
    def used(self) -> bool:
        """Whether any of them is given."""
        return self != FusionOptions()

    @property
    def summary(self) -> str:
        """The options that are given, for reports."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)

    def open(self, units: CTCVocabulary) -> Fusion | None:
        """The fusion for a recogniser; None if no option is given.

        Args:
            units: The vocabulary of its CTC head.

        Raises:
            UserError: If the language model cannot be read or has other words than the recogniser, the vocabulary
                cannot write a hotword, or a number is out of range or without the option it belongs to.
        """
        if not self.used:
            return None
        if self.lm_weight is not None and self.lm is None:
            raise UserError("lm_weight is of a language model: give lm, or leave it out")
        if self.hotword_bonus is not None and self.hotwords is None:
            raise UserError("hotword_bonus is of hotwords: give hotwords, or leave it out")
        if self.lm_weight is not None and self.lm_weight < 0:
            raise UserError(f"lm_weight is {self.lm_weight:g}: it must be 0 or more")
        numbers = {name: getattr(self, name) for name in ("lm_weight", "word_bonus", "hotword_bonus")}
        for name, value in numbers.items():
            if value is not None and not math.isfinite(value):
                raise UserError(f"{name} is {value}: give a finite number")
        defaults = {
            "lm_weight": LM_WEIGHT,
            "word_bonus": WORD_BONUS if self.lm else 0.0,
            "hotword_bonus": HOTWORD_BONUS,
        }
        weights = {name: defaults[name] if value is None else value for name, value in numbers.items()}
        lm = open_lm(self.lm, units) if self.lm else None
        return Fusion(surfaces_of(units), lm, hotwords=_phrases(self.hotwords, units), **weights)


def surfaces_of(units: CTCVocabulary) -> list[str]:
    """The text of each unit, that of the blank empty."""
    return ["" if unit == BLANK else units.surface(unit) for unit in range(units.vocab_size)]


def open_lm(path: Path, units: CTCVocabulary) -> NgramModel:
    """Reads a language model for a recogniser.

    Args:
        path: The ARPA file.
        units: The vocabulary of the recogniser's CTC head.

    Raises:
        UserError: If it cannot be read, or few of its likeliest words are written as the recogniser writes them.
    """
    lm = read_arpa(path.expanduser())
    words = sorted(lm.words - {END, UNKNOWN}, key=lambda word: (-lm.log_prob((), word), word))[:_CHECKED]
    foreign = [word for word in words if units.normalize(word) != word or units.outside(word)]
    if 2 * len(foreign) > len(words):
        raise UserError(
            f"{path}: {len(foreign)} of its {len(words)} likeliest words, such as {foreign[0]!r}, cannot be output by "
            "this recogniser: train one with `omni data ngram --checkpoint`, which writes words as the recogniser does"
        )
    return lm


def _phrases(hotwords: str | None, units: CTCVocabulary) -> list[Ngram]:
    phrases = []
    for phrase in () if hotwords is None else hotwords.split(","):
        words = tuple(units.normalize(phrase).split())
        if not words:
            raise UserError(
                f"hotwords {hotwords!r} have a phrase without words: write them as in 'New York,Ada Lovelace'"
            )
        if outside := units.outside(phrase):
            raise UserError(f"hotword {phrase.strip()!r}: {min(outside)!r} is not in the recogniser's vocabulary")
        phrases.append(words)
    return phrases
