"""Loops: what a language model that listens gets caught in, and says again and again."""

import re

_LONGEST = 16  # words of a phrase that is looked for
_MOST = 4  # times in a row that people say a phrase: "very very very very"
_LETTERS = re.compile(r"([^\W\d_]{1,6}?)\1{8,}", re.IGNORECASE)  # letters only: what numbers repeat is their value


def remove_loops(text: str) -> str:
    """The text with every loop in it said once.

    A loop is a phrase of up to 16 words that comes more than four times in a row, whatever its case and punctuation, or
    up to six letters that do so more than eight times within a word ("hahaha..."). Digits within a word are never one:
    "year 2000", "$5,000" and "1000000000" stay as they are.

    Args:
        text: What was understood.
    """
    words = text.split()
    keys = [re.sub(r"[^\w]", "", word).casefold() or word for word in words]
    kept: list[str] = []
    place = 0
    while place < len(words):
        size, times = _loop(keys, place)
        kept += words[place : place + size]
        place += size * times
    found = " ".join(_LETTERS.sub(r"\1", word) for word in kept)
    return found if found != " ".join(words) else text


def _loop(keys: list[str], place: int) -> tuple[int, int]:
    """Words of the loop that begins at a place, and how often they come; (1, 1) where there is none."""
    for size in range(1, min(_LONGEST, (len(keys) - place) // (_MOST + 1)) + 1):
        times, phrase = 1, keys[place : place + size]
        while keys[place + size * times : place + size * (times + 1)] == phrase:
            times += 1
        if times > _MOST:
            return size, times
    return 1, 1
