"""Training of n-gram models: interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1999)."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from omni.errors import UserError
from omni.text.ngram import END, NEVER, START, UNKNOWN, Ngram, NgramModel

_FEW = (0.5, 1.0, 1.5)  # discounts where counts are too few to estimate them; those of KenLM's --discount_fallback
_DIGITS = 6  # of log10 probabilities

_Counts = Mapping[Ngram, int]


def train_ngrams(sentences: Iterable[Sequence[str]], order: int = 3) -> NgramModel:
    """Trains a model on sentences.

    The n-grams of the highest order count occurrences; those of a lower order the different words before them, except
    at the start of a sentence, where there are none. Counts of 1, 2 and 3 or more are reduced by three discounts, and
    what they free is given to the shorter context, in the end to all words alike, `<unk>` included.

    Args:
        sentences: The words of each.
        order: Words of the longest n-grams; memory grows with it.

    Raises:
        UserError: If the order is less than 1, or there are no words.
    """
    if order < 1:
        raise UserError(f"order is {order}: it must be 1 or more")
    occurrences = _occurrences(sentences, order)
    words = {ngram[-1] for ngram in occurrences[0]} | {END, UNKNOWN}
    if len(words) == 2:
        raise UserError("the texts of the language model have no words: give files with text")
    probabilities: dict[Ngram, float] = {(word,): 1 / len(words) for word in words}
    log_probs: dict[Ngram, float] = {(START,): NEVER}
    backoffs: dict[Ngram, float] = {}
    for number in range(1, order + 1):
        counts = occurrences[-1] if number == order else _continuations(occurrences[number - 1], occurrences[number])
        probabilities, freed = _smoothed(counts, probabilities)
        log_probs |= {ngram: _log10(value) for ngram, value in probabilities.items()}
        backoffs |= {context: _log10(value) for context, value in freed.items() if context}
    return NgramModel(log_probs, backoffs)


def _occurrences(sentences: Iterable[Sequence[str]], order: int) -> list[_Counts]:
    """Occurrences of the n-grams of each order, the sentences' starts and ends included; `<s>` is not counted alone."""
    counts = [Counter[Ngram]() for _ in range(order)]
    for sentence in sentences:
        padded = (START, *(UNKNOWN if word in (START, END) else word for word in sentence), END)
        for last in range(1, len(padded)):
            for number in range(min(order, last + 1)):
                counts[number][padded[last - number : last + 1]] += 1
    return list(counts)


def _continuations(counts: _Counts, longer: _Counts) -> _Counts:
    """For each n-gram the number of different words before it; occurrences where it starts a sentence."""
    before = Counter(ngram[1:] for ngram in longer)
    return {ngram: count if ngram[0] == START else before[ngram] for ngram, count in counts.items()}


def _smoothed(counts: _Counts, shorter: Mapping[Ngram, float]) -> tuple[dict[Ngram, float], dict[Ngram, float]]:
    """Probabilities of n-grams, and the share of each context that is given to the shorter one.

    Args:
        counts: Of the n-grams.
        shorter: Probabilities of the n-grams without their first word; of all words where these have one word.
    """
    discounts = _discounts(counts)
    totals: dict[Ngram, int] = defaultdict(int)
    freed: dict[Ngram, float] = defaultdict(float)
    for ngram, count in counts.items():
        totals[ngram[:-1]] += count
        freed[ngram[:-1]] += discounts[min(count, 3) - 1]
    shares = {context: freed[context] / total for context, total in totals.items()}
    single = not next(iter(shares))  # words without context: also those that never occur have a probability
    found: dict[Ngram, float] = {}
    for ngram in shorter if single else counts:
        count, context = counts.get(ngram, 0), ngram[:-1]
        own = (count - discounts[min(count, 3) - 1]) / totals[context] if count else 0.0
        found[ngram] = own + shares[context] * shorter[ngram if single else ngram[1:]]
    return found, shares


def _discounts(counts: _Counts) -> tuple[float, float, float]:
    """Discounts of counts 1, 2, and 3 or more, by the numbers of n-grams with counts 1 to 4."""
    n1, n2, n3, n4 = (Counter(min(count, 5) for count in counts.values())[count] for count in range(1, 5))
    if not (n1 and n2 and n3 and n4):
        return _FEW
    rate = n1 / (n1 + 2 * n2)
    found = (1 - 2 * rate * n2 / n1, 2 - 3 * rate * n3 / n2, 3 - 4 * rate * n4 / n3)
    return found if all(0 < discount < count for count, discount in enumerate(found, start=1)) else _FEW


def _log10(value: float) -> float:
    return round(math.log10(value), _DIGITS) + 0.0  # not -0.0
