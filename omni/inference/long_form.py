"""Long-form transcription: recordings in overlapping chunks, merged at pauses."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.decoding.ctc import Span, align, beam_search, decode
from omni.decoding.fusion import Fusion
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, AudioSource, audio_blocks, audio_info
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary
from omni.text.transcript import Timestamps, Transcript, Word

_MARGIN = 0.1  # seconds that a word may start before its first CTC spike, or end after its last


class ChunkEmission(NamedTuple):
    """Outputs of the CTC head for a chunk of a recording.

    Attributes:
        log_probs: (sub-frames, vocab_size).
        new_seconds: Seconds of the chunk after the previous one.
        last: Whether it is the recording's last chunk.
    """

    log_probs: Tensor
    new_seconds: float
    last: bool


class ChunkMerger:
    """Merges the chunks of a recording; keeps only the last chunk in memory.

    Args:
        units: The vocabulary.
        seconds: Duration of a sub-frame.
        overlap: Overlap of two chunks in seconds.
        beam: Beam width of the CTC search.
        timestamps: Kind of timestamps, if any.
        fusion: Adds the scores of a language model and of hotwords to the search.
    """

    def __init__(
        self,
        units: CTCVocabulary,
        *,
        seconds: float,
        overlap: float,
        beam: int,
        timestamps: Timestamps | None,
        fusion: Fusion | None = None,
    ) -> None:
        self.units, self.seconds, self.beam = units, seconds, beam
        self.fusion, self.fused = fusion, fusion.start if fusion else None  # the text so far
        self.shared = round(overlap / self.seconds)
        self.timestamps: Timestamps | None = timestamps
        self.pending: Tensor | None = None  # log-probabilities of the last chunk that are not decoded yet
        self.time = 0  # of the first pending sub-frame, in sub-frames
        self.last = BLANK  # the most probable unit before it
        self.decoded: list[int] = []
        self.spans: list[Span] = []
        self.duration = 0.0

    def add(self, log_probs: Tensor, new_seconds: float) -> None:
        """Adds a chunk.

        Args:
            log_probs: (sub-frames, vocab_size).
            new_seconds: Seconds of the chunk after the previous one.
        """
        self.duration += new_seconds
        if self.pending is not None:
            shared = min(self.shared, len(log_probs), len(self.pending))
            before = len(self.pending) - shared
            cut = _best_cut(self.pending[before:], log_probs[:shared], self._pauses())
            self.commit(self.pending[: before + cut])
            log_probs = log_probs[cut:]
        self.pending = log_probs

    def finish(self) -> Transcript:
        """Decodes the rest and returns the transcript."""
        assert self.pending is not None
        self.commit(self.pending, complete=True)
        if self.timestamps is None:
            return self.partial()
        length, duration = self.time, self.duration
        words = timed_words(
            self.spans, self.units, self.timestamps, seconds=self.seconds, length=length, duration=duration
        )
        scores = [span.score for span in self.spans]
        confidence = sum(scores) / len(scores) if scores else None
        return Transcript(self.partial().text, tuple(words), duration, confidence)

    def partial(self) -> Transcript:
        """The text that no later chunk changes, and the duration so far."""
        return Transcript(" ".join("".join(map(self.units.surface, self.decoded)).split()), (), self.duration)

    def _pauses(self) -> list[int]:
        """Units of silence: the blank and spaces."""
        return [BLANK, *(unit for unit in range(1, self.units.vocab_size) if self.units.surface(unit).isspace())]

    def commit(self, log_probs: Tensor, *, complete: bool = False) -> None:
        """Decodes the next sub-frames, (sub-frames, vocab_size), for good; `complete`: they are the last ones."""
        if not len(log_probs):
            return
        best = log_probs.argmax(-1)
        if best[0] == self.last != BLANK:
            log_probs = log_probs.clone()
            repeated = int((best != best[0]).to(torch.int).argmax()) or len(best)
            log_probs[:repeated] = log_probs.new_full((), -30.0)  # decoded before the cut already
            log_probs[:repeated, BLANK] = 0.0
        units = self._decode(log_probs, complete=complete)
        self.decoded += units
        if self.timestamps:
            spans = align(log_probs, units)
            self.spans += [span._replace(start=span.start + self.time, end=span.end + self.time) for span in spans]
        self.time += len(log_probs)
        self.last = int(best[-1])

    def _decode(self, log_probs: Tensor, *, complete: bool) -> list[int]:
        if self.fusion is None or self.fused is None:
            return decode(log_probs[None], torch.tensor([len(log_probs)]), beam=self.beam)[0]
        frames = log_probs.float().cpu()
        units = beam_search(frames, self.beam, self.fusion, start=self.fused, complete=complete)
        for unit in units:
            self.fused = self.fusion.extend(self.fused, unit)
        return units


def timed_words(
    spans: Sequence[Span], units: CTCVocabulary, kind: Timestamps, *, seconds: float, length: int, duration: float
) -> Iterator[Word]:
    """Words or characters with their times.

    Args:
        spans: Aligned sub-frames of each unit.
        units: The vocabulary.
        kind: `word` or `char`.
        seconds: Duration of a sub-frame.
        length: Number of sub-frames.
        duration: Duration of the audio in seconds.
    """
    group: list[int] = []
    for i, span in enumerate([*spans, None]):
        surface = " " if span is None else units.surface(span.unit)
        if group and (kind == "char" or surface[0].isspace()):
            first, last = spans[group[0]], spans[group[-1]]
            before = spans[group[0] - 1].end if group[0] else 0
            after = spans[group[-1] + 1].start if group[-1] + 1 < len(spans) else length
            margin = round(_MARGIN / seconds)
            start = max(first.start - margin, (before + first.start) / 2)
            end = min(last.end + margin, (last.end + after) / 2)
            text = "".join(units.surface(spans[j].unit) for j in group).strip()
            score = sum(spans[j].score for j in group) / len(group)
            yield Word(text, start * seconds, min(end * seconds, duration), score)
            group = []
        if surface.strip():
            group.append(i)


def _best_cut(before: Tensor, after: Tensor, pauses: Sequence[int]) -> int:
    """The sub-frame of an overlap where both chunks are most certain of silence.

    Args:
        before: (shared sub-frames, vocab_size), the end of the earlier chunk.
        after: The same sub-frames in the later chunk.
        pauses: Units of silence.
    """
    if not len(before):
        return 0
    quiet = (before[:, pauses].logsumexp(1) + after[:, pauses].logsumexp(1))[None]
    width = min(9, len(before))  # a pause between words is longer than the blank between two letters
    smooth = F.avg_pool1d(F.pad(quiet, (width // 2, (width - 1) // 2), mode="replicate"), width, 1)[0]
    # A chunk lacks context at its edge: prefer the middle.
    middle = torch.linspace(-1, 1, len(smooth)).abs()
    return int((smooth - 0.5 * middle).argmax())


def chunks(
    sources: Sequence[AudioSource | Tensor], seconds: float, overlap: float
) -> Iterator[tuple[int, Tensor | UserError, bool]]:
    """Yields (number, chunk or error, whether it is the last) of all sources, the shortest source first."""
    durations: dict[int, float] = {}
    for number, source in enumerate(sources):
        try:
            durations[number] = _duration(source)
        except UserError as error:
            yield number, error, True
    for number in sorted(durations, key=durations.__getitem__):
        previous: Tensor | None = None
        try:
            for chunk in _chunks_of(sources[number], seconds, overlap):
                if previous is not None:
                    yield number, previous, False
                previous = chunk
        except UserError as error:
            yield number, error, True
            continue
        if previous is not None:
            yield number, previous, True


def _duration(source: AudioSource | Tensor) -> float:
    if isinstance(source, Tensor):
        if source.ndim != 1 or not len(source) or not source.isfinite().all():
            raise UserError(f"audio of shape {tuple(source.shape)}: give (samples,) of finite numbers at 16 kHz")
        return len(source) / SAMPLE_RATE
    return audio_info(source).duration


def _chunks_of(source: AudioSource | Tensor, seconds: float, overlap: float) -> Iterable[Tensor]:
    if not isinstance(source, Tensor):
        yield from audio_blocks(source, seconds, overlap)
        return
    size, step = round(seconds * SAMPLE_RATE), round((seconds - overlap) * SAMPLE_RATE)
    for first in range(0, max(1, len(source) - (size - step)), step):
        yield source[first : first + size].float()
