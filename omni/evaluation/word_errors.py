"""Word and character errors: counts, groups, and bootstrap intervals."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jiwer
import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000  # of the bootstrap
_MAX_LINE = 4000  # characters of a printed alignment
_LENGTHS = {"1–5": 5, "6–10": 10, "11–20": 20, "over 20": float("inf")}  # most words of each class


class Row(NamedTuple):
    """A normalised utterance.

    Attributes:
        name: Its file and row.
        speaker: Its speaker, if known.
        reference: The reference text.
        hypothesis: The system's text.
    """

    name: str
    speaker: str | None
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Errors:
    """Word and character errors of utterances.

    Attributes:
        utterances: Number of utterances.
        words: Words of the references.
        substitutions: Substituted words.
        deletions: Deleted words.
        insertions: Inserted words.
        characters: Characters of the references.
        character_errors: Characters substituted, deleted or inserted.
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
        """Word errors per word of the references."""
        return (self.substitutions + self.deletions + self.insertions) / self.words

    @property
    def cer(self) -> float:
        """Character errors per character of the references."""
        return self.character_errors / self.characters

    def figures(self) -> dict[str, Any]:
        """Rates and counts as plain data."""
        return {"wer": self.wer, "cer": self.cer, **asdict(self)}


def count_errors(rows: Iterable[Row]) -> Errors:
    """Counts the errors of utterances with non-empty references."""
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
    """WERs on 10,000 bootstrap samples of the utterances, the same samples for all systems.

    After Bisani and Ney (ICASSP 2004): the spread of a column is the uncertainty of a WER, the spread of the difference
    of two columns that of one system's advantage over the other.

    Args:
        systems: The same utterances with the hypotheses of each system.
        seed: Seed of the samples.

    Returns:
        (samples, systems).
    """
    errors = np.array([[word_errors(row) for row in rows] for rows in zip(*systems, strict=True)], dtype=float)
    words = np.array([len(row.reference.split()) for row in systems[0]], dtype=float)
    wers, rng = np.empty((DRAWS, len(systems))), np.random.default_rng(seed)
    for i in range(DRAWS):
        rows = rng.integers(0, len(words), len(words))
        wers[i] = errors[rows].sum(0) / words[rows].sum()
    return wers


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The bounds of the central 95 % of the samples."""
    low, high = np.percentile(samples, (2.5, 97.5))
    return float(low), float(high)


def grouped(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Utterances by `speaker`, where known, and by `words` of the reference."""
    speakers: dict[str, list[Row]] = defaultdict(list)
    lengths: dict[str, list[Row]] = {name: [] for name in _LENGTHS}
    for row in rows:
        if row.speaker is not None:
            speakers[row.speaker].append(row)
        words = len(row.reference.split())
        lengths[next(name for name, most in _LENGTHS.items() if words <= most)].append(row)
    return {
        "speaker": dict(sorted(speakers.items())),
        "words": {name: group for name, group in lengths.items() if group},
    }


def worst_rows(rows: Iterable[Row], most: int) -> list[Row]:
    """The utterances with the most word errors, the worst first; those without errors are left out."""
    return [row for row in sorted(rows, key=word_errors, reverse=True)[:most] if word_errors(row)]


class WordErrors(NamedTuple):
    """Errors at one word of the references.

    Attributes:
        occurrences: Number of times that it is in the references.
        wrong: Those that are substituted or deleted.
        heard: By word of the hypotheses, the number of occurrences that it replaces; `""` for deletions.
    """

    occurrences: int
    wrong: int
    heard: dict[str, int]


def errors_by_word(rows: Iterable[Row]) -> dict[str, WordErrors]:
    """Errors at each word of the references, the word with most errors first; inserted words are not counted."""
    counts, heard = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for row in rows:
        words = row.reference.split()
        counts.update(words)
        for edit in jiwer.process_words(row.reference, row.hypothesis).alignments[0]:
            found = row.hypothesis.split()[edit.hyp_start_idx : edit.hyp_end_idx]
            for number, word in enumerate(words[edit.ref_start_idx : edit.ref_end_idx]):
                if edit.type in ("substitute", "delete"):
                    heard[word][found[number] if edit.type == "substitute" else ""] += 1
    errors = {word: WordErrors(count, heard[word].total(), dict(heard[word])) for word, count in counts.items()}
    return dict(sorted(errors.items(), key=lambda item: (-item[1].wrong, item[0])))


def word_errors(row: Row) -> int:
    """Substituted, deleted and inserted words of an utterance."""
    counts = jiwer.process_words(row.reference, row.hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions


def aligned(row: Row) -> list[str]:
    """Reference, hypothesis and their differences on three lines, each cut to 4,000 characters."""
    shown = jiwer.visualize_alignment(
        jiwer.process_words(row.reference, row.hypothesis), show_measures=False, skip_correct=False
    )
    lines = [line for line in shown.split("\n") if line.startswith(("REF:", "HYP:", "    "))]
    return [line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + "…" for line in lines]
