"""Readings: given sentences, spelled words and numbers, in many voices of eSpeak NG."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from omni.synthetic.languages.spoken import ENGLISH, SpokenLanguage
from omni.synthetic.scene import pick, row_id
from omni.synthetic.speech import NARRATION, SAMPLE_RATE, SPEAKERS, Utterance, waveform

RATES = range(110, 221)  # words per minute: from slow dictation to fast reading
PITCHES = range(15, 86)
_PROBES = 48  # utterances whose length is measured to find the number that makes some hours
_LETTERS = range(3, 9)  # of a spelled word
_RUN = re.compile(r"\b[a-z](?: [a-z])+\b")  # letters that are spelled


@dataclass(frozen=True)
class Readings:
    """Utterances of given sentences, each independent of the others but for the order of the sentences.

    All sentences of a split are read before one is read again. Validation has other voices than training.

    Attributes:
        sentences: Of each split, `train` and `val`.
        language: Of eSpeak NG; `en` has all accents of English.
        spelled: Share of the utterances that are letters, half of them those of words of the sentences.
        numbers: Share of the utterances that are numbers, digit by digit, as years, or whole.
        spell: Spells the digits of a text.
        seed: Of everything that is drawn.
        voice: The one voice of both splits, at one rate and pitch; None: many voices.
    """

    sentences: Mapping[str, Sequence[str]]
    language: str
    spelled: float
    numbers: float
    spell: Callable[[str], str]
    seed: int = 0
    voice: str | None = None

    def speakers(self, split: str) -> Sequence[str]:
        """Voices of a split."""
        if self.voice is not None:
            return (self.voice,)
        return SPEAKERS[split] if self.language == ENGLISH else SpokenLanguage(self.language).speakers(split)

    def utterances(self, split: str, size: int) -> list[Utterance]:
        """The first utterances of a split."""
        texts = list(self.sentences[split])
        Random(f"{self.seed}/{split}/readings").shuffle(texts)
        return [self._utterance(split, index, texts) for index in range(size)]

    def size_of(self, hours: float) -> int:
        """About the number of training utterances that take some hours, by the length of the first ones; 1 or more."""
        samples = [len(waveform(one)) for one in self.utterances("train", _PROBES)]
        return max(1, round(hours * 3600 * SAMPLE_RATE * _PROBES / sum(samples)))

    def _utterance(self, split: str, index: int, texts: Sequence[str]) -> Utterance:
        rng = Random(f"{self.seed}/{split}/{index}/reading")
        kind = rng.random()
        text = texts[index % len(texts)]
        if kind < self.spelled:
            text = _spelled_word(text, rng)
        elif kind < self.spelled + self.numbers:
            text = self.spell(_number(rng))
        speaker, rate, pitch = pick(rng, self.speakers(split)), pick(rng, RATES), pick(rng, PITCHES)
        if self.voice is not None:
            rate, pitch = NARRATION
        return Utterance(row_id(split, index), text, speaker, rate, pitch, spoken_form(text, pauses=rng.random() < 0.5))


def spoken_form(text: str, *, pauses: bool) -> str | None:
    """What eSpeak NG reads for a text with spelled letters; None: the text.

    It takes an "a" between letters for the article, but not one before a comma.

    Args:
        text: In lower case where letters are spelled.
        pauses: Whether there is a pause after each letter.
    """

    def letters(found: re.Match[str]) -> str:
        units = found[0].split()
        return " ".join(f"{unit}," if pauses or unit == "a" else unit for unit in units[:-1]) + f" {units[-1]}"

    changed = _RUN.sub(letters, text)
    return None if changed == text else changed


def _spelled_word(text: str, rng: Random) -> str:
    """The letters of a word of a text, or, in half of the cases, of no word."""
    words = [word for word in re.findall(r"[^\W\d_]+", text.lower()) if len(word) in _LETTERS]
    if words and rng.random() < 0.5:
        return " ".join(pick(rng, words))
    letters = sorted(set("".join(re.findall(r"[^\W\d_]+", text.lower())))) or ["a"]
    return " ".join(pick(rng, letters) for _ in range(rng.randint(2, 7)))


def _number(rng: Random) -> str:
    """Digits: one by one, in pairs as years are read, or a number."""
    kind = rng.random()
    if kind < 0.4:
        return " ".join(str(rng.randrange(10)) for _ in range(rng.randint(2, 7)))
    if kind < 0.7:
        return f"{rng.randint(11, 20)} {rng.randint(11, 99)}"
    return str(rng.randrange(10 ** rng.randint(1, 4)))
