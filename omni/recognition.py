"""A trained audio encoder at work, without Lightning: audio in, what is said and when out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.checkpoint import from_checkpoint
from omni.ctc import Span, align, greedy
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, AudioSource, LogMel, audio_blocks, audio_info
from omni.models.audio_encoder import AudioEncoder
from omni.units import BLANK, Units

Timestamps = Literal["word", "char"]

_REACH = 0.1  # seconds that a word may begin before, or end after, the spikes of its outer units


class Word(NamedTuple):
    """A word, or a character, and when it is said.

    Attributes:
        text: Without spaces.
        start: In seconds.
        end: In seconds.
        score: Mean probability of its units, 0–1.
    """

    text: str
    start: float
    end: float
    score: float


class Transcript(NamedTuple):
    """What is said in a piece of audio.

    Attributes:
        text: All of it.
        words: With their times; empty unless these were asked for.
        duration: Of the audio, in seconds.
    """

    text: str
    words: tuple[Word, ...]
    duration: float


class Recognizer:
    """An audio encoder and the units it writes in.

    Args:
        encoder: The model, in eval mode.
        units: What its head writes.
        device: Where it runs.
    """

    def __init__(self, encoder: AudioEncoder, units: Units, *, device: torch.device | str = "cpu") -> None:
        self.encoder, self.units = encoder.to(device), units
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
        joiners: dict[int, _Joiner] = {}
        for number, piece, last in _windows(sources, window, overlap):
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
        joiners: "dict[int, _Joiner]",
        overlap: float,
        timestamps: Timestamps | None,
        progress: Callable[[float], object] | None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Hears a batch of windows and hands out the transcripts that are complete."""
        emissions = self.emit([audio for _, audio, _ in pending])
        for (number, audio, last), log_probs in zip(pending, emissions, strict=True):
            known = joiners.get(number)
            joiner = known or joiners.setdefault(number, _Joiner(self, overlap, timestamps))
            fresh = len(audio) / SAMPLE_RATE - (overlap if known else 0)
            joiner.add(log_probs, fresh)
            if progress is not None:
                progress(fresh)
            if last:
                yield number, joiners.pop(number).finish()


class _Joiner:
    """Puts the windows of one recording together, holding no more than the last of them.

    Args:
        recognizer: Whose windows they are.
        overlap: Seconds that two windows share.
        timestamps: Whether times are wanted.
    """

    def __init__(self, recognizer: Recognizer, overlap: float, timestamps: Timestamps | None) -> None:
        self.units, self.seconds = recognizer.units, recognizer.encoder.subframe_seconds
        self.shared = round(overlap / self.seconds)
        self.timestamps = timestamps
        self.held: Tensor | None = None  # of the last window, what is not yet written
        self.time = 0  # in sub-frames, of the first that is held
        self.last = BLANK  # the likeliest unit just before
        self.written: list[int] = []
        self.spans: list[Span] = []
        self.duration = 0.0

    def add(self, log_probs: Tensor, fresh: float) -> None:
        """Takes the next window, of which so many seconds are new."""
        self.duration += fresh
        if self.held is not None:
            shared = min(self.shared, len(log_probs), len(self.held))
            before = len(self.held) - shared
            cut = _quietest(self.held[before:], log_probs[:shared], self._pauses())
            self._write(self.held[: before + cut])
            log_probs = log_probs[cut:]
        self.held = log_probs

    def finish(self) -> Transcript:
        """Writes what is left, and tells all."""
        assert self.held is not None
        self._write(self.held)
        text = " ".join("".join(map(self.units.surface, self.written)).split())
        return Transcript(text, tuple(self._words()), self.duration)

    def _pauses(self) -> list[int]:
        """Units that mean that nothing is being said."""
        return [BLANK, *(unit for unit in range(1, self.units.vocab_size) if self.units.surface(unit).isspace())]

    def _write(self, log_probs: Tensor) -> None:
        if not len(log_probs):
            return
        best = log_probs.argmax(-1)
        (units,) = greedy(log_probs[None], torch.tensor([len(log_probs)]))
        if units and best[0] == self.last != BLANK:
            log_probs = log_probs.clone()
            goes_on = int((best != best[0]).to(torch.int).argmax()) or len(best)
            log_probs[:goes_on] = log_probs.new_full((), -30.0)  # written before the cut: it is the same one
            log_probs[:goes_on, BLANK] = 0.0
            units = units[1:]
        self.written += units
        if self.timestamps:
            spans = align(log_probs, units)
            self.spans += [span._replace(start=span.start + self.time, end=span.end + self.time) for span in spans]
        self.time += len(log_probs)
        self.last = int(best[-1])

    def _words(self) -> Iterator[Word]:
        if not self.timestamps:
            return
        reach = round(_REACH / self.seconds)
        group: list[int] = []
        for i, span in enumerate([*self.spans, None]):
            surface = " " if span is None else self.units.surface(span.unit)
            if group and (self.timestamps == "char" or surface[0].isspace()):
                yield self._word(group, reach)
                group = []
            if surface.strip():
                group.append(i)

    def _word(self, group: Sequence[int], reach: int) -> Word:
        first, last = self.spans[group[0]], self.spans[group[-1]]
        before = self.spans[group[0] - 1].end if group[0] else 0
        after = self.spans[group[-1] + 1].start if group[-1] + 1 < len(self.spans) else self.time
        start = max(first.start - reach, (before + first.start) / 2)
        end = min(last.end + reach, (last.end + after) / 2)
        text = "".join(self.units.surface(self.spans[i].unit) for i in group).strip()
        score = sum(self.spans[i].score for i in group) / len(group)
        return Word(text, start * self.seconds, min(end * self.seconds, self.duration), score)


def _quietest(before: Tensor, after: Tensor, pauses: Sequence[int]) -> int:
    """Where two windows that overlap are surest that nothing is being said: a sub-frame of the overlap.

    Args:
        before: (shared sub-frames, vocab_size), the end of the earlier window.
        after: The same sub-frames as the later window hears them.
        pauses: Units that mean that nothing is being said.
    """
    if not len(before):
        return 0
    quiet = (before[:, pauses].logsumexp(1) + after[:, pauses].logsumexp(1))[None]
    width = min(9, len(before))  # a pause between words, not the blank between two letters
    smooth = F.avg_pool1d(F.pad(quiet, (width // 2, (width - 1) // 2), mode="replicate"), width, 1)[0]
    # At its edge a window lacks context: in doubt the middle.
    middle = torch.linspace(-1, 1, len(smooth)).abs()
    return int((smooth - 0.5 * middle).argmax())


def _windows(
    sources: Sequence[AudioSource | Tensor], window: float, overlap: float
) -> Iterator[tuple[int, Tensor | UserError, bool]]:
    """Windows of all sources, the shortest source first; whether it is the source's last one."""
    durations: dict[int, float] = {}
    for number, source in enumerate(sources):
        try:
            durations[number] = _duration(source)
        except UserError as error:
            yield number, error, True
    for number in sorted(durations, key=durations.__getitem__):
        held: Tensor | None = None
        try:
            for piece in _pieces(sources[number], window, overlap):
                if held is not None:
                    yield number, held, False
                held = piece
        except UserError as error:
            yield number, error, True
            continue
        if held is not None:
            yield number, held, True


def _duration(source: AudioSource | Tensor) -> float:
    if isinstance(source, Tensor):
        if source.ndim != 1 or not len(source) or not source.isfinite().all():
            raise UserError(f"audio of shape {tuple(source.shape)}: give (samples,) of finite numbers at 16 kHz")
        return len(source) / SAMPLE_RATE
    return audio_info(source).duration


def _pieces(source: AudioSource | Tensor, window: float, overlap: float) -> Iterable[Tensor]:
    if not isinstance(source, Tensor):
        yield from audio_blocks(source, window, overlap)
        return
    size, step = round(window * SAMPLE_RATE), round((window - overlap) * SAMPLE_RATE)
    for first in range(0, max(1, len(source) - (size - step)), step):
        yield source[first : first + size].float()


def load_recognizer(path: str | Path, *, device: str = "auto") -> Recognizer:
    """Loads a recogniser from the checkpoint of any stage that holds an audio encoder and its units.

    Args:
        path: The checkpoint.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        UserError: If the checkpoint is missing, damaged or without them, or the device is not there.
    """
    encoder, units = from_checkpoint(path, "audio_encoder", AudioEncoder)
    if not isinstance(units, Units):
        raise UserError(f"checkpoint {path} holds no units of speech: give one of stage B, such as audio/best.ckpt")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return Recognizer(encoder, units, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


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
