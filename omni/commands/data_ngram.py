"""`omni data ngram`: trains a language model for speech recognition."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.loading.jsonl import jsonl_rows
from omni.data.speech.corpora import numbered_lines
from omni.errors import UserError
from omni.text.kneser_ney import train_ngrams
from omni.text.ngram import UNKNOWN
from omni.text.normalization import TextNormalization


def train_language_model(
    texts: list[str],
    out: Path,
    *,
    order: int = 3,
    checkpoint: str | None = None,
    text_column: str = "text",
) -> None:
    """Train an n-gram language model of words, for `omni transcribe --lm`, and write it in ARPA format.

    The smoothing is interpolated modified Kneser-Ney (Chen and Goodman, 1999). All n-grams are kept in memory, about
    0.3 kB each.

    Example:
        omni data ngram books.txt data/an4/train.jsonl --out lm.arpa

    Args:
        texts: .txt files with a sentence on each line, and .jsonl manifests. Leave out the texts of the recordings that
            are transcribed, or their word error rate means nothing.
        out: The .arpa file to write.
        order: Number of words of the longest n-grams.
        checkpoint: A recogniser, whose text normalisation is used; by default lower case, no punctuation, numbers
            spelled out.
        text_column: Column of the text in .jsonl files.

    Raises:
        UserError: If a text cannot be read, there are no words, or `out` cannot be written.
    """
    if out.suffix != ".arpa":
        raise UserError(f"out is {out}: its suffix must be .arpa")
    normalize = Checkpoint.open(checkpoint).ctc_vocabulary.normalize if checkpoint else TextNormalization()
    lm = train_ngrams(read_sentences(texts, normalize, text_column=text_column), order)
    lm.write(out)
    counts = [sum(len(ngram) == number for ngram in lm.log_probs) for number in range(1, lm.order + 1)]
    words = len(lm.words - {UNKNOWN}) - 1  # without the end of a sentence
    ngrams = ", ".join(f"{count:,} {number}-grams" for number, count in enumerate(counts, start=1))
    print(f"{out}: {words:,} words; {ngrams}")


def read_sentences(
    texts: Sequence[str], normalize: TextNormalization, *, text_column: str = "text"
) -> Iterator[list[str]]:
    """The words of each line or row with words.

    Args:
        texts: .txt and .jsonl files.
        normalize: Applied to each.
        text_column: Column of the text in .jsonl files.

    Raises:
        UserError: If a file cannot be read, or a row has no text.
    """
    for path in map(Path, texts):
        for text in read_texts(path.expanduser(), text_column):
            if words := normalize(text).split():
                yield words


def read_texts(path: Path, column: str) -> Iterator[str]:
    """The lines of a .txt file, or the texts of a .jsonl file.

    Raises:
        UserError: If it cannot be read, or a row has no text.
    """
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give .txt or .jsonl files")
    if path.suffix == ".txt":
        yield from (line for _, line in numbered_lines(path))
        return
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: texts are .txt files with a sentence on each line, or .jsonl")
    for where, row in jsonl_rows(path):
        if isinstance(row, UserError):
            raise row
        if not isinstance(text := row.get(column), str):
            raise UserError(f"{where}: has no text in `{column}`: correct the row, or name another --text_column")
        yield text
