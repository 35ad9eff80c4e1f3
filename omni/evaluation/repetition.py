"""Repetition loops in the output of language models."""

import re

_MAX_PHRASE = 16  # words
_MAX_REPEATS = 4  # people do repeat: "very very very very"
_LETTER_LOOP = re.compile(r"([^\W\d_]{1,6}?)\1{8,}", re.IGNORECASE)  # letters only: digits repeat in numbers


def remove_loops(text: str) -> str:
    """Reduces every repetition loop to one repetition.

    A loop is a phrase of up to 16 words that occurs more than four times in a row, ignoring case and punctuation, or up
    to six letters that occur more than eight times in a row within a word ("hahaha..."). Digits are kept: "year 2000",
    "$5,000" and "1000000000" do not change.
    """
    words = text.split()
    keys = [re.sub(r"[^\w]", "", word).casefold() or word for word in words]
    kept: list[str] = []
    place = 0
    while place < len(words):
        size, times = _loop(keys, place)
        kept += words[place : place + size]
        place += size * times
    found = " ".join(_LETTER_LOOP.sub(r"\1", word) for word in kept)
    return found if found != " ".join(words) else text


def _loop(keys: list[str], place: int) -> tuple[int, int]:
    """The loop that starts at `place`: words of its phrase and repetitions; (1, 1) if there is no loop."""
    for size in range(1, min(_MAX_PHRASE, (len(keys) - place) // (_MAX_REPEATS + 1)) + 1):
        times, phrase = 1, keys[place : place + size]
        while keys[place + size * times : place + size * (times + 1)] == phrase:
            times += 1
        if times > _MAX_REPEATS:
            return size, times
    return 1, 1
