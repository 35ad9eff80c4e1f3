"""The rows that a split is made of: read, measured, and what cannot be used left out and counted."""

import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm import tqdm

from omni.batch import SpeechBatch
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.features import FeatureFile, between_silences, in_silence
from omni.data.speech.manifests import Utterance, Utterances, fingerprint
from omni.errors import UserError
from omni.files import write_text
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, SILENCE, LogMel, audio_info, read_audio
from omni.media.container import AudioError, AudioFault
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary

_FAULTS: dict[AudioFault, str] = {
    "missing": "the audio does not exist",
    "folder": "the audio is a folder",
    "empty": "the audio is empty",
    "unreadable": "the audio cannot be read",
    "truncated": "the audio is cut off",
    "not finite": "the audio holds samples that are no finite numbers",
}


class Row(NamedTuple):
    """An utterance that can be trained on.

    Attributes:
        source: Where it is from.
        number: Of the row in its source.
        utterance: As the source has it.
        duration: Seconds.
        units: Its text.
    """

    source: Utterances
    number: int
    utterance: Utterance
    duration: float
    units: list[int]

    def read(self) -> Tensor:
        """Its audio: (samples,).

        Raises:
            UserError: If it cannot be read, or is longer than the source tells by more than a second.
        """
        audio = read_audio(self.source.audio(self.number, self.utterance), duration=self.duration + 2)
        if len(audio) > (self.duration + 1) * SAMPLE_RATE:
            told = f"lasts longer than the {self.duration:.2f} s that are told"
            raise UserError(f"{self.utterance.where}: {self.utterance.audio} {told}: correct its duration")
        return audio


class Skipped(NamedTuple):
    """A row that is left out.

    Attributes:
        where: The row.
        why: The reason, one for many rows.
    """

    where: str
    why: str


def read_rows(
    sources: Sequence[Utterances],
    units: CTCVocabulary,
    *,
    min_duration: float,
    max_duration: float,
    cache_dir: Path,
    may_write: bool,
) -> tuple[list[Row], list[Skipped]]:
    """The rows of all sources that can be used, and those that cannot.

    Args:
        sources: Where they are from.
        units: What their text is written in.
        min_duration: Shorter ones, in seconds, are left out.
        max_duration: Longer ones are left out.
        cache_dir: Where measured durations are kept.
        may_write: Whether they may be written there.
    """
    rows, skipped = [], []
    for source in sources:
        found = list(source.rows())
        durations = _durations(source, found, cache_dir, may_write=may_write)
        for number, (utterance, duration) in enumerate(zip(found, durations, strict=True)):
            why, spelled = None, []
            if isinstance(duration, str):
                why = _FAULTS[duration]
            elif duration < min_duration:
                why = f"shorter than data.min_duration, {min_duration} s"
            elif duration > max_duration:
                why = f"longer than data.max_duration, {max_duration} s"
            else:
                spelled, why = encoded(utterance.text, units)
            if why is None:
                rows.append(Row(source, number, utterance, float(duration), spelled))
            else:
                skipped.append(Skipped(utterance.where, why))
    return rows, skipped


def encoded(text: str, units: CTCVocabulary) -> tuple[list[int], str | None]:
    """The units of a text, or why it cannot be written in them."""
    try:
        if outside := units.outside(text):
            return [], f"characters that no unit writes, such as {min(outside)!r}"
        spelled = units.encode(text)
    except UserError as error:
        return [], str(error)
    return spelled, None if spelled else "no text"


def report_skipped(split: str, skipped: Sequence[Skipped], used: int) -> None:
    """Says how many rows are left out and why.

    Raises:
        UserError: If none is left.
    """
    if not used:
        if not skipped:
            raise UserError(f"data.{split} has no rows: name a manifest or folder that has some")
        first = f"the first, {skipped[0].where}: {skipped[0].why}"
        raise UserError(f"data.{split} has no utterance that can be used ({len(skipped)} rows left out); {first}")
    for why, number in Counter(skip.why for skip in skipped).most_common():
        example = next(skip.where for skip in skipped if skip.why == why)
        rank_zero_warn(f"{split}: {number} of {used + len(skipped)} rows left out: {why} ({example})")


def split_by_speaker(
    rows: Sequence[Row], fraction: float, speakers: Sequence[str] | None
) -> tuple[list[Row], list[Row]]:
    """Holds speakers out: those named, or else some chosen by a hash of their names.

    Args:
        rows: All rows.
        fraction: Share of the rows to be held out, at least, where no speakers are named.
        speakers: Their names.

    Raises:
        UserError: If speakers are not known, or a named one has no rows.
    """
    counts = Counter(row.utterance.speaker for row in rows)
    if None in counts or len(counts) < 2:
        where = next((row.utterance.where for row in rows if row.utterance.speaker is None), rows[0].utterance.where)
        raise UserError(f"{where}: no validation data, and speakers to hold out are not told: give data.val")
    if speakers is None:
        speakers = chosen_by_hash({str(name): count for name, count in counts.items()}, fraction)
    elif unknown := set(speakers) - {str(name) for name in counts}:
        known = ", ".join(sorted(map(str, counts)))
        raise UserError(f"data.val_speakers: nobody is called {min(unknown)!r}; there are: {known}")
    held_out = set(speakers)
    kept = [row for row in rows if row.utterance.speaker not in held_out]
    return kept, [row for row in rows if row.utterance.speaker in held_out]


def chosen_by_hash(counts: Mapping[str, int], fraction: float) -> list[str]:
    """Some groups, chosen by a hash of their names, that hold a share of all rows at least; never all groups.

    Args:
        counts: Rows of each group, of which there are two or more.
        fraction: The share.
    """
    names = sorted(counts, key=lambda name: (zlib.crc32(name.encode(errors="surrogatepass")), name))
    wanted, held = fraction * sum(counts.values()), 0
    for number, name in enumerate(names):
        if held >= wanted or number + 1 == len(names):
            return names[:number]
        held += counts[name]
    return names


def identity(rows: Sequence[Row]) -> str:
    """A fingerprint of what is said in which files."""
    return fingerprint(f"{row.source.identity(row.utterance)} {row.units}" for row in rows)


class Heard(NamedTuple):
    """What a batch holds of an utterance.

    Attributes:
        mel: (frames, num_mels).
        audio: (frames × 160,): the waveform, where it is asked for.
    """

    mel: Tensor
    audio: Tensor | None = None


@final
class SpeechRows(Dataset[SpeechBatch]):
    """Utterances by number, a whole batch at a time.

    Numbers beyond the last row mean the same rows in later epochs, in which other things happen to them.

    Args:
        rows: The utterances.
        num_mels: Mel filters.
        augmentation: What happens to them; None for validation.
        crop: Seconds of a random stretch that is left of each; 0: all of it.
        features: Their spectrograms, where they are kept on disk.
        audio: Whether batches hold waveforms too.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        num_mels: int,
        *,
        augmentation: SpeechAugmentation | None = None,
        crop: float = 0.0,
        features: FeatureFile | None = None,
        audio: bool = False,
        seed: int = 0,
    ):
        self.rows = rows
        self.numbers: Sequence[int] = range(len(rows))  # of each row in `features`
        self.log_mel = LogMel(num_mels)
        self.augmentation, self.crop = augmentation, crop
        self.features, self.audio = features, audio
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all rows but those."""
        self.rows = [self.rows[number] for number in numbers]
        self.numbers = [self.numbers[number] for number in numbers]

    def __getitems__(self, numbers: list[int]) -> SpeechBatch:
        heard: list[Heard] = []
        used = []
        for number in numbers:
            epoch, row = divmod(number, len(self.rows))
            try:
                heard.append(self._hear(epoch, row))
                used.append(row)
            except UserError as error:
                rank_zero_warn(f"left out: {error}")
        if not used:
            raise UserError("no row of a batch can be read: look at the data with `omni data check`")
        return make_batch(heard, [self.rows[row].units for row in used], used)

    def _hear(self, epoch: int, number: int) -> Heard:
        rng = np.random.default_rng([self.seed, epoch, number])
        lead, tail = self.augmentation.silences(rng) if self.augmentation else (0, 0)
        audio = None
        if self.features is None or self.audio:
            audio = self.rows[number].read()
            audio = self.augmentation.of_waveform(audio, rng) if self.augmentation else audio
            audio = in_silence(audio, lead, tail)
        if self.features is not None:
            mel = between_silences(self.features.read(self.numbers[number]), lead, tail)
        else:
            assert audio is not None
            mel = self.log_mel(audio)
        mel = self.augmentation.of_mel(mel, rng) if self.augmentation else mel
        return cropped(Heard(mel, audio if self.audio else None), self.crop, rng)


def cropped(heard: Heard, seconds: float, rng: np.random.Generator) -> Heard:
    """A random stretch of so many seconds, or all where it is shorter or `seconds` is 0."""
    frames = round(seconds * SAMPLE_RATE / HOP_LENGTH)
    if not frames or len(heard.mel) <= frames:
        return heard
    first = int(rng.integers(0, len(heard.mel) - frames + 1))
    audio = None if heard.audio is None else heard.audio[first * HOP_LENGTH : (first + frames) * HOP_LENGTH]
    return Heard(heard.mel[first : first + frames], audio)


def make_batch(heard: Sequence[Heard], units: Sequence[Sequence[int]], rows: Sequence[int]) -> SpeechBatch:
    """Puts utterances and their texts together."""
    mels, sounds = [one.mel for one in heard], [one.audio for one in heard if one.audio is not None]
    lengths = torch.tensor([len(mel) for mel in mels])
    targets = [torch.tensor(text, dtype=torch.long) for text in units]
    return SpeechBatch(
        mels=pad_sequence(mels, batch_first=True, padding_value=SILENCE),
        mel_lengths=lengths,
        targets=pad_sequence(targets, batch_first=True, padding_value=BLANK),
        target_lengths=torch.tensor([len(text) for text in units]),
        rows=torch.tensor(rows),
        seconds=lengths.sum().item() / 100,
        audio=pad_sequence(sounds, batch_first=True) if sounds else None,
    )


def _durations(
    source: Utterances, rows: Sequence[Utterance], cache_dir: Path, *, may_write: bool
) -> list[float | AudioFault]:
    """Seconds of each row, as told, else as measured once; or what is the matter with its audio."""
    untold = [number for number, row in enumerate(rows) if row.duration is None]
    measured = iter(_measured(source, rows, untold, cache_dir, may_write=may_write) if untold else ())
    durations: list[float | AudioFault] = []
    for row in rows:
        if row.duration is None:
            durations.append(next(measured))
        else:
            there = row.audio.startswith("hub:") or os.path.isfile(row.audio)
            durations.append(row.duration if there else "missing")
    return durations


def _measured(
    source: Utterances, rows: Sequence[Utterance], numbers: Sequence[int], cache_dir: Path, *, may_write: bool
) -> list[float | AudioFault]:
    """What the headers of these rows say, kept on disk."""
    key = fingerprint(source.identity(rows[number]) for number in numbers)
    path = cache_dir / f"{key[:32]}.durations.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    measured: list[float | AudioFault] = []
    for number in tqdm(numbers, desc="measuring utterances", leave=False, disable=None):
        try:
            measured.append(audio_info(source.audio(number, rows[number])).duration)
        except AudioError as error:
            measured.append(error.fault)
    if may_write:
        write_text(path, json.dumps(measured))
    return measured
