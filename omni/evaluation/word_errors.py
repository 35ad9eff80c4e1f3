"""Word and character errors: counted, by group, and with the intervals that chance allows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jiwer
import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000  # of the bootstrap
_LONGEST = 4000  # characters of an alignment that are shown
_LENGTHS = (5, 10, 20)  # words: borders of the classes of length


class Row(NamedTuple):
    """An utterance, normalised.

    Attributes:
        name: Where it stands.
        speaker: Who says it, if known.
        reference: What is said.
        hypothesis: What was understood.
    """

    name: str
    speaker: str | None
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Errors:
    """Word and character errors of some utterances.

    Attributes:
        utterances: How many.
        words: In the references.
        substitutions: Words taken for others.
        deletions: Words missed.
        insertions: Words that were not said.
        characters: In the references.
        character_errors: Substituted, missed or added.
    """

    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    characters: int
    character_errors: int

    @property
    def wer(self) -> float:
        """Word errors for each word of the references."""
        return (self.substitutions + self.deletions + self.insertions) / self.words

    @property
    def cer(self) -> float:
        """Character errors for each character of the references."""
        return self.character_errors / self.characters

    def figures(self) -> dict[str, Any]:
        """Plain data, the rates first."""
        return {"wer": self.wer, "cer": self.cer, **asdict(self)}


def count_errors(rows: Iterable[Row]) -> Errors:
    """Counts the errors of utterances whose references are not empty.

    Args:
        rows: The utterances.
    """
    rows = list(rows)
    references, hypotheses = [row.reference for row in rows], [row.hypothesis for row in rows]
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    return Errors(
        utterances=len(rows),
        words=words.hits + words.substitutions + words.deletions,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        characters=characters.hits + characters.substitutions + characters.deletions,
        character_errors=characters.substitutions + characters.deletions + characters.insertions,
    )


def bootstrap(systems: Sequence[Sequence[Row]], *, seed: int = 0) -> NDArray[np.float64]:
    """WERs of systems on utterances that are drawn anew from the same ones, the same for all systems, 10,000 times.

    The bootstrap of Bisani and Ney (ICASSP 2004): the spread of a column tells how sure a WER is, that of the
    difference of two columns how sure it is that one system is better than the other.

    Args:
        systems: The utterances as each system understood them.
        seed: Of the draws.

    Returns:
        (draws, systems).
    """
    errors = np.array([[word_errors(row) for row in rows] for rows in zip(*systems, strict=True)], dtype=float)
    words = np.array([len(row.reference.split()) for row in systems[0]], dtype=float)
    drawn, rng = np.empty((DRAWS, len(systems))), np.random.default_rng(seed)
    for i in range(DRAWS):
        rows = rng.integers(0, len(words), len(words))
        drawn[i] = errors[rows].sum(0) / words[rows].sum()
    return drawn


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The borders between which 95 % of the draws lie."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def compare(one: Sequence[Row], other: Sequence[Row], *, seed: int = 0) -> tuple[float, float, float]:
    """How much higher the WER of `one` is than that of `other`, and the borders of its 95 % interval.

    Args:
        one: The utterances as one system understood them.
        other: The same as the other did.
        seed: Of the draws; see `bootstrap`.
    """
    drawn = bootstrap((one, other), seed=seed)
    return count_errors(one).wer - count_errors(other).wer, *interval(drawn[:, 0] - drawn[:, 1])


def grouped(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Utterances by `speaker`, as far as these are known, and by `words`, classes of length."""
    speakers: dict[str, list[Row]] = defaultdict(list)
    lengths: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.speaker is not None:
            speakers[row.speaker].append(row)
        lengths[_length_class(len(row.reference.split()))].append(row)
    classes = [_length_class(words) for words in (1, 6, 11, 21)]
    return {
        "speaker": dict(sorted(speakers.items())),
        "words": {name: lengths[name] for name in classes if name in lengths},
    }


def _length_class(words: int) -> str:
    below = [border for border in _LENGTHS if border < words]
    above = [border for border in _LENGTHS if border >= words]
    return f"{below[-1] + 1 if below else 1}–{above[0]}" if above else f"over {_LENGTHS[-1]}"


def worst_rows(rows: Iterable[Row], most: int) -> list[Row]:
    """The utterances with the most word errors, the worst first; none without errors."""
    ranked = sorted(((word_errors(row), -i, row) for i, row in enumerate(rows)), reverse=True)
    return [row for errors, _, row in ranked[:most] if errors]


def word_errors(row: Row) -> int:
    """Words of an utterance that were taken for others, missed or added."""
    counts = jiwer.process_words(row.reference, row.hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions


def aligned(row: Row) -> list[str]:
    """Reference and hypothesis one above the other, and what differs marked: three lines, cut to 4,000 characters."""
    shown = jiwer.visualize_alignment(
        jiwer.process_words(row.reference, row.hypothesis), show_measures=False, skip_correct=False
    )
    lines = [line for line in shown.split("\n") if line.startswith(("REF:", "HYP:", "    "))]
    return [line if len(line) <= _LONGEST else line[:_LONGEST] + "…" for line in lines]
