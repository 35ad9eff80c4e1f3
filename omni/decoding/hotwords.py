"""Hotwords: words and phrases that are expected in a recording."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, final

Phrase = tuple[str, ...]


class HotwordMatch(NamedTuple):
    """The start of a phrase at the end of a text.

    Attributes:
        words: The matched words.
        counted: Number of them that are counted already, as a shorter phrase.
    """

    words: Phrase = ()
    counted: int = 0


@final
class Hotwords:
    """Counts words of phrases while a text grows. A phrase within another counts as a part of that one only.

    Args:
        phrases: The words of each.
    """

    def __init__(self, phrases: Iterable[Phrase]) -> None:
        self.phrases = set(phrases)
        self._next: dict[Phrase, dict[str, float]] = defaultdict(dict)  # after the start of a phrase: shares of a word
        for phrase in self.phrases:
            for number, word in enumerate(phrase):
                shares = self._next[phrase[:number]]
                for length in range(1, len(word) + 1):
                    shares[word[:length]] = max(shares.get(word[:length], 0.0), length / len(word))

    def count(self, match: HotwordMatch, word: str) -> tuple[int, HotwordMatch]:
        """Adds a complete word; returns the words of the phrase that it completes, if any, and the next match."""
        for words, counted in _suffixes(HotwordMatch((*match.words, word), match.counted)):
            longer = words in self._next
            if words in self.phrases:
                return len(words) - counted, HotwordMatch(words, len(words)) if longer else HotwordMatch()
            if longer:
                return 0, HotwordMatch(words, counted)
        return 0, HotwordMatch()

    def expected(self, match: HotwordMatch, letters: str) -> float:
        """Words of a phrase that is not complete: those before, and a share of the one that starts with `letters`."""
        found = 0.0
        for words, counted in _suffixes(match):
            share = self._next.get(words, {}).get(letters) if letters else 0.0
            if share is not None:
                found = max(found, len(words) - counted + share)
        return found


def _suffixes(match: HotwordMatch) -> Iterator[HotwordMatch]:
    """The match and the shorter ones at its end, without words that are counted; the longest first."""
    yield match
    for start in range(max(1, match.counted), len(match.words) + 1):
        yield HotwordMatch(match.words[start:])
