"""What stages that make sound share: what they train on, and how near a sound comes to the original."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torchmetrics.text import WordErrorRate

from omni.batch import SpeechBatch
from omni.decoding.ctc import decode
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, LogMel
from omni.metrics import Intelligibility, MeanOfItems
from omni.models.audio_encoder import AudioEncoder
from omni.stages.stage import Stage
from omni.text.ctc_vocabulary import CTCVocabulary


class Heard(NamedTuple):
    """Sounds, and what a recogniser makes of them.

    Attributes:
        mels: (batch, frames, num_mels).
        texts: Of each row; none without a recogniser.
    """

    mels: Tensor
    texts: list[str]


@final
class SoundQuality(nn.Module):
    """How near sounds come to the originals, over a whole data set.

    `mel_distance` is the mean absolute difference of the log-mel spectrograms, `stoi` the short-time objective
    intelligibility, and `wer`, with a recogniser, the share of the words that it gets wrong.

    Args:
        num_mels: Mel filters.
        understood: Whether there is a recogniser.
    """

    def __init__(self, num_mels: int, *, understood: bool) -> None:
        super().__init__()
        self.understood = understood
        self.log_mel = LogMel(num_mels)
        self.mel_distance, self.stoi, self.wer = MeanOfItems(), Intelligibility(), WordErrorRate()

    @torch.no_grad()
    def update(
        self,
        audio: Tensor,
        batch: SpeechBatch,
        audio_encoder: AudioEncoder | None = None,
        units: CTCVocabulary | None = None,
    ) -> Heard:
        """Adds sounds.

        Args:
            audio: (batch, samples): what was made of the batch.
            batch: With the originals.
            audio_encoder: A recogniser.
            units: What it writes.

        Returns:
            What is heard of them.
        """
        assert batch.audio is not None
        lengths = batch.mel_lengths
        audio = audio * valid(lengths, audio.shape[1] // HOP_LENGTH).repeat_interleave(HOP_LENGTH, dim=1)
        mels, originals = self.log_mel(audio), self.log_mel(batch.audio)
        mask = valid(lengths, mels.shape[1])
        self.mel_distance.update(((mels - originals).abs().mean(-1) * mask).sum(), mask.sum())
        self.stoi.update(audio, batch.audio, lengths * HOP_LENGTH)
        if audio_encoder is None or units is None:
            return Heard(mels, [])
        texts = transcribed(audio_encoder, units, mels, lengths)
        self.wer.update(texts, said(units, batch))
        return Heard(mels, texts)

    def result(self) -> dict[str, Tensor]:
        """`mel_distance`, `stoi` and, with a recogniser, `wer` of what came since the last result."""
        metrics: dict[str, Any] = {"mel_distance": self.mel_distance, "stoi": self.stoi}
        if self.understood:
            metrics["wer"] = self.wer
        values = {name: metric.compute() for name, metric in metrics.items()}
        for metric in metrics.values():
            metric.reset()
        return values


def valid(lengths: Tensor, time: int) -> Tensor:
    """(batch, time): true within each row's length."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def transcribed(audio_encoder: AudioEncoder, units: CTCVocabulary, mels: Tensor, lengths: Tensor) -> list[str]:
    """What a recogniser writes of spectrograms (batch, frames, num_mels), greedily."""
    emissions = audio_encoder.emit(audio_encoder(mels, lengths))
    return [units.decode(row) for row in decode(*emissions, beam=1)]


def said(units: CTCVocabulary, batch: SpeechBatch) -> list[str]:
    """The text of each row."""
    lengths = batch.target_lengths.tolist()
    return [units.decode(row[:length]) for row, length in zip(batch.targets.tolist(), lengths, strict=True)]


def example_crops(data: Mapping[str, Any], *, audio: bool = False) -> SpeechBatch:
    """As many crops as `batch_seconds` holds, or utterances of the largest length where they are not cropped."""
    seconds = data.get("crop") or data["max_duration"]
    rows = max(1, min(data["max_batch_rows"], int(data["batch_seconds"] / seconds)))
    frames = math.ceil(seconds * 100)
    return SpeechBatch(
        mels=torch.zeros(rows, frames, data["num_mels"]),
        mel_lengths=torch.full((rows,), frames),
        targets=torch.ones(rows, 1, dtype=torch.long),
        target_lengths=torch.ones(rows, dtype=torch.long),
        rows=torch.zeros(rows, dtype=torch.long),
        seconds=float(rows * seconds),
        audio=torch.zeros(rows, frames * HOP_LENGTH) if audio else None,
    )


def check_spectrograms(stage: Stage) -> None:
    """Refuses parts that take spectrograms of other filters than the data's, and a recogniser of other units.

    Raises:
        UserError: Naming the part.
    """
    data: Any = stage.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    for name, part in stage.parts.items():
        mels: Any = getattr(part, "num_mels", data.num_mels)
        if mels != data.num_mels:
            raise UserError(f"data.init_args.num_mels is {data.num_mels} and that of {name} is {mels}: make them equal")
    recogniser = stage.parts.get("audio_encoder")
    if isinstance(recogniser, AudioEncoder) and recogniser.vocab_size != stage.tokenizer.vocab_size:
        raise UserError(
            f"the data writes {stage.tokenizer.vocab_size} units and the audio_encoder {recogniser.vocab_size}: give "
            "the recogniser's checkpoint as data.init_args.units"
        )


def check_borrowed(stage: Stage, purposes: Mapping[str, str]) -> None:
    """Refuses parts that are only used here and have never been trained.

    Args:
        stage: The stage, before it trains.
        purposes: What each such part is to do, by name.

    Raises:
        UserError: Naming the part.
    """
    for name, purpose in purposes.items():
        if name in stage.parts and name not in stage.ancestors:
            raise UserError(
                f"the {name} is to {purpose}: give a trained one's checkpoint as init_from.{name}, or set "
                f"model.init_args.{name} to null"
            )


def taken(batch: SpeechBatch, rows: Sequence[int]) -> SpeechBatch:
    """Some rows of a batch."""
    kept = {name: value[list(rows)] for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    return batch._replace(**kept)
