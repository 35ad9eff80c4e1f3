"""N-gram language models of words: probabilities with back-off (Katz, 1987), and their ARPA files."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, final

from omni.files import atomic_write

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 probability of <s>, as ARPA files write it; and of unknown words in a model without <unk>

Ngram = tuple[str, ...]


class Perplexity(NamedTuple):
    """How well a model predicts sentences.

    Attributes:
        value: Inverse geometric mean of the probabilities of all words and sentence ends.
        words: Number of words.
        unknown: Number of words that the model does not know.
    """

    value: float
    words: int
    unknown: int


@final
class NgramModel:
    """Probabilities of words, each given up to `order - 1` words before it.

    Args:
        log_probs: Log10 probability of the last word of an n-gram given the others.
        backoffs: Log10 weight of the shorter context, for words that do not follow the context.

    Attributes:
        order: Words of the longest n-grams.
    """

    def __init__(self, log_probs: Mapping[Ngram, float], backoffs: Mapping[Ngram, float]) -> None:
        self.log_probs, self.backoffs = dict(log_probs), dict(backoffs)
        self.order = max(map(len, self.log_probs))
        self.words = frozenset(ngram[0] for ngram in self.log_probs if len(ngram) == 1) - {START}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NgramModel) and (self.log_probs, self.backoffs) == (other.log_probs, other.backoffs)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def start(self) -> Ngram:
        """The context of a sentence's first word."""
        return (START,)[: self.order - 1]

    def extend(self, context: Ngram, word: str) -> Ngram:
        """The context of the word that follows `word`: at most `order - 1` words."""
        if word not in self.words:
            word = UNKNOWN
        return (*context, word)[-self.order + 1 :] if self.order > 1 else ()

    def log_prob(self, context: Ngram, word: str) -> float:
        """Log10 probability of a word, or of the sentence's end, after a context of `extend`.

        Unknown words have the probability of `<unk>`; without `<unk>` in the model, 1e-99.
        """
        if word not in self.words:
            word = UNKNOWN
        backoff = 0.0
        while (found := self.log_probs.get((*context, word))) is None and context:
            backoff += self.backoffs.get(context, 0.0)
            context = context[1:]
        return backoff + (NEVER if found is None else found)

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> Perplexity:
        """Perplexity on sentences, each a sequence of words; their ends count as words of the mean."""
        total, count, words, unknown = 0.0, 0, 0, 0
        for sentence in sentences:
            context = self.start
            for word in (*sentence, END):
                total += self.log_prob(context, word)
                context = self.extend(context, word)
            count, words = count + len(sentence) + 1, words + len(sentence)
            unknown += sum(word not in self.words for word in sentence)
        return Perplexity(10 ** (-total / count) if count else math.nan, words, unknown)

    def write(self, path: Path) -> None:
        """Writes an ARPA file, in UTF-8; reading it gives an equal model."""
        ngrams = sorted(self.log_probs, key=lambda ngram: (len(ngram), ngram))
        by_order = {order: list(group) for order, group in groupby(ngrams, key=len)}
        with atomic_write(path) as file:
            lines = ["\\data\\", *(f"ngram {order}={len(group)}" for order, group in by_order.items()), ""]
            file.write("\n".join(lines).encode())
            for order, group in by_order.items():
                file.write(f"\n\\{order}-grams:\n".encode())
                for ngram in group:
                    backoff = f"\t{self.backoffs[ngram]!r}" if ngram in self.backoffs else ""
                    file.write(f"{self.log_probs[ngram]!r}\t{' '.join(ngram)}{backoff}\n".encode())
            file.write(b"\n\\end\\\n")
