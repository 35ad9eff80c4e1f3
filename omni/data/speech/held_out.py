"""Utterances that a run holds out: what an export is compared on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor

from omni.data.loading.run_data import local_entries, run_data
from omni.data.speech.manifests import Utterance, Utterances
from omni.data.speech.opening import open_utterances
from omni.data.speech.rows import chosen_by_hash, encode_text
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, AudioError, read_audio
from omni.text.ctc_vocabulary import CTCVocabulary


class _Row(NamedTuple):
    """An utterance, its source, and its number in it."""

    source: Utterances
    number: int
    row: Utterance


def held_out_utterances(
    config: Any, limit: int, *, units: CTCVocabulary | None = None
) -> tuple[list[tuple[Tensor, str]], str]:
    """Utterances that a run of `SpeechData` or `CodesData` does not train on, of local files.

    Args:
        config: The run's configuration; None if it has none.
        limit: Most utterances.
        units: The vocabulary of a Talker, whose data holds sentences out and not speakers.

    Returns:
        Audio (samples,) at 16 kHz and text of each, and their source; or none, and why.
    """
    data = run_data(config)
    if data.kind not in ("", "SpeechData", "CodesData"):
        return [], f"the run's data is {data.kind}"
    column = data.options.get("text_column", "text")
    if val := local_entries(data.options.get("val")):
        return _read(_without_errors(_rows(val, column, split="val")), limit), ", ".join(val)
    train = local_entries(data.options.get("train"))
    if data.options.get("val") or not train:
        return [], data.absent
    rows = _without_errors(_rows(train, column))
    if data.kind == "CodesData":
        if units is None:
            return [], "the run's data is CodesData"
        sentences = [" ".join(map(str, encode_text(one.row.text, units)[0])) for one in rows]
        chosen = set(chosen_by_hash(Counter(filter(None, sentences)), data.options.get("val_fraction", 0.05)))
        kept = (one for one, sentence in zip(rows, sentences, strict=True) if sentence in chosen)
        return _read(kept, limit), f"held-out sentences of {', '.join(train)}"
    counts = Counter(str(one.row.speaker) for one in rows)
    if len(counts) < 2 and not data.options.get("val_speakers"):
        return [], "the run has neither validation data nor speakers to hold out"
    held = data.options.get("val_speakers") or chosen_by_hash(counts, data.options.get("val_fraction", 0.1))
    held_out = (one for one in rows if str(one.row.speaker) in held)
    return _read(held_out, limit), f"held-out speakers of {', '.join(train)}"


def utterances_of(
    entries: Sequence[str], limit: int, *, text_column: str = "text", sample_rate: int = SAMPLE_RATE
) -> list[tuple[Tensor, str]]:
    """The first utterances of manifests or folders: audio (samples,) at `sample_rate` Hz, and text.

    Raises:
        UserError: If a source or a recording cannot be read.
    """
    rows = _rows(entries, text_column)
    if wrong := next((row for row in rows if isinstance(row, UserError)), None):
        raise wrong
    return [_heard(row, sample_rate) for row in islice(_without_errors(rows), limit)]


def _rows(entries: Sequence[str], text_column: str, *, split: str = "train") -> list[_Row | UserError]:
    sources = open_utterances(entries, split=split, text_column=text_column)
    found = ((source, number, row) for source in sources for number, row in enumerate(source.rows_or_errors()))
    return [row if isinstance(row, UserError) else _Row(source, number, row) for source, number, row in found]


def _without_errors(rows: Iterable[_Row | UserError]) -> list[_Row]:
    return [row for row in rows if not isinstance(row, UserError)]


def _read(rows: Iterable[_Row], limit: int) -> list[tuple[Tensor, str]]:
    """The first rows that can be read: those that cannot are left out of training, too."""

    def readable() -> Iterator[tuple[Tensor, str]]:
        for row in rows:
            with suppress(AudioError):
                yield _heard(row, SAMPLE_RATE)

    return list(islice(readable(), limit))


def _heard(row: _Row, sample_rate: int) -> tuple[Tensor, str]:
    return read_audio(row.source.audio(row.number, row.row), sample_rate=sample_rate), row.row.text
