"""What the stages that generate sound share: checks of their parts, and the quality of a sound."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torchmetrics.text import WordErrorRate

from omni.batch import SpeechBatch
from omni.decoding.ctc import decode
from omni.errors import UserError
from omni.layers.mask import length_mask
from omni.media.audio import HOP_LENGTH, LogMel
from omni.metrics import Intelligibility, MeanOfItems
from omni.models.audio_encoder import AudioEncoder
from omni.stages.stage import Stage
from omni.text.ctc_vocabulary import CTCVocabulary


@final
class SoundQuality(nn.Module):
    """How near sounds are to the originals, over a whole data set.

    `mel_distance` is the mean absolute difference of the log-mel spectrograms, `stoi` the short-time objective
    intelligibility, and `wer`, with a recogniser, the word error rate of its transcripts.

    Args:
        num_mels: Mel filters.
        with_wer: Whether there is a recogniser.
    """

    def __init__(self, num_mels: int, *, with_wer: bool) -> None:
        super().__init__()
        self.log_mel = LogMel(num_mels)
        self.mel_distance, self.stoi = MeanOfItems(), Intelligibility()
        self.wer = WordErrorRate() if with_wer else None

    @torch.no_grad()
    def update(
        self, audio: Tensor, batch: SpeechBatch, recognizer: AudioEncoder | None, units: CTCVocabulary | None
    ) -> list[str]:
        """Adds sounds.

        Args:
            audio: (batch, samples), 16 kHz.
            batch: The originals, 16 kHz.
            recognizer: The recogniser.
            units: Its vocabulary.

        Returns:
            The transcript of each row; none without a recogniser.
        """
        assert batch.audio is not None
        lengths = batch.mel_lengths
        audio = audio * length_mask(lengths, audio.shape[1] // HOP_LENGTH).repeat_interleave(HOP_LENGTH, dim=1)
        mels, originals = self.log_mel(audio), self.log_mel(batch.audio)
        mask = length_mask(lengths, mels.shape[1])
        self.mel_distance.update(((mels - originals).abs().mean(-1) * mask).sum(), mask.sum())
        self.stoi.update(audio, batch.audio, lengths * HOP_LENGTH)
        if self.wer is None or recognizer is None or units is None:
            return []
        transcripts = transcribe(recognizer, units, mels, lengths)
        self.wer.update(transcripts, references_of(batch, units))
        return transcripts

    def compute(self) -> dict[str, Tensor]:
        """`mel_distance`, `stoi` and, with a recogniser, `wer`."""
        values = {"mel_distance": self.mel_distance.compute(), "stoi": self.stoi.compute()}
        return values if self.wer is None else {**values, "wer": self.wer.compute()}


def transcribe(recognizer: AudioEncoder, units: CTCVocabulary, mels: Tensor, lengths: Tensor) -> list[str]:
    """Greedy transcripts of spectrograms (batch, frames, num_mels)."""
    emissions = recognizer.emit(recognizer(mels, lengths))
    return [units.decode(row) for row in decode(*emissions, beam=1)]


def references_of(batch: SpeechBatch, units: CTCVocabulary) -> list[str]:
    """The text of each row."""
    lengths = batch.target_lengths.tolist()
    return [units.decode(row[:length]) for row, length in zip(batch.targets.tolist(), lengths, strict=True)]


def select_rows(batch: SpeechBatch, rows: Sequence[int]) -> SpeechBatch:
    """Some rows of a batch; its `seconds` stay those of the whole."""
    selected = {name: value[list(rows)] for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    return batch._replace(**selected)


def check_spectrograms(stage: Stage) -> None:
    """Refuses parts with another number of mel filters than the data, and a recogniser with another vocabulary.

    Raises:
        UserError: Naming the part.
    """
    for name, part in stage.parts.items():
        num_mels: Any = getattr(part, "num_mels", stage.data.num_mels)
        if num_mels != stage.data.num_mels:
            raise UserError(
                f"data.init_args.num_mels is {stage.data.num_mels} and that of {name} is {num_mels}: make them equal"
            )
    recognizer = stage.parts.get("audio_encoder")
    if isinstance(recognizer, AudioEncoder) and recognizer.vocab_size != stage.tokenizer.vocab_size:
        raise UserError(
            f"the data has {stage.tokenizer.vocab_size} units and the audio_encoder {recognizer.vocab_size}: give "
            "the recogniser's checkpoint as data.init_args.units"
        )


def check_initialized(stage: Stage, purposes: Mapping[str, str]) -> None:
    """Refuses frozen parts that no checkpoint has filled.

    Args:
        stage: The stage, before it trains.
        purposes: What each part is for, by name.

    Raises:
        UserError: Naming the part.
    """
    for name, purpose in purposes.items():
        if name in stage.parts and name not in stage.ancestors:
            raise UserError(
                f"the {name} {purpose}: give the checkpoint of a trained one as init_from.{name}, or set "
                f"model.init_args.{name} to null"
            )
