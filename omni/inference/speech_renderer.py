"""Audio of the Talker's codes, by a codec and a vocoder: whole or streamed, at any tempo."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni.decoding.speech_options import check_speed
from omni.inference.speech import SpeechChunk, WordTimer
from omni.media.tempo import TempoChanger, change_tempo
from omni.media.trimming import Trimmer
from omni.models.speech_codec import CausalCodec, SpeechCodec
from omni.models.speech_vocoder import CausalVocoder, SpeechVocoder, sample_rate_of

# Seconds that are decoded at once: speech starts with the silence that Talkers are trained with. Measured with the
# world's Talker on a loaded core: the first sound after 99 ms without, 64 ms with 0.12 s, 49 ms with 0.16 s.
LEAD = 0.16


@final
class SpeechRenderer:
    """Makes audio of the codes of a segment, without silence at both ends.

    Args:
        codec: Codes to spectrograms.
        vocoder: Spectrograms to audio.
        speed: Tempo, 0.25 to 4; see `TempoChanger`.

    Attributes:
        sample_rate: Of the audio in Hz, which is the vocoder's.

    Raises:
        UserError: If the speed is out of range.
    """

    def __init__(self, codec: SpeechCodec, vocoder: SpeechVocoder, *, speed: float = 1.0) -> None:
        check_speed(speed)
        self.codec, self.vocoder, self.speed = codec, vocoder, speed
        self.sample_rate = sample_rate_of(vocoder)

    def render(self, codes: Tensor, timer: WordTimer) -> SpeechChunk:
        """The speech of a segment.

        Args:
            codes: (frames, codebooks).
            timer: Knows the position of each frame.
        """
        trimmer, mels = Trimmer(self.sample_rate), change_tempo(self.codec.decode(codes[None]), self.speed)
        pieces = (trimmer.push(_as_array(self.vocoder(mels)[0])), trimmer.finish())
        samples = torch.from_numpy(np.concatenate(pieces))
        return SpeechChunk(samples, timer.take(trimmer.skipped, len(samples), complete=True))

    def stream(self, codes: Iterator[Tensor], timer: WordTimer, *, chunk_frames: int) -> Iterator[SpeechChunk]:
        """Streams the speech of a segment, with a causal codec and vocoder.

        Args:
            codes: Frames (1, 1, codebooks).
            timer: Knows the position of each frame that was read from `codes`.
            chunk_frames: Most frames per chunk. After `LEAD` seconds frames are decoded one by one up to the first
                sound, and then in growing chunks.

        Yields:
            Joined, the audio and words of `render`; both may be empty.
        """
        codec: Any = self.codec
        vocoder: Any = self.vocoder
        assert isinstance(codec, CausalCodec)
        assert isinstance(vocoder, CausalVocoder)
        trimmer, tempo, length = Trimmer(self.sample_rate), TempoChanger(self.speed), 0
        waiting, size = [], max(1, min(chunk_frames, round(LEAD * self.codec.frame_rate)))

        def chunk(audio: NDArray[np.float32], *, complete: bool = False) -> SpeechChunk:
            nonlocal length
            length += len(audio)
            return SpeechChunk(torch.from_numpy(audio), timer.take(trimmer.skipped, length, complete=complete))

        with codec.streaming() as decoder, vocoder.streaming() as player:

            def play(mels: Tensor) -> SpeechChunk:
                made = player.decode(mels)[0] if mels.shape[1] else mels.new_zeros(0)
                return chunk(trimmer.push(_as_array(made)))

            for frame in codes:
                waiting.append(frame)
                if len(waiting) == size:
                    yield play(tempo.push(decoder.decode(torch.cat(waiting, dim=1))))
                    waiting, size = [], min(2 * size, chunk_frames) if trimmer.started else 1
            if waiting:
                yield play(tempo.push(decoder.decode(torch.cat(waiting, dim=1))))
            yield play(tempo.finish())
            yield chunk(trimmer.push(_as_array(player.flush()[0])))
            yield chunk(trimmer.finish(), complete=True)


def _as_array(audio: Tensor) -> NDArray[np.float32]:
    return audio.detach().float().cpu().numpy()
