"""Batches of utterances: read, augmented, padded."""

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import SpeechBatch
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.features import FeatureFile, between_silences, in_silence
from omni.data.speech.rows import SpeechRow
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, SILENCE, LogMel
from omni.text.ctc_vocabulary import BLANK


class SpeechFeatures(NamedTuple):
    """An utterance in a batch.

    Attributes:
        mel: (frames, num_mels).
        audio: (frames × 160,): the waveform; None where it is not asked for.
    """

    mel: Tensor
    audio: Tensor | None = None


@final
class SpeechDataset(Dataset[SpeechBatch]):
    """Utterances by number, a whole batch at a time.

    Numbers beyond the last row are the same rows in later epochs, in which they are augmented differently.

    Args:
        rows: The utterances.
        num_mels: Mel filters.
        augmentation: Of the utterances; None for validation.
        crop: Seconds of the random part that is kept of each; 0: all of it.
        features: Their spectrograms, if these are kept on disk.
        audio: Whether batches hold waveforms too.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        rows: Sequence[SpeechRow],
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
        """Leaves out all other rows."""
        self.rows = [self.rows[number] for number in numbers]
        self.numbers = [self.numbers[number] for number in numbers]

    def __getitems__(self, numbers: list[int]) -> SpeechBatch:
        features: list[SpeechFeatures] = []
        used = []
        for number in numbers:
            epoch, row = divmod(number, len(self.rows))
            try:
                features.append(self._features(epoch, row))
                used.append(row)
            except UserError as error:
                rank_zero_warn(f"left out: {error}")
        if not used:
            raise UserError("no row of a batch can be read: look at the data with `omni data check`")
        return make_batch(features, [self.rows[row].units for row in used], used)

    def _features(self, epoch: int, number: int) -> SpeechFeatures:
        rng = np.random.default_rng([self.seed, epoch, number])
        if self.features is None:
            audio = self.rows[number].read()
            return speech_features(audio, self.log_mel, self.augmentation, rng, crop=self.crop, audio=self.audio)
        lead, tail = self.augmentation.silences(rng) if self.augmentation else (0, 0)
        audio = in_silence(self.rows[number].read(), lead, tail) if self.audio else None
        mel = between_silences(self.features.read(self.numbers[number]), lead, tail)
        mel = self.augmentation.of_mel(mel, rng) if self.augmentation else mel
        return cropped(SpeechFeatures(mel, audio), self.crop, rng)


def speech_features(
    waveform: Tensor,
    log_mel: LogMel,
    augmentation: SpeechAugmentation | None,
    rng: np.random.Generator,
    *,
    crop: float = 0.0,
    audio: bool = False,
) -> SpeechFeatures:
    """The features of an utterance, augmented and cropped.

    Args:
        waveform: (samples,).
        log_mel: Computes spectrograms.
        augmentation: Of the utterance; None for validation.
        rng: Of augmentation and crop.
        crop: Seconds of the random part that is kept; 0: all of it.
        audio: Whether the waveform is returned, too.
    """
    lead, tail = augmentation.silences(rng) if augmentation else (0, 0)
    changed = augmentation.of_waveform(waveform, rng) if augmentation else waveform
    changed = in_silence(changed, lead, tail)
    mel = log_mel(changed)
    mel = augmentation.of_mel(mel, rng) if augmentation else mel
    return cropped(SpeechFeatures(mel, changed if audio else None), crop, rng)


def cropped(features: SpeechFeatures, seconds: float, rng: np.random.Generator) -> SpeechFeatures:
    """A random part of a length in seconds; all if it is shorter or `seconds` is 0."""
    frames = round(seconds * SAMPLE_RATE / HOP_LENGTH)
    mel, audio = features
    if not frames or len(mel) <= frames:
        return features
    first = int(rng.integers(0, len(mel) - frames + 1))
    part = None if audio is None else audio[first * HOP_LENGTH : (first + frames) * HOP_LENGTH]
    return SpeechFeatures(mel[first : first + frames], part)


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
        seconds=lengths.sum().item() / 100,
        audio=pad_sequence(waveforms, batch_first=True) if waveforms else None,
    )
