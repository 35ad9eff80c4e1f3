"""The rows of a split: measured, encoded, and held out for validation."""

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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

    def read(self) -> Tensor:
        """Its audio: (samples,).

        Raises:
            UserError: If it cannot be read, or is more than a second longer than the source states.
        """
        source, where = self.source.audio(self.number, self.utterance), self.utterance.where
        audio = read_utterance(source, where, self.duration + 2)
        if len(audio) > (self.duration + 1) * SAMPLE_RATE:
            problem = f"is longer than the stated {self.duration:.2f} s"
            raise UserError(f"{where}: {self.utterance.audio} {problem}: correct its duration")
        return audio


def read_utterance(source: AudioSource, where: str, duration: float) -> Tensor:
    """The audio of a row, (samples,) at 16 kHz.

    Args:
        source: Its file, or its content, as of an archive or the Hub.
        where: The row; errors of a content, which has no name, start with it.
        duration: Most seconds to read.

    Raises:
        AudioError: If it cannot be read.
    """
    try:
        return read_audio(source, duration=duration)
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
    key = sha256_of(source.audio_version(row) for _, row in rows)
    path = cache_dir / f"{key[:32]}.durations.json"
    with suppress(OSError, ValueError, RecursionError):  # missing or damaged: they are measured again
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, list) and len(kept) == len(rows) and all(isinstance(n, float | int | str) for n in kept):
            return kept
    measured: list[float | AudioFault] = []
    for number, row in tqdm(rows, desc="measuring utterances", leave=False, disable=None):
        try:
            measured.append(audio_info(source.audio(number, row)).duration)
        except AudioError as error:
            measured.append(error.fault)
    if may_write:
        write_text(path, json.dumps(measured))
    return measured
