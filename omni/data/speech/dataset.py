"""Batches of utterances: read, augmented, padded."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import SpeechBatch
from omni.data.loading.bad_rows import BatchReader, RowErrors
from omni.data.loading.weights import groups
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.features import FeatureFile, between_silences, in_silence
from omni.data.speech.manifests import Utterances
from omni.data.speech.rows import SpeechRow
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, LogMel
from omni.media.mel_scale import SILENCE, samples_of
from omni.media.resampling import resample
from omni.text.ctc_vocabulary import BLANK


class SpeechFeatures(NamedTuple):
    """An utterance in a batch.

    Attributes:
        mel: (frames, num_mels).
        audio: (frames × samples in 10 ms,): the waveform; None where it is not asked for.
        other_mel: (frames, num_mels): the same with other masks; None where it is not asked for.
    """

    mel: Tensor
    audio: Tensor | None = None
    other_mel: Tensor | None = None


class FeatureExtractor:
    """Makes the features of utterances, augmented and cropped.

    Args:
        num_mels: Mel filters.
        augmentation: Of the utterances; None for validation.
        crop: Seconds of the random part that is kept of each; 0: all of it.
        audio: Whether waveforms are returned too.
        two_views: Whether each utterance is masked twice; without a crop.

    Attributes:
        sample_rate: Of waveforms, in Hz. Spectrograms are those of the same audio at 16 kHz.
    """

    def __init__(
        self,
        num_mels: int,
        *,
        augmentation: SpeechAugmentation | None = None,
        crop: float = 0.0,
        audio: bool = False,
        two_views: bool = False,
    ):
        self.log_mel, self.sample_rate = LogMel(num_mels), SAMPLE_RATE
        self.augmentation, self.crop, self.audio, self.two_views = augmentation, crop, audio, two_views

    def __call__(self, waveform: Tensor, rng: np.random.Generator) -> SpeechFeatures:
        """The features of a waveform (samples,); `rng` decides augmentation and crop."""
        lead, tail = self.augmentation.silences(rng) if self.augmentation else (0, 0)
        changed, rate = waveform, self.sample_rate
        if self.augmentation:
            changed = self.augmentation.of_waveform(waveform, rng, rate)
        changed = in_silence(changed, lead, tail, hop_length=self._hop_length)
        mel = self.log_mel(resample(changed, rate, SAMPLE_RATE))
        return self._finished(mel, changed if self.audio else None, rng)

    def of_stored(self, mel: Tensor, read: Callable[[], Tensor], rng: np.random.Generator) -> SpeechFeatures:
        """The same, from a spectrogram of a `FeatureFile`; `read` reads the waveform."""
        lead, tail = self.augmentation.silences(rng) if self.augmentation else (0, 0)
        audio = in_silence(read(), lead, tail, hop_length=self._hop_length) if self.audio else None
        return self._finished(between_silences(mel, lead, tail), audio, rng)

    @property
    def _hop_length(self) -> int:
        """Samples of the waveform in a frame of the spectrogram."""
        return samples_of(HOP_LENGTH, self.sample_rate)

    def _finished(self, mel: Tensor, audio: Tensor | None, rng: np.random.Generator) -> SpeechFeatures:
        """Augments and crops a spectrogram, and crops its waveform."""
        other = None
        if self.augmentation:
            plain = self.augmentation.of_mel(mel, rng)
            mel = self.augmentation.masked(plain, rng)
            other = self.augmentation.masked(plain, rng) if self.two_views else None
        frames = round(self.crop * SAMPLE_RATE / HOP_LENGTH)
        if not frames or len(mel) <= frames:
            return SpeechFeatures(mel, audio, other)
        first = int(rng.integers(0, len(mel) - frames + 1))
        hop = self._hop_length
        part = None if audio is None else audio[first * hop : (first + frames) * hop]
        return SpeechFeatures(mel[first : first + frames], part)


@final
class SpeechDataset(Dataset[SpeechBatch]):
    """Utterances by number, a whole batch at a time.

    An item is a group of rows, of which an epoch reads one. Numbers beyond the last group are the same groups in later
    epochs, in which other rows are drawn, and augmented differently.

    Args:
        rows: The utterances, source after source.
        extract: Makes their features.
        errors: Of rows that cannot be read.
        stored: Their spectrograms, if these are kept on disk.
        weights: Of sources, other than 1; see `omni.data.loading.weights.groups`.
        seed: Of draws and augmentation.

    Attributes:
        groups: Numbers of the rows of each group.
    """

    def __init__(
        self,
        rows: Sequence[SpeechRow],
        extract: FeatureExtractor,
        *,
        errors: RowErrors,
        stored: FeatureFile | None = None,
        weights: Mapping[Utterances, float] | None = None,
        seed: int = 0,
    ):
        self.rows, self.extract, self.weights = rows, extract, weights or {}
        self.numbers: Sequence[int] = range(len(rows))  # of each row in `stored`
        self.errors, self.stored, self.seed = errors, stored, seed
        self._group()

    def __len__(self) -> int:
        return len(self.groups)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other rows."""
        self.rows = [self.rows[number] for number in numbers]
        self.numbers = [self.numbers[number] for number in numbers]
        self._group()

    def __getitems__(self, numbers: list[int]) -> SpeechBatch:
        features, used = zip(*self._reader.read(numbers, self._features), strict=True)
        return make_batch(features, [self.rows[row].units for row in used], used)

    def _features(self, number: int) -> tuple[SpeechFeatures, int]:
        """The features of an item, and the number of its row."""
        epoch, item = divmod(number, len(self.groups))
        rng, index = np.random.default_rng([self.seed, epoch, item]), self._drawn(number)
        read = partial(self.rows[index].read, self.extract.sample_rate)
        if self.stored is None:
            return self.extract(read(), rng), index
        return self.extract.of_stored(self.stored.read(self.numbers[index]), read, rng), index

    def _group(self) -> None:
        self.groups = row_groups(self.rows, self.weights)
        self._reader = BatchReader(self.errors, len(self.groups), num_rows=len(self.rows), row_of=self._drawn)

    def _drawn(self, number: int) -> int:
        """The row that an item is in its epoch."""
        epoch, item = divmod(number, len(self.groups))
        group = self.groups[item]
        return int(group[0] if len(group) == 1 else np.random.default_rng([self.seed, epoch, item, 1]).choice(group))


def row_groups(rows: Sequence[SpeechRow], weights: Mapping[Utterances, float]) -> list[np.ndarray]:
    """Groups of rows, of which an epoch reads one each; see `omni.data.loading.weights.groups`.

    Args:
        rows: Source after source.
        weights: Of sources; 1 for others.
    """
    found: list[np.ndarray] = []
    first = 0
    for source, part in groupby(rows, key=lambda row: row.source):
        durations = [row.duration for row in part]
        found += [group + first for group in groups(durations, weights.get(source, 1.0))]
        first += len(durations)
    return found


def make_batch(features: Sequence[SpeechFeatures], units: Sequence[Sequence[int]], rows: Sequence[int]) -> SpeechBatch:
    """Pads utterances and their texts.

    Args:
        features: Of each utterance.
        units: Ids of each text.
        rows: Numbers of the rows.
    """
    mels, waveforms = [one.mel for one in features], [one.audio for one in features if one.audio is not None]
    others = [one.other_mel for one in features if one.other_mel is not None]
    lengths = torch.tensor([len(mel) for mel in mels])
    targets = [torch.tensor(ids, dtype=torch.long) for ids in units]
    return SpeechBatch(
        mels=pad_sequence(mels, batch_first=True, padding_value=SILENCE),
        mel_lengths=lengths,
        targets=pad_sequence(targets, batch_first=True, padding_value=BLANK),
        target_lengths=torch.tensor([len(ids) for ids in units]),
        rows=torch.tensor(rows),
        seconds=lengths.sum().item() * HOP_LENGTH / SAMPLE_RATE,
        audio=pad_sequence(waveforms, batch_first=True) if waveforms else None,
        other_mels=pad_sequence(others, batch_first=True, padding_value=SILENCE) if others else None,
    )
