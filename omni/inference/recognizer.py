"""Speech recognition with a trained audio encoder: transcripts, word times and forced alignment."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.ctc import align
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.long_form import ChunkMerger, chunks, timed_words
from omni.media.audio import SAMPLE_RATE, AudioSource, LogMel, read_audio
from omni.models.audio_encoder import AudioEncoder
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.transcript import Timestamps, Transcript, Word


class Recognizer:
    """An audio encoder with a CTC head, and its vocabulary.

    Args:
        encoder: The model, in eval mode.
        units: The vocabulary of its CTC head.
        device: Device of the model.
        beam: Beam width of the CTC search; 1: greedy.

    Raises:
        UserError: If the beam is less than 1.
    """

    def __init__(
        self, encoder: AudioEncoder, units: CTCVocabulary, *, device: torch.device | str = "cpu", beam: int = 8
    ) -> None:
        if beam < 1:
            raise UserError(f"beam is {beam}: it must be 1 or more")
        self.encoder, self.units, self.beam = encoder.to(device), units, beam
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
        window, overlap = self._chunking(window, overlap)
        pending: list[tuple[int, Tensor, bool]] = []
        mergers: dict[int, ChunkMerger] = {}
        for number, chunk, last in chunks(sources, window, overlap):
            if isinstance(chunk, UserError):
                mergers.pop(number, None)
                pending = [item for item in pending if item[0] != number]
                yield number, chunk
                continue
            longest = max(len(chunk), *(len(audio) for _, audio, _ in pending), 0)
            if pending and longest * (len(pending) + 1) > batch_seconds * SAMPLE_RATE:
                yield from self._transcribe(pending, mergers, overlap, timestamps, progress)
                pending = []
            pending.append((number, chunk, last))
        if pending:
            yield from self._transcribe(pending, mergers, overlap, timestamps, progress)

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
        mergers: dict[int, ChunkMerger] = {}
        for number, chunk, last in chunks([source], window, overlap):
            if isinstance(chunk, UserError):
                raise chunk
            for _, transcript in self._transcribe([(number, chunk, last)], mergers, overlap, timestamps, None):
                yield transcript
            if not last:
                yield mergers[number].partial()

    def _chunking(self, window: float, overlap: float) -> tuple[float, float]:
        """The window and overlap of chunks that start at a frame, so that their frames coincide."""
        frame = self.encoder.downsampling / 100
        window, overlap = round(window / frame) * frame, round(overlap / frame) * frame
        if not 0 <= overlap <= window / 2 or window < frame:
            raise UserError(f"overlap is {overlap:g} s and window {window:g} s: overlap must be at most half of it")
        return window, overlap

    def _transcribe(
        self,
        pending: Sequence[tuple[int, Tensor, bool]],
        mergers: dict[int, ChunkMerger],
        overlap: float,
        timestamps: Timestamps | None,
        progress: Callable[[float], object] | None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Encodes a batch of chunks; yields the transcripts that are complete."""
        emissions = self.emit([audio for _, audio, _ in pending])
        for (number, audio, last), log_probs in zip(pending, emissions, strict=True):
            new_seconds = len(audio) / SAMPLE_RATE - (overlap if number in mergers else 0)
            if number not in mergers:
                seconds = self.encoder.subframe_seconds
                mergers[number] = ChunkMerger(
                    self.units, seconds=seconds, overlap=overlap, beam=self.beam, timestamps=timestamps
                )
            merger = mergers[number]
            merger.add(log_probs, new_seconds)
            if progress is not None:
                progress(new_seconds)
            if last:
                yield number, mergers.pop(number).finish()


def load_recognizer(path: Source, *, device: str = "auto", beam: int = 8) -> Recognizer:
    """Loads a recogniser.

    Args:
        path: A checkpoint with an audio encoder and its CTC vocabulary.
        device: `auto`, or a name that PyTorch knows; see `omni.devices.resolve`.
        beam: See `Recognizer`.

    Raises:
        UserError: If the checkpoint is missing, damaged or lacks either, or there is no such device.
    """
    checkpoint = Checkpoint.open(path)
    encoder, units = checkpoint.part("audio_encoder", AudioEncoder), checkpoint.ctc_vocabulary
    return Recognizer(encoder, units, device=resolve(device), beam=beam)


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
