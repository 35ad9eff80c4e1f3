"""Batches of utterances: read, augmented, padded."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import SpeechBatch
from omni.data.loading.bad_rows import BatchReader, RowErrors
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.features import FeatureFile, between_silences, in_silence
from omni.data.speech.rows import SpeechRow
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, LogMel
from omni.media.mel_scale import SILENCE
from omni.text.ctc_vocabulary import BLANK


class SpeechFeatures(NamedTuple):
    """An utterance in a batch.

    Attributes:
        mel: (frames, num_mels).
        audio: (frames × 160,): the waveform; None where it is not asked for.
    """

    mel: Tensor
    audio: Tensor | None = None


class FeatureExtractor:
    """Makes the features of utterances, augmented and cropped.

    Args:
        num_mels: Mel filters.
        augmentation: Of the utterances; None for validation.
        crop: Seconds of the random part that is kept of each; 0: all of it.
        audio: Whether waveforms are returned too.
    """

    def __init__(
        self, num_mels: int, *, augmentation: SpeechAugmentation | None = None, crop: float = 0.0, audio: bool = False
    ):
        self.log_mel = LogMel(num_mels)
        self.augmentation, self.crop, self.audio = augmentation, crop, audio

    def __call__(self, waveform: Tensor, rng: np.random.Generator) -> SpeechFeatures:
        """The features of a waveform (samples,); `rng` decides augmentation and crop."""
        lead, tail = self.augmentation.silences(rng) if self.augmentation else (0, 0)
        changed = self.augmentation.of_waveform(waveform, rng) if self.augmentation else waveform
        changed = in_silence(changed, lead, tail)
        return self._finished(self.log_mel(changed), changed if self.audio else None, rng)

    def of_stored(self, mel: Tensor, read: Callable[[], Tensor], rng: np.random.Generator) -> SpeechFeatures:
        """The same, from a spectrogram of a `FeatureFile`; `read` reads the waveform."""
        lead, tail = self.augmentation.silences(rng) if self.augmentation else (0, 0)
        audio = in_silence(read(), lead, tail) if self.audio else None
        return self._finished(between_silences(mel, lead, tail), audio, rng)

    def _finished(self, mel: Tensor, audio: Tensor | None, rng: np.random.Generator) -> SpeechFeatures:
        """Augments and crops a spectrogram, and crops its waveform."""
        mel = self.augmentation.of_mel(mel, rng) if self.augmentation else mel
        frames = round(self.crop * SAMPLE_RATE / HOP_LENGTH)
        if not frames or len(mel) <= frames:
            return SpeechFeatures(mel, audio)
        first = int(rng.integers(0, len(mel) - frames + 1))
        part = None if audio is None else audio[first * HOP_LENGTH : (first + frames) * HOP_LENGTH]
        return SpeechFeatures(mel[first : first + frames], part)


@final
class SpeechDataset(Dataset[SpeechBatch]):
    """Utterances by number, a whole batch at a time.

    Numbers beyond the last row are the same rows in later epochs, in which they are augmented differently.

    Args:
        rows: The utterances.
        extract: Makes their features.
        errors: Of rows that cannot be read.
        stored: Their spectrograms, if these are kept on disk.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        rows: Sequence[SpeechRow],
        extract: FeatureExtractor,
        *,
        errors: RowErrors,
        stored: FeatureFile | None = None,
        seed: int = 0,
    ):
        self.rows, self.extract = rows, extract
        self.numbers: Sequence[int] = range(len(rows))  # of each row in `stored`
        self.errors, self.stored, self.seed = errors, stored, seed
        self._reader = BatchReader(errors, len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leaves out all other rows."""
        self.rows = [self.rows[number] for number in numbers]
        self.numbers = [self.numbers[number] for number in numbers]
        self._reader = BatchReader(self.errors, len(self.rows))

    def __getitems__(self, numbers: list[int]) -> SpeechBatch:
        features, used = zip(*self._reader.read(numbers, self._features), strict=True)
        return make_batch(features, [self.rows[row].units for row in used], used)

    def _features(self, number: int) -> tuple[SpeechFeatures, int]:
        """The features of an item, and the number of its row."""
        epoch, index = divmod(number, len(self.rows))
        rng, row = np.random.default_rng([self.seed, epoch, index]), self.rows[index]
        if self.stored is None:
            return self.extract(row.read(), rng), index
        return self.extract.of_stored(self.stored.read(self.numbers[index]), row.read, rng), index


def make_batch(features: Sequence[SpeechFeatures], units: Sequence[Sequence[int]], rows: Sequence[int]) -> SpeechBatch:
    """Pads utterances and their texts.

    Args:
        features: Of each utterance.
        units: Ids of each text.
        rows: Numbers of the rows.
    """
    mels, waveforms = [one.mel for one in features], [one.audio for one in features if one.audio is not None]
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
    )
