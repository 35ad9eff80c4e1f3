"""Long recordings, heard in windows that overlap and joined where nothing is being said."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.decoding.ctc import Span, align, decode
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, AudioSource, audio_blocks, audio_info
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary

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


class ChunkMerger:
    """Puts the windows of one recording together, holding no more than the last of them.

    Args:
        units: What is written.
        seconds: From one sub-frame to the next.
        overlap: Seconds that two windows share.
        beam: Prefixes that the search for a transcript keeps.
        timestamps: Whether times are wanted.
    """

    def __init__(
        self, units: CTCVocabulary, *, seconds: float, overlap: float, beam: int, timestamps: Timestamps | None
    ) -> None:
        self.units, self.seconds, self.beam = units, seconds, beam
        self.shared = round(overlap / self.seconds)
        self.timestamps: Timestamps | None = timestamps
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
        words = (
            ()
            if self.timestamps is None
            else timed_words(
                self.spans, self.units, self.timestamps, seconds=self.seconds, length=self.time, duration=self.duration
            )
        )
        return Transcript(text, tuple(words), self.duration)

    def _pauses(self) -> list[int]:
        """CTCVocabulary that mean that nothing is being said."""
        return [BLANK, *(unit for unit in range(1, self.units.vocab_size) if self.units.surface(unit).isspace())]

    def _write(self, log_probs: Tensor) -> None:
        if not len(log_probs):
            return
        best = log_probs.argmax(-1)
        if best[0] == self.last != BLANK:
            log_probs = log_probs.clone()
            goes_on = int((best != best[0]).to(torch.int).argmax()) or len(best)
            log_probs[:goes_on] = log_probs.new_full((), -30.0)  # written before the cut: it is the same one
            log_probs[:goes_on, BLANK] = 0.0
        (units,) = decode(log_probs[None], torch.tensor([len(log_probs)]), beam=self.beam)
        self.written += units
        if self.timestamps:
            spans = align(log_probs, units)
            self.spans += [span._replace(start=span.start + self.time, end=span.end + self.time) for span in spans]
        self.time += len(log_probs)
        self.last = int(best[-1])


def timed_words(
    spans: Sequence[Span], units: CTCVocabulary, kind: Timestamps, *, seconds: float, length: int, duration: float
) -> Iterator[Word]:
    """Words, or characters, and when they are said.

    Args:
        spans: Where each unit is heard.
        units: What they are units of.
        kind: Whether words are wanted, or characters.
        seconds: From one sub-frame to the next.
        length: Sub-frames in all.
        duration: Of the audio, in seconds.
    """
    group: list[int] = []
    for i, span in enumerate([*spans, None]):
        surface = " " if span is None else units.surface(span.unit)
        if group and (kind == "char" or surface[0].isspace()):
            first, last = spans[group[0]], spans[group[-1]]
            before = spans[group[0] - 1].end if group[0] else 0
            after = spans[group[-1] + 1].start if group[-1] + 1 < len(spans) else length
            reach = round(_REACH / seconds)
            start = max(first.start - reach, (before + first.start) / 2)
            end = min(last.end + reach, (last.end + after) / 2)
            text = "".join(units.surface(spans[j].unit) for j in group).strip()
            score = sum(spans[j].score for j in group) / len(group)
            yield Word(text, start * seconds, min(end * seconds, duration), score)
            group = []
        if surface.strip():
            group.append(i)


def _quietest(before: Tensor, after: Tensor, pauses: Sequence[int]) -> int:
    """Where two windows that overlap are surest that nothing is being said: a sub-frame of the overlap.

    Args:
        before: (shared sub-frames, vocab_size), the end of the earlier window.
        after: The same sub-frames as the later window hears them.
        pauses: CTCVocabulary that mean that nothing is being said.
    """
    if not len(before):
        return 0
    quiet = (before[:, pauses].logsumexp(1) + after[:, pauses].logsumexp(1))[None]
    width = min(9, len(before))  # a pause between words, not the blank between two letters
    smooth = F.avg_pool1d(F.pad(quiet, (width // 2, (width - 1) // 2), mode="replicate"), width, 1)[0]
    # At its edge a window lacks context: in doubt the middle.
    middle = torch.linspace(-1, 1, len(smooth)).abs()
    return int((smooth - 0.5 * middle).argmax())


def windows(
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
