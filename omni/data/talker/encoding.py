"""Recordings to codes and alignments, with a codec and a recogniser."""

import json
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.weights import weights_fingerprint
from omni.data.speech.features import mel_of
from omni.data.talker.alignment import advances, borders
from omni.decoding.ctc import align, least_subframes
from omni.errors import UserError
from omni.media.audio import LogMel
from omni.media.mel_scale import SILENCE
from omni.models.audio_encoder import AudioEncoder
from omni.models.part import Part
from omni.models.speech_codec import SpeechCodec
from omni.text.ctc_vocabulary import CharacterVocabulary

MEL_RATE = 100  # mel frames a second


class AlignmentFault(IntEnum):
    """Why a recording cannot be used."""

    NONE = 0
    UNREADABLE = 1
    INFEASIBLE = 2
    TOO_FAST = 3


FAULT_MESSAGES = {
    AlignmentFault.UNREADABLE: "the audio cannot be read",
    AlignmentFault.INFEASIBLE: "the text is too long for its audio (CTC-infeasible)",
    AlignmentFault.TOO_FAST: "too many characters for its frames",
}


class EncodedSpeech(NamedTuple):
    """The codes and the alignment of a recording.

    Attributes:
        codes: (frames, codebooks), int16; no frames if there is a fault.
        advances: (frames,), int16; see `omni.batch.CodesBatch`.
        score: Mean probability of the characters in the frames that they are aligned with, 0–1.
        speed: Characters a second, from the first to the last.
        fault: Why the recording cannot be used.
    """

    codes: np.ndarray
    advances: np.ndarray
    score: float
    speed: float
    fault: AlignmentFault


class CodesEncoder:
    """A codec, and a recogniser for alignments.

    Args:
        codec: Checkpoint of any stage with a part `codec`.
        recognizer: Checkpoint of any stage with a part `audio_encoder` whose units are characters.
        silence: Seconds of silence that are added before and after each recording.

    Attributes:
        codec: The codec.
        audio_encoder: The recogniser.
        units: Its characters.
        ancestors: The lineages of both.
        codec_lineage: The lineage of the codec's checkpoint.
        fingerprint: Identifies both models and the silence.

    Raises:
        UserError: If a checkpoint does not hold such a part, or the two do not fit each other.
    """

    codec: Any  # a Part that is a SpeechCodec

    def __init__(self, codec: str | Path, recognizer: str | Path, *, silence: float) -> None:
        codec_checkpoint = Checkpoint(codec)
        part = codec_checkpoint.part("codec", Part)
        if not isinstance(part, SpeechCodec):
            raise UserError(f"codec of {codec} is a {type(part).__name__}, not a codec of speech")
        self.codec = part
        asr_checkpoint = Checkpoint.open(recognizer, opened=codec_checkpoint)
        self.audio_encoder = asr_checkpoint.part("audio_encoder", AudioEncoder)
        units = asr_checkpoint.vocabulary
        if not isinstance(units, CharacterVocabulary):
            raise UserError(
                f"the recogniser of {recognizer} has word pieces for units: a Talker needs one with characters"
            )
        self.units = units
        if part.num_mels != self.audio_encoder.num_mels:
            raise UserError(
                f"the codec of {codec} reads {part.num_mels} mel filters and the recogniser of {recognizer} "
                f"{self.audio_encoder.num_mels}: train one of them again with the other's num_mels"
            )
        if part.codebook_size > np.iinfo(np.int16).max:
            raise UserError(f"codes of {part.codebook_size} entries do not fit into 16 bits: 32,767 at most")
        self.ratio = round(MEL_RATE / part.frame_rate)
        self.margin = round(silence * MEL_RATE)
        self.log_mel = LogMel(part.num_mels)
        self.codec_lineage = codec_checkpoint.lineage
        self.ancestors = {
            "codec": codec_checkpoint.lineage_of("codec"),
            "audio_encoder": asr_checkpoint.lineage_of("audio_encoder"),
        }
        parts = (self.codec, self.audio_encoder)
        hashes = [weights_fingerprint(part.state_dict()) for part in parts]
        recipes = json.dumps([part.recipe for part in parts], sort_keys=True, default=str)
        self.fingerprint = " ".join([*hashes, recipes, self.units.fingerprint, str(self.margin)])

    def mel(self, audio: Tensor) -> Tensor:
        """The spectrogram with silence around it, a multiple of codec frames long: (mel frames, num_mels)."""
        frames = self.log_mel.num_frames(len(audio)) + 2 * self.margin
        return mel_of(self.log_mel, audio, self.margin, self.margin + -frames % self.ratio)

    @torch.inference_mode()
    def encode(self, audios: Sequence[Tensor | None], units: Sequence[Sequence[int]]) -> list[EncodedSpeech]:
        """Encodes and aligns.

        Args:
            audios: (samples,) each, 16 kHz; None for one that cannot be read.
            units: Ids of the text of each.
        """
        mels = [self.mel(audio) for audio in audios if audio is not None]
        if not mels:
            return [_faulty(self.codec.num_codebooks, AlignmentFault.UNREADABLE) for _ in audios]
        device = next(self.audio_encoder.parameters()).device
        lengths = torch.tensor([len(mel) for mel in mels], device=device)
        padded = pad_sequence(mels, batch_first=True, padding_value=SILENCE).to(device)
        codes = self.codec.encode(padded, lengths).cpu()
        emissions = self.audio_encoder.emit(self.audio_encoder(padded, lengths))
        frames = (lengths // self.ratio).tolist()
        outputs = iter(zip(codes, emissions.log_probs.cpu(), emissions.lengths.tolist(), frames, strict=True))
        encoded = []
        for audio, text in zip(audios, units, strict=True):
            if audio is None:
                encoded.append(_faulty(self.codec.num_codebooks, AlignmentFault.UNREADABLE))
            else:
                row, log_probs, subframes, count = next(outputs)
                encoded.append(self._encoded(row[:count], log_probs[:subframes], list(text)))
        return encoded

    def _encoded(self, codes: Tensor, log_probs: Tensor, units: list[int]) -> EncodedSpeech:
        if least_subframes(units) > len(log_probs):
            return _faulty(codes.shape[1], AlignmentFault.INFEASIBLE)
        spans = align(log_probs, units)
        times = borders(spans, self.audio_encoder.subframe_seconds)
        steps = advances(times, len(codes), self.codec.frame_rate)
        if steps is None:
            return _faulty(codes.shape[1], AlignmentFault.TOO_FAST)
        score = sum(span.score for span in spans) / len(spans)
        speed = len(spans) / float(times[-1] - times[0])
        return EncodedSpeech(codes.numpy().astype(np.int16), steps.astype(np.int16), score, speed, AlignmentFault.NONE)


def _faulty(num_codebooks: int, fault: AlignmentFault) -> EncodedSpeech:
    return EncodedSpeech(np.zeros((0, num_codebooks), np.int16), np.zeros(0, np.int16), 0.0, 0.0, fault)
