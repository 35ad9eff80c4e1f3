"""Shallow fusion of a language model and hotwords into the CTC search (Hannun et al., arXiv:1408.2873)."""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

from omni.decoding.hotwords import HotwordMatch, Hotwords
from omni.text.ngram import END, NEVER, UNKNOWN, Ngram, NgramModel

LM_WEIGHT, HOTWORD_BONUS = 0.5, 5.0


class FusedPrefix(NamedTuple):
    """The score of a text that grows, in nats.

    Attributes:
        complete: Score of the complete words.
        context: The context of the next word in the language model.
        letters: The word that is not complete.
        match: The hotwords that the complete words end with.
        score: Score of all, with what is expected of the word that is not complete.
    """

    complete: float
    context: Ngram
    letters: str
    match: HotwordMatch
    score: float


@final
class Fusion:
    """Scores texts by a language model and hotwords; added to the log-probabilities of CTC, weighted.

    A word is scored when it ends. Until then it has the probability of the likeliest word that starts like it, without
    context (look-ahead, Ortmanns et al., 1996), so that beams of prefixes with and without a started word compare.

    Args:
        surfaces: Text of each unit of the CTC vocabulary, spaces included; that of the blank is not used.
        lm: The language model, if any.
        lm_weight: Weight of its log-probabilities.
        word_bonus: Nats added for each word; a language model favours texts of few words.
        hotwords: Words of each phrase that is expected.
        hotword_bonus: Nats added for each word of such a phrase.
    """

    def __init__(
        self,
        surfaces: Sequence[str],
        lm: NgramModel | None = None,
        *,
        lm_weight: float = LM_WEIGHT,
        word_bonus: float = 0.0,
        hotwords: Sequence[Ngram] = (),
        hotword_bonus: float = HOTWORD_BONUS,
    ) -> None:
        self.lm, self.word_bonus, self.hotword_bonus = lm, word_bonus, hotword_bonus
        self.weight = lm_weight * math.log(10)  # of log10
        self._parts = [surface.split(" ") for surface in surfaces]
        self._hotwords = Hotwords(hotwords)
        self._likeliest: dict[str, float] = {}  # by the first letters of words
        self._unknown = NEVER if lm is None else lm.log_prob((), UNKNOWN)
        if lm is not None:
            self._look_ahead(lm)

    @property
    def start(self) -> FusedPrefix:
        """The empty text."""
        return FusedPrefix(0.0, self.lm.start if self.lm else (), "", HotwordMatch(), 0.0)

    def extend(self, prefix: FusedPrefix, unit: int) -> FusedPrefix:
        """A text with one more unit."""
        complete, context, letters, match, _ = prefix
        for number, part in enumerate(self._parts[unit]):
            if number:  # after a space
                complete, context, letters, match, _ = self._end_word(FusedPrefix(complete, context, letters, match, 0))
            letters += part
        score = complete + self.hotword_bonus * self._hotwords.expected(match, letters)
        if letters:
            score += self.word_bonus
            score += self.weight * self._likeliest.get(letters, self._unknown) if self.lm else 0.0
        return FusedPrefix(complete, context, letters, match, score)

    def end(self, prefix: FusedPrefix, *, complete: bool) -> float:
        """The score of a text whose last word ends here, and if it is `complete`, the text itself."""
        prefix = self._end_word(prefix)
        if self.lm is None or not complete:
            return prefix.complete
        return prefix.complete + self.weight * self.lm.log_prob(prefix.context, END)

    def _look_ahead(self, lm: NgramModel) -> None:
        for word in lm.words - {END, UNKNOWN}:
            value = lm.log_prob((), word)
            for length in range(1, len(word) + 1):
                if value > self._likeliest.get(word[:length], self._unknown):
                    self._likeliest[word[:length]] = value

    def _end_word(self, prefix: FusedPrefix) -> FusedPrefix:
        complete, context, letters, match, _ = prefix
        if not letters:
            return prefix
        counted, match = self._hotwords.count(match, letters)
        complete += self.word_bonus + self.hotword_bonus * counted
        if self.lm:
            complete += self.weight * self.lm.log_prob(context, letters)
            context = self.lm.extend(context, letters)
        return FusedPrefix(complete, context, "", match, complete)
