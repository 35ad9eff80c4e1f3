"""Speech recognition with a trained audio encoder: transcripts, word times and forced alignment."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.ctc import align
from omni.decoding.fusion import Fusion
from omni.decoding.fusion_options import FusionOptions
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.long_form import ChunkEmission, ChunkMerger, chunks, timed_words
from omni.media.audio import SAMPLE_RATE, AudioSource, LogMel, read_audio
from omni.models.audio_encoder import AudioEncoder
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.transcript import Timestamps, Transcript, Word


class _Pending(NamedTuple):
    """A chunk of a recording that is not encoded yet."""

    number: int  # of the recording
    audio: Tensor
    repeated: float  # seconds of the previous chunk
    last: bool


class Recognizer:
    """An audio encoder with a CTC head, and its vocabulary.

    Args:
        encoder: The model, in eval mode.
        units: The vocabulary of its CTC head.
        device: Device of the model.
        beam: Beam width of the CTC search; 1: greedy.
        fusion: Adds the scores of a language model and of hotwords to the search.

    Raises:
        UserError: If the beam is less than 1, or 1 with a fusion.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        units: CTCVocabulary,
        *,
        device: torch.device | str = "cpu",
        beam: int = 8,
        fusion: Fusion | None = None,
    ) -> None:
        if beam < 1:
            raise UserError(f"beam is {beam}: it must be 1 or more")
        if beam == 1 and fusion is not None:
            raise UserError("beam is 1: a language model and hotwords choose between texts, give a beam of 2 or more")
        self.encoder, self.units, self.beam, self.fusion = encoder.to(device), units, beam, fusion
        self.device = torch.device(device)
        self.log_mel = LogMel(encoder.num_mels).to(device)

    @torch.inference_mode()
    def emit(self, audios: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the CTC head for a batch.

        Args:
            audios: (samples,) each, 16 kHz.

        Returns:
            (sub-frames, vocab_size) each, log-probabilities on the CPU.
        """
        padded = torch.nn.utils.rnn.pad_sequence(list(audios), batch_first=True).to(self.device)
        lengths = torch.tensor([len(audio) for audio in audios], device=self.device)
        emissions = self.encoder.emit(self.encoder(self.log_mel(padded), self.log_mel.num_frames(lengths)))
        pairs = zip(emissions.log_probs.cpu(), emissions.lengths.tolist(), strict=True)
        return [row[:length] for row, length in pairs]

    def transcribe(
        self,
        audio: AudioSource | Tensor | Sequence[AudioSource | Tensor],
        *,
        timestamps: Timestamps | None = None,
        window: float = 20.0,
        overlap: float = 4.0,
        batch_seconds: float = 80.0,
    ) -> list[Transcript]:
        """Transcribes recordings of any length.

        Args:
            audio: Files, their contents as bytes, or tensors (samples,) at 16 kHz: one or several.
            timestamps: `word` or `char` for the times of words or characters.
            window: Longer audio is split into chunks of this length in seconds, which are merged where both of two
                chunks are most certain of silence: no word shorter than the overlap is cut.
            overlap: Overlap of two chunks in seconds.
            batch_seconds: Most audio per batch in seconds.

        Returns:
            A transcript per recording.

        Raises:
            UserError: If a recording cannot be read, or `overlap` does not fit `window`.
        """
        several = isinstance(audio, list | tuple)
        sources: list[AudioSource | Tensor] = list(audio) if several else [audio]  # pyright: ignore
        found: list[Transcript | None] = [None] * len(sources)
        transcripts = self.stream(
            sources, timestamps=timestamps, window=window, overlap=overlap, batch_seconds=batch_seconds
        )
        for number, transcript in transcripts:
            if isinstance(transcript, UserError):
                raise transcript
            found[number] = transcript
        return [transcript for transcript in found if transcript is not None]

    def align(self, audio: AudioSource | Tensor, text: str, *, timestamps: Timestamps = "word") -> tuple[Word, ...]:
        """Times of the words of a known text, by forced alignment.

        Args:
            audio: A file, its contents as bytes, or a tensor (samples,) at 16 kHz; encoded as a whole.
            text: Its text.
            timestamps: `word` or `char`.

        Raises:
            UserError: If the audio cannot be read, or the text has characters outside the vocabulary or is too long.
        """
        units = self.units.encode(text)
        samples = audio if isinstance(audio, Tensor) else read_audio(audio)
        (log_probs,) = self.emit([samples])
        spans = align(log_probs, units)
        seconds, length = self.encoder.subframe_seconds, len(log_probs)
        duration = len(samples) / SAMPLE_RATE
        return tuple(timed_words(spans, self.units, timestamps, seconds=seconds, length=length, duration=duration))

    def stream(
        self,
        sources: Sequence[AudioSource | Tensor],
        *,
        timestamps: Timestamps | None = None,
        window: float = 20.0,
        overlap: float = 4.0,
        batch_seconds: float = 80.0,
        progress: Callable[[float], object] | None = None,
    ) -> Iterator[tuple[int, Transcript | UserError]]:
        """As `transcribe`, the shortest recordings first; yields a `UserError` for one that cannot be read.

        Args:
            sources: As in `transcribe`.
            timestamps: As in `transcribe`.
            window: As in `transcribe`.
            overlap: As in `transcribe`.
            batch_seconds: As in `transcribe`.
            progress: Called with the seconds of audio of each chunk.

        Yields:
            The number of the source, and its transcript or error.
        """
        mergers: dict[int, ChunkMerger] = {}
        chunked = self.emissions(sources, window=window, overlap=overlap, batch_seconds=batch_seconds)
        for number, chunk in chunked:
            if isinstance(chunk, UserError):
                mergers.pop(number, None)
                yield number, chunk
                continue
            if number not in mergers:
                mergers[number] = self.merger(overlap=overlap, timestamps=timestamps)
            mergers[number].add(chunk.log_probs, chunk.new_seconds)
            if progress is not None:
                progress(chunk.new_seconds)
            if chunk.last:
                yield number, mergers.pop(number).finish()

    def emissions(
        self,
        sources: Sequence[AudioSource | Tensor],
        *,
        window: float = 20.0,
        overlap: float = 4.0,
        batch_seconds: float = 80.0,
    ) -> Iterator[tuple[int, ChunkEmission | UserError]]:
        """Outputs of the CTC head for the chunks of recordings, in batches, the shortest recordings first.

        Args:
            sources: As in `transcribe`.
            window: As in `transcribe`.
            overlap: As in `transcribe`.
            batch_seconds: As in `transcribe`.

        Yields:
            The number of the source, and its next chunk for `merger`, or its error.
        """
        window, overlap = self._chunking(window, overlap)
        pending: list[_Pending] = []
        started: set[int] = set()
        for number, chunk, last in chunks(sources, window, overlap):
            if isinstance(chunk, UserError):
                pending = [item for item in pending if item.number != number]
                yield number, chunk
                continue
            longest = max(len(chunk), *(len(item.audio) for item in pending), 0)
            if pending and longest * (len(pending) + 1) > batch_seconds * SAMPLE_RATE:
                yield from self._emit(pending)
                pending = []
            pending.append(_Pending(number, chunk, overlap if number in started else 0.0, last))
            started.add(number)
        if pending:
            yield from self._emit(pending)

    def partial_transcripts(
        self,
        source: AudioSource | Tensor,
        *,
        timestamps: Timestamps | None = None,
        window: float = 20.0,
        overlap: float = 4.0,
    ) -> Iterator[Transcript]:
        """Transcribes a recording chunk by chunk.

        Args:
            source: A file, its content as bytes, or a tensor (samples,) at 16 kHz.
            timestamps: As in `transcribe`.
            window: As in `transcribe`.
            overlap: As in `transcribe`.

        Yields:
            After each chunk the text that no later chunk changes, without times: each is the start of the next one.
            Then the transcript, as of `transcribe`.

        Raises:
            UserError: As in `transcribe`.
        """
        window, overlap = self._chunking(window, overlap)
        merger = self.merger(overlap=overlap, timestamps=timestamps)
        for number, chunk, last in chunks([source], window, overlap):
            if isinstance(chunk, UserError):
                raise chunk
            for _, emission in self._emit(
                [_Pending(number, chunk, overlap if merger.pending is not None else 0.0, last)]
            ):
                merger.add(emission.log_probs, emission.new_seconds)
            yield merger.finish() if last else merger.partial()

    def merger(
        self, *, overlap: float = 4.0, timestamps: Timestamps | None = None, fusion: Fusion | None = None
    ) -> ChunkMerger:
        """Decodes the chunks of a recording.

        Args:
            overlap: As in `emissions`.
            timestamps: As in `transcribe`.
            fusion: Instead of the recogniser's.
        """
        return ChunkMerger(
            self.units,
            seconds=self.encoder.subframe_seconds,
            overlap=self._whole_frames(overlap),
            beam=self.beam,
            timestamps=timestamps,
            fusion=fusion or self.fusion,
        )

    def _chunking(self, window: float, overlap: float) -> tuple[float, float]:
        """The window and overlap of chunks that start at a frame, so that their frames coincide."""
        window, overlap = self._whole_frames(window), self._whole_frames(overlap)
        if not 0 <= overlap <= window / 2 or not window:
            raise UserError(f"overlap is {overlap:g} s and window {window:g} s: overlap must be at most half of it")
        return window, overlap

    def _whole_frames(self, seconds: float) -> float:
        frame = self.encoder.downsampling / 100
        return round(seconds / frame) * frame

    def _emit(self, pending: Sequence[_Pending]) -> Iterator[tuple[int, ChunkEmission]]:
        """Encodes a batch of chunks."""
        emitted = self.emit([item.audio for item in pending])
        for (number, audio, repeated, last), log_probs in zip(pending, emitted, strict=True):
            yield number, ChunkEmission(log_probs, len(audio) / SAMPLE_RATE - repeated, last)


def load_recognizer(
    path: Source, *, device: str = "auto", beam: int = 8, fusion: FusionOptions | None = None
) -> Recognizer:
    """Loads a recogniser.

    Args:
        path: A checkpoint with an audio encoder and its CTC vocabulary.
        device: `auto`, or a name that PyTorch knows; see `omni.devices.resolve`.
        beam: See `Recognizer`.
        fusion: A language model and hotwords.

    Raises:
        UserError: If the checkpoint is missing, damaged or lacks either, there is no such device, or an option of
            `fusion` is out of range.
    """
    checkpoint = Checkpoint.open(path)
    encoder, units = checkpoint.part("audio_encoder", AudioEncoder), checkpoint.ctc_vocabulary
    return Recognizer(encoder, units, device=resolve(device), beam=beam, fusion=fusion.open(units) if fusion else None)


def transcribe(
    audio: AudioSource | Tensor | Sequence[AudioSource | Tensor],
    checkpoint: str | Path,
    *,
    timestamps: Timestamps | None = None,
    device: str = "auto",
) -> list[Transcript]:
    """Transcribes one or several recordings; see `Recognizer.transcribe`.

    Args:
        audio: Files, their contents as bytes, or tensors (samples,) at 16 kHz.
        checkpoint: A checkpoint of a recogniser.
        timestamps: `word` or `char` for the times of words or characters.
        device: As in `load_recognizer`.
    """
    return load_recognizer(checkpoint, device=device).transcribe(audio, timestamps=timestamps)
