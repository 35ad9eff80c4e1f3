"""The round trip: sentences are spoken, and a recogniser writes down what it hears."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics.text import WordErrorRate

from omni.batch import HeldOut
from omni.decoding.ctc import decode
from omni.decoding.talker import SpeechSampling, speak_codes
from omni.media.audio import SILENCE
from omni.models.audio_encoder import AudioEncoder
from omni.models.speech_codec import SpeechCodec
from omni.models.talker import Talker
from omni.text.ctc_vocabulary import CTCVocabulary

_TOGETHER = 16  # sentences spoken and heard at a time


class Heard(NamedTuple):
    """A spectrogram and what the recogniser makes of it.

    Attributes:
        mel: (mel frames, num_mels).
        log_probs: (sub-frames, vocab_size).
        text: What it writes.
    """

    mel: Tensor
    log_probs: Tensor
    text: str


@final
class RoundTrip(nn.Module):
    """Word errors of what a Talker says, and the two floors under them: of the recordings and of the codec's copies.

    The floors are found once for each split: recordings, codec and recogniser stay the same.

    Args:
        sampling: How sentences are spoken.
        beam: Of the recogniser; see `SpeechRecognition`.
    """

    def __init__(self, sampling: SpeechSampling, beam: int) -> None:
        super().__init__()
        self.sampling, self.beam = sampling, beam
        self.errors = nn.ModuleDict({name: WordErrorRate() for name in ("round_trip", "recording", "codec")})
        self._floors: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def measure(
        self,
        split: str,
        sentences: Sequence[HeldOut],
        *,
        talker: Talker,
        codec: SpeechCodec,
        audio_encoder: AudioEncoder,
        units: CTCVocabulary,
        condition: Callable[[Sequence[Sequence[int]]], Tensor] | None = None,
    ) -> tuple[list[Heard], dict[str, Tensor]]:
        """Speaks, listens and counts.

        Args:
            split: The data that the sentences are of.
            sentences: This rank's share of them.
            talker: Speaks.
            codec: Whose codes it speaks.
            audio_encoder: Listens.
            units: What both read and write.
            condition: Gives the hidden states of a Thinker, for a Talker that was trained with them.

        Returns:
            What is heard of each sentence; and the word error rates of all ranks' sentences: `round_trip_wer`,
            `recording_wer`, `codec_wer`.
        """
        heard = []
        for first in range(0, len(sentences), _TOGETHER):
            some = sentences[first : first + _TOGETHER]
            voices = [one.speaker for one in some] if talker.num_speakers else None
            with torch.compiler.set_stance("force_eager"):  # every length would be compiled anew
                texts = [one.units.tolist() for one in some]
                hidden = None if condition is None else condition(texts)
                codes = speak_codes(talker, texts, speakers=voices, hidden=hidden, sampling=self.sampling)
            listened = {"round_trip": _decoded(codec, codes)}
            if split not in self._floors:
                listened["recording"] = [one.mel for one in some]
                listened["codec"] = _decoded(codec, [one.codes.to(codes[0].device) for one in some])
            for name, mels in listened.items():
                found = self._listen(mels, audio_encoder, units)
                self._errors(name).update([one.text for one in found], [one.text for one in some])
                heard += found if name == "round_trip" else []
        if split not in self._floors:
            self._floors[split] = {f"{name}_wer": self._rate(name) for name in ("recording", "codec")}
        return heard, {"round_trip_wer": self._rate("round_trip"), **self._floors[split]}

    def _listen(self, mels: Sequence[Tensor], audio_encoder: AudioEncoder, units: CTCVocabulary) -> list[Heard]:
        device = audio_encoder.head.weight.device
        lengths = torch.tensor([len(mel) for mel in mels], device=device)
        padded = pad_sequence([mel.to(device) for mel in mels], batch_first=True, padding_value=SILENCE)
        log_probs, lengths = audio_encoder.emit(audio_encoder(padded, lengths))
        texts = [units.decode(row) for row in decode(log_probs, lengths, beam=self.beam)]
        rows = zip(mels, log_probs, lengths.tolist(), texts, strict=True)
        return [Heard(mel.float().cpu(), row[:length].cpu(), text) for mel, row, length, text in rows]

    def _errors(self, name: str) -> Any:
        return self.errors[name]

    def _rate(self, name: str) -> Tensor:
        rate = self._errors(name).compute()
        self._errors(name).reset()
        return rate


def _decoded(codec: SpeechCodec, codes: Sequence[Tensor]) -> list[Tensor]:
    """The codec's spectrogram of each row of codes."""
    mels = codec.decode(pad_sequence(list(codes), batch_first=True))
    ratio = mels.shape[1] // max(map(len, codes))
    return [mel[: ratio * len(row)] for mel, row in zip(mels, codes, strict=True)]
