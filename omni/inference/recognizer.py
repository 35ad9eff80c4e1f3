"""A trained audio encoder at work, without Lightning: audio in, what is said and when out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.ctc import align
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.long_form import ChunkMerger, Timestamps, Transcript, Word, timed_words, windows
from omni.media.audio import SAMPLE_RATE, AudioSource, LogMel, read_audio
from omni.models.audio_encoder import AudioEncoder
from omni.text.ctc_vocabulary import CTCVocabulary


class Recognizer:
    """An audio encoder and the units it writes in.

    Args:
        encoder: The model, in eval mode.
        units: What its head writes.
        device: Where it runs.
        beam: Prefixes that the search for a transcript keeps; 1: the likeliest unit of each sub-frame is taken.

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
        """What the head says to each audio of a batch.

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
        """Writes down what is said.

        Args:
            audio: Files, their contents as bytes, or tensors (samples,) at 16 kHz: one or several.
            timestamps: Whether words are wanted, or characters, with their times.
            window: Longer audio is heard in windows of so many seconds. They are joined where both of two windows are
                surest that nothing is being said, so that no word is cut that is shorter than the overlap.
            overlap: Seconds that two windows share.
            batch_seconds: Most audio that is heard at once.

        Returns:
            A transcript for each.

        Raises:
            UserError: If one cannot be read, or the windows make no sense.
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
        """When each word of a known text is said, whoever understood it, by forced alignment.

        Args:
            audio: A file, its contents as bytes, or a tensor (samples,) at 16 kHz; heard as a whole.
            text: What is said in it.
            timestamps: Whether words are wanted, or characters.

        Raises:
            UserError: If the audio cannot be read, or the text has other characters or does not fit in its time.
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
        """As `transcribe`, each as it is ready, the shortest first; one that cannot be read is a `UserError`.

        Args:
            sources: As in `transcribe`.
            timestamps: As in `transcribe`.
            window: As in `transcribe`.
            overlap: As in `transcribe`.
            batch_seconds: As in `transcribe`.
            progress: Told the seconds of audio that have been heard, piece by piece.

        Yields:
            The number of the source, and its transcript.
        """
        frame = self.encoder.downsampling / 100  # windows begin where a frame does, so that frames of two coincide
        window, overlap = round(window / frame) * frame, round(overlap / frame) * frame
        if not 0 <= overlap <= window / 2 or window < frame:
            raise UserError(f"an overlap of {overlap:g} s does not fit a window of {window:g} s: at most half of it")
        pending: list[tuple[int, Tensor, bool]] = []
        joiners: dict[int, ChunkMerger] = {}
        for number, piece, last in windows(sources, window, overlap):
            if isinstance(piece, UserError):
                joiners.pop(number, None)
                pending = [item for item in pending if item[0] != number]
                yield number, piece
                continue
            longest = max(len(piece), *(len(audio) for _, audio, _ in pending), 0)
            if pending and longest * (len(pending) + 1) > batch_seconds * SAMPLE_RATE:
                yield from self._hear(pending, joiners, overlap, timestamps, progress)
                pending = []
            pending.append((number, piece, last))
        if pending:
            yield from self._hear(pending, joiners, overlap, timestamps, progress)

    def _hear(
        self,
        pending: Sequence[tuple[int, Tensor, bool]],
        joiners: dict[int, ChunkMerger],
        overlap: float,
        timestamps: Timestamps | None,
        progress: Callable[[float], object] | None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Hears a batch of windows and hands out the transcripts that are complete."""
        emissions = self.emit([audio for _, audio, _ in pending])
        for (number, audio, last), log_probs in zip(pending, emissions, strict=True):
            known = joiners.get(number)
            joiner = known or ChunkMerger(
                self.units,
                seconds=self.encoder.subframe_seconds,
                overlap=overlap,
                beam=self.beam,
                timestamps=timestamps,
            )
            joiners[number] = joiner
            fresh = len(audio) / SAMPLE_RATE - (overlap if known else 0)
            joiner.add(log_probs, fresh)
            if progress is not None:
                progress(fresh)
            if last:
                yield number, joiners.pop(number).finish()


def load_recognizer(path: Source, *, device: str = "auto", beam: int = 8) -> Recognizer:
    """Loads a recogniser from the checkpoint of any stage that holds an audio encoder and its units.

    Args:
        path: The checkpoint.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        beam: See `Recognizer`.

    Raises:
        UserError: If the checkpoint is missing, damaged or without them, or the device is not there.
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
    """Writes down what is said in one or several recordings; see `Recognizer.transcribe`.

    Args:
        audio: Files, their contents as bytes, or tensors (samples,) at 16 kHz.
        checkpoint: Of a recogniser.
        timestamps: Whether words are wanted, or characters, with their times.
        device: `cpu`, `cuda`, or `auto`.
    """
    return load_recognizer(checkpoint, device=device).transcribe(audio, timestamps=timestamps)
