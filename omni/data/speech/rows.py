"""The rows of a split: measured, encoded, and held out for validation."""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.skipped import SkippedRow
from omni.data.speech.manifests import Utterance, Utterances, sha256_of
from omni.errors import UserError
from omni.files import write_text
from omni.media.audio import SAMPLE_RATE, audio_info, read_audio
from omni.media.container import AudioError, AudioFault, AudioSource
from omni.text.ctc_vocabulary import CTCVocabulary

_FAULTS: dict[AudioFault, str] = {
    "missing": "the audio does not exist",
    "folder": "the audio is a folder",
    "empty": "the audio is empty",
    "unreadable": "the audio cannot be read",
    "truncated": "the audio is cut off",
    "not finite": "the audio holds samples that are not finite",
}


class SpeechRow(NamedTuple):
    """An utterance that can be used.

    Attributes:
        source: Its source.
        number: Of the row in its source.
        utterance: As the source has it.
        duration: Seconds.
        units: Ids of its text.
    """

    source: Utterances
    number: int
    utterance: Utterance
    duration: float
    units: list[int]

    def read(self, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """Its audio (samples,) at a rate in Hz.

        Raises:
            UserError: If it cannot be read, or is more than a second longer than the source states.
        """
        start, where = self.utterance.start, self.utterance.where
        if start is None or sample_rate == SAMPLE_RATE:
            source = self.source.audio(self.number, self.utterance)
            audio = read_utterance(source, where, self.duration + 2, sample_rate=sample_rate)
        else:  # the excerpts of a source have 16 kHz
            source = self.source.whole_audio(self.number, self.utterance)
            audio = read_utterance(source, where, self.duration, start=start, sample_rate=sample_rate)
        if len(audio) > (self.duration + 1) * sample_rate:
            problem = f"is longer than the stated {self.duration:.2f} s"
            raise UserError(f"{where}: {self.utterance.audio} {problem}: correct its duration")
        return audio


def read_utterance(
    source: AudioSource, where: str, duration: float, *, start: float = 0.0, sample_rate: int = SAMPLE_RATE
) -> Tensor:
    """The audio of a row, (samples,) at `sample_rate` Hz.

    Args:
        source: Its file, or its content, as of an archive or the Hub.
        where: The row; errors of a content, which has no name, start with it.
        duration: Most seconds to read.
        start: Seconds to skip.
        sample_rate: Of the result in Hz.

    Raises:
        AudioError: If it cannot be read.
    """
    try:
        return read_audio(source, start=start, duration=duration, sample_rate=sample_rate)
    except AudioError as error:
        if isinstance(source, bytes):
            raise AudioError(error.fault, f"{where}: {error}") from error
        raise


def read_rows(
    sources: Sequence[Utterances],
    units: CTCVocabulary,
    *,
    min_duration: float,
    max_duration: float,
    cache_dir: Path,
    may_write: bool,
    errors: RowErrors,
    min_confidence: float = 0.0,
) -> tuple[list[SpeechRow], list[SkippedRow]]:
    """The rows of all sources that can be used, and those that cannot.

    Args:
        sources: The sources.
        units: Encodes their texts.
        min_duration: Shorter utterances are left out, in seconds.
        max_duration: Longer ones are left out.
        cache_dir: Folder of measured durations.
        may_write: Whether this process may write to it.
        errors: Of malformed rows, and of those whose audio cannot be read.
        min_confidence: Transcripts by a recogniser that are less certain are left out.

    Raises:
        UserError: At the first of these rows, unless they are left out.
    """
    rows, skipped = [], []
    for source in sources:
        found, malformed = _parsed(source, errors)
        skipped += malformed
        durations = _durations(source, found, cache_dir, may_write=may_write)
        for (number, utterance), duration in zip(found, durations, strict=True):
            reason, ids = None, []
            if isinstance(duration, str):
                reason = _FAULTS[duration]
                errors.add(UserError(f"{utterance.where}: {utterance.audio}: {reason}"))
            elif duration < min_duration:
                reason = f"shorter than data.min_duration, {min_duration} s"
            elif duration > max_duration:
                reason = f"longer than data.max_duration, {max_duration} s"
            elif is_uncertain(utterance, min_confidence):
                reason = f"less certain than data.min_confidence, {min_confidence}"
            else:
                ids, reason = encode_text(utterance.text, units)
            if reason is None:
                rows.append(SpeechRow(source, number, utterance, float(duration), ids))
            else:
                skipped.append(SkippedRow(utterance.where, reason))
    return rows, skipped


def _parsed(source: Utterances, errors: RowErrors) -> tuple[list[tuple[int, Utterance]], list[SkippedRow]]:
    """The rows of a source with their numbers, and those that are malformed."""
    found, malformed = [], []
    for number, row in enumerate(source.rows_or_errors()):
        if isinstance(row, UserError):
            errors.add(row)
            malformed.append(SkippedRow.of(row, source.name))
        else:
            found.append((number, row))
    return found, malformed


def is_uncertain(utterance: Utterance, min_confidence: float) -> bool:
    """Whether it has a transcript by a recogniser with less than this confidence."""
    return utterance.confidence is not None and utterance.confidence < min_confidence


def encode_text(text: str, units: CTCVocabulary) -> tuple[list[int], str | None]:
    """The ids of a text, and why it cannot be encoded or None."""
    try:
        if outside := units.outside(text):
            return [], f"characters outside the units, such as {min(outside)!r}"
        ids = units.encode(text)
    except UserError as error:
        return [], str(error)
    return ids, None if ids else "no text"


def split_by_speaker(
    rows: Sequence[SpeechRow], fraction: float, speakers: Sequence[str] | None
) -> tuple[list[SpeechRow], list[SpeechRow]]:
    """Holds speakers out: those named, or else some chosen by a hash of their names.

    Args:
        rows: All rows.
        fraction: Smallest share of the rows to hold out, where no speakers are named.
        speakers: Their names.

    Returns:
        Rows to train on, and those held out.

    Raises:
        UserError: If a row has no speaker, or a named speaker has no rows.
    """
    counts = Counter(row.utterance.speaker for row in rows)
    if None in counts or len(counts) < 2:
        where = next((row.utterance.where for row in rows if row.utterance.speaker is None), rows[0].utterance.where)
        raise UserError(f"{where}: no validation data and no speaker to hold out: give data.val")
    if speakers is None:
        speakers = chosen_by_hash({str(name): count for name, count in counts.items()}, fraction)
    elif unknown := set(speakers) - {str(name) for name in counts}:
        known = ", ".join(sorted(map(str, counts)))
        raise UserError(f"data.val_speakers: no speaker is called {min(unknown)!r}; there are: {known}")
    held_out = set(speakers)
    kept = [row for row in rows if row.utterance.speaker not in held_out]
    if not kept:
        raise UserError("data.val_speakers names all speakers: leave some to train on")
    return kept, [row for row in rows if row.utterance.speaker in held_out]


def chosen_by_hash(counts: Mapping[str, int], fraction: float) -> list[str]:
    """Some groups, chosen by a hash of their names, with at least a given share of all rows; never all groups.

    Args:
        counts: Rows of each group; two groups or more.
        fraction: The share.
    """
    names = sorted(counts, key=lambda name: (zlib.crc32(name.encode(errors="surrogatepass")), name))
    wanted, held = fraction * sum(counts.values()), 0
    for number, name in enumerate(names):
        if held >= wanted or number + 1 == len(names):
            return names[:number]
        held += counts[name]
    return names


def rows_fingerprint(rows: Sequence[SpeechRow]) -> str:
    """Identifies texts and audio files of some rows, in hex."""
    return sha256_of(f"{row.source.audio_version(row.utterance)} {row.units}" for row in rows)


def _durations(
    source: Utterances, rows: Sequence[tuple[int, Utterance]], cache_dir: Path, *, may_write: bool
) -> list[float | AudioFault]:
    """Seconds of each numbered row, as stated or else measured once; or the fault of its audio."""
    unstated = [(number, row) for number, row in rows if row.duration is None]
    measured = iter(_measured(source, unstated, cache_dir, may_write=may_write) if unstated else ())
    durations: list[float | AudioFault] = []
    for _, row in rows:
        if row.duration is None:
            durations.append(next(measured))
        else:
            durations.append(row.duration if source.exists(row) else "missing")
    return durations


def _measured(
    source: Utterances, rows: Sequence[tuple[int, Utterance]], cache_dir: Path, *, may_write: bool
) -> list[float | AudioFault]:
    """Seconds of these rows from the headers of their files, kept on disk."""

    def duration(number: int, row: Utterance) -> float:
        return audio_info(source.audio(number, row)).duration

    return _kept("durations", duration, source, rows, cache_dir, may_write=may_write)


def sample_rates(rows: Sequence[SpeechRow], cache_dir: Path, *, may_write: bool) -> list[int | AudioFault]:
    """The sample rates of the rows' files in Hz, or the faults of their audio; from the headers, kept on disk.

    Args:
        rows: Source after source.
        cache_dir: Folder of what was read.
        may_write: Whether this process may write to it.
    """
    rates: list[Any] = []
    for source, part in groupby(rows, key=lambda row: row.source):

        def rate(number: int, row: Utterance, source: Utterances = source) -> float:
            return audio_info(source.whole_audio(number, row)).sample_rate

        numbered = [(row.number, row.utterance) for row in part]
        rates += _kept("rates", rate, source, numbered, cache_dir, may_write=may_write)
    return rates


def _kept(
    name: str,
    measure: Callable[[int, Utterance], float],
    source: Utterances,
    rows: Sequence[tuple[int, Utterance]],
    cache_dir: Path,
    *,
    may_write: bool,
) -> list[float | AudioFault]:
    """A number for each row of a source, or the fault of its audio: measured once, and kept on disk."""
    key = sha256_of(source.audio_version(row) for _, row in rows)
    path = cache_dir / f"{key[:32]}.{name}.json"
    with suppress(OSError, ValueError, RecursionError):  # missing or damaged: they are measured again
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, list) and len(kept) == len(rows) and all(isinstance(n, float | int | str) for n in kept):
            return kept
    measured: list[float | AudioFault] = []
    for number, row in tqdm(rows, desc="measuring utterances", leave=False, disable=None):
        try:
            measured.append(measure(number, row))
        except AudioError as error:
            measured.append(error.fault)
    if may_write:
        write_text(path, json.dumps(measured))
    return measured
