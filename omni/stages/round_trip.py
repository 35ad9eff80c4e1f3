"""The round trip: a Talker speaks sentences, and a recogniser transcribes them."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics.text import WordErrorRate

from omni.batch import HeldOut
from omni.decoding.ctc import decode
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.talker import speak_codes
from omni.media.mel_scale import SILENCE
from omni.models.audio_encoder import AudioEncoder
from omni.models.speech_codec import SpeechCodec
from omni.models.talker import Talker
from omni.stages.reporting.transcripts import Transcript
from omni.text.ctc_vocabulary import CTCVocabulary

_BATCH_SIZE = 16  # sentences


@final
class RoundTrip(nn.Module):
    """Word error rates of a Talker's speech, of the recordings, and of the codec's reconstructions of them.

    The latter two are lower bounds for the Talker. They are measured once for each split: recordings, codec and
    recogniser stay the same.

    Args:
        sampling: How sentences are sampled.
        beam: Of the recogniser; see `SpeechRecognition`.
    """

    def __init__(self, sampling: SpeechSampling, beam: int) -> None:
        super().__init__()
        self.sampling, self.beam = sampling, beam
        self.round_trip, self.recording, self.codec = WordErrorRate(), WordErrorRate(), WordErrorRate()
        self._lower_bounds: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def measure(
        self,
        split: str,
        sentences: Sequence[HeldOut],
        *,
        talker: Talker,
        codec: SpeechCodec,
        recognizer: AudioEncoder,
        units: CTCVocabulary,
        condition: Callable[[Sequence[Sequence[int]]], Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], list[Transcript]]:
        """Speaks and transcribes sentences.

        Args:
            split: The split of the sentences.
            sentences: This rank's share of them.
            talker: The Talker.
            codec: The codec whose codes it outputs.
            recognizer: The recogniser.
            units: The vocabulary of both.
            condition: Returns the Thinker's hidden states of texts, for a Talker that is conditioned on them.

        Returns:
            The word error rates over the sentences of all ranks: `round_trip_wer`, `recording_wer`, `codec_wer`; and
            the transcripts of this rank's sentences as the Talker speaks them.
        """
        transcripts = []
        for start in range(0, len(sentences), _BATCH_SIZE):
            batch = sentences[start : start + _BATCH_SIZE]
            codes = self._speak(batch, talker, condition)
            spoken = self._transcribe(self.round_trip, _decoded(codec, codes), batch, recognizer, units)
            transcripts += spoken
            if split not in self._lower_bounds:
                recordings = [sentence.mel for sentence in batch]
                rebuilt = _decoded(codec, [sentence.codes.to(codes[0].device) for sentence in batch])
                self._transcribe(self.recording, recordings, batch, recognizer, units)
                self._transcribe(self.codec, rebuilt, batch, recognizer, units)
        if split not in self._lower_bounds:
            bounds = {"recording_wer": self.recording.compute(), "codec_wer": self.codec.compute()}
            self._lower_bounds[split] = bounds
        return {"round_trip_wer": self.round_trip.compute(), **self._lower_bounds[split]}, transcripts

    def _speak(self, sentences: Sequence[HeldOut], talker: Talker, condition: Callable | None) -> list[Tensor]:
        speakers = [sentence.speaker for sentence in sentences] if talker.num_speakers else None
        texts = [sentence.units.tolist() for sentence in sentences]
        with torch.compiler.set_stance("force_eager"):  # each new length would be compiled
            hidden = None if condition is None else condition(texts)
            return speak_codes(talker, texts, speakers=speakers, hidden=hidden, sampling=self.sampling)

    def _transcribe(
        self,
        errors: WordErrorRate,
        mels: Sequence[Tensor],
        sentences: Sequence[HeldOut],
        recognizer: AudioEncoder,
        units: CTCVocabulary,
    ) -> list[Transcript]:
        """Transcribes spectrograms (mel frames, num_mels), and adds the word errors to a metric."""
        device = recognizer.head.weight.device
        lengths = torch.tensor([len(mel) for mel in mels], device=device)
        padded = pad_sequence([mel.to(device) for mel in mels], batch_first=True, padding_value=SILENCE)
        log_probs, lengths = recognizer.emit(recognizer(padded, lengths))
        hypotheses = [units.decode(row) for row in decode(log_probs, lengths, beam=self.beam)]
        references = [sentence.text for sentence in sentences]
        errors.update(hypotheses, references)
        rows = zip(mels, log_probs, lengths.tolist(), references, hypotheses, strict=True)
        return [Transcript(mel.float().cpu(), row[:n].cpu(), *texts) for mel, row, n, *texts in rows]


def _decoded(codec: SpeechCodec, codes: Sequence[Tensor]) -> list[Tensor]:
    """The codec's spectrogram of each row of codes."""
    mels = codec.decode(pad_sequence(list(codes), batch_first=True))
    ratio = mels.shape[1] // max(map(len, codes))
    return [mel[: ratio * len(row)] for mel, row in zip(mels, codes, strict=True)]
