"""Speech recognition by an exported graph."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np

from omni.errors import UserError
from omni.media.container import AudioSource
from omni.media.mel_scale import SAMPLE_RATE
from omni.runtime.audio import Samples, log_mel, read_audio
from omni.runtime.ctc import ChunkMerger, LogProbs
from omni.runtime.exported import ExportedPart
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.transcript import Transcript


@final
class Recognizer:
    """The `recognizer` of an exported folder; its texts are those of `omni.inference.recognizer.Recognizer`.

    Args:
        folder: As `omni export --to onnx` writes it.
        beam: Beam width of the CTC search; 1: greedy.
        variant: `fp32` or `int8`; by default the one that the export chose.
        threads: Number of threads; 0: one for each core.

    Raises:
        UserError: If the folder is not a complete export of a recogniser, or the beam is less than 1.
    """

    def __init__(self, folder: str | Path, *, beam: int = 8, variant: str | None = None, threads: int = 0) -> None:
        if beam < 1:
            raise UserError(f"beam is {beam}: it must be 1 or more")
        part = ExportedPart(folder, "recognizer", variant=variant, threads=threads)
        self.units: CTCVocabulary = part.vocabulary(CTCVocabulary)
        self.beam, self._run, constants = beam, part.run, part.constants
        part.check_mel(constants["mel"])
        self.num_mels: int = constants["mel"]["num_mels"]
        self.subframe_seconds: float = constants["subframe_seconds"]
        self._frame: float = constants["downsampling"] / 100  # seconds

    def emit(self, audio: Samples) -> LogProbs:
        """Log-probabilities (sub-frames, vocab_size) of audio (samples,) at 16 kHz."""
        mels = log_mel(audio, self.num_mels)[None]
        log_probs, lengths = self._run({"mels": mels, "lengths": np.array([mels.shape[1]])})
        return log_probs[0, : lengths[0]]

    def transcribe(
        self,
        audio: AudioSource | Samples | Sequence[AudioSource | Samples],
        *,
        window: float = 20.0,
        overlap: float = 4.0,
    ) -> list[Transcript]:
        """Transcribes recordings of any length.

        Args:
            audio: Files, their contents as bytes, or arrays (samples,) at 16 kHz: one or several.
            window: Longer audio is transcribed in chunks of this length in seconds.
            overlap: Overlap of two chunks in seconds.

        Returns:
            A transcript per recording, without times of words.

        Raises:
            UserError: If a recording cannot be read, or `overlap` does not fit `window`.
        """
        several = isinstance(audio, list | tuple)
        found = []
        for _, transcript in self.stream(list(audio) if several else [audio], window=window, overlap=overlap):  # pyright: ignore
            if isinstance(transcript, UserError):
                raise transcript
            found.append(transcript)
        return found

    def stream(
        self,
        sources: Sequence[AudioSource | Samples],
        *,
        window: float = 20.0,
        overlap: float = 4.0,
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[tuple[int, Transcript | UserError]]:
        """As `transcribe`, one recording after the other; yields a `UserError` for one that cannot be read.

        Args:
            sources: As in `transcribe`.
            window: As in `transcribe`.
            overlap: As in `transcribe`.
            progress: Called with the seconds of audio of each chunk.

        Yields:
            The number of the source, and its transcript or error.
        """
        window, overlap = (round(seconds / self._frame) * self._frame for seconds in (window, overlap))
        if not 0 <= overlap <= window / 2 or window < self._frame:
            raise UserError(f"overlap is {overlap:g} s and window {window:g} s: overlap must be at most half of it")
        for number, source in enumerate(sources):
            try:
                audio = source if isinstance(source, np.ndarray) else read_audio(source)
                _check(audio)
            except UserError as error:
                yield number, error
                continue
            yield number, self._transcribe(audio, window, overlap, progress)

    def _transcribe(
        self, audio: Samples, window: float, overlap: float, progress: Callable[[float], object] | None
    ) -> Transcript:
        merger = ChunkMerger(self.units, shared=round(overlap / self.subframe_seconds), beam=self.beam)
        size, step = round(window * SAMPLE_RATE), round((window - overlap) * SAMPLE_RATE)
        for start in range(0, max(1, len(audio) - (size - step)), step):
            merger.add(self.emit(audio[start : start + size]))
            if progress is not None:
                progress((min(start + size, len(audio)) - start - (size - step if start else 0)) / SAMPLE_RATE)
        return Transcript(merger.finish(), (), len(audio) / SAMPLE_RATE)


def _check(audio: Samples) -> None:
    if audio.ndim != 1 or not len(audio) or not np.isfinite(audio).all():
        raise UserError(f"audio of shape {audio.shape}: give (samples,) of finite numbers at 16 kHz")
