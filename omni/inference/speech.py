"""Synthesised speech, whole or in pieces, with the times of its words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor

from omni.media.audio import SAMPLE_RATE, write_audio
from omni.media.resampling import resample
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.transcript import Word


@dataclass(frozen=True, kw_only=True, eq=False)
class Speech:
    """Synthesised speech.

    Attributes:
        audio: (samples,), float32 within ±1, on the CPU.
        codes: (frames, codebooks), int64: codes of the codec, of all sentences in order, silence included.
        words: The words as they are spoken ("21" is two), with their times in the audio. Each score is 1: unlike those
            of a transcript, these words are known.
        sample_rate: In Hz.
    """

    audio: Tensor
    codes: Tensor
    words: tuple[Word, ...] = ()
    sample_rate: int = SAMPLE_RATE

    def resampled(self, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """The audio (samples,) at another rate in Hz, such as the 16 kHz that recognisers read."""
        return resample(self.audio, self.sample_rate, sample_rate)

    def save(self, path: str | Path) -> None:
        """Writes an audio file; see `omni.media.audio.write_audio`."""
        write_audio(path, self.audio, sample_rate=self.sample_rate)

    @classmethod
    def join(cls, parts: Sequence["Speech"]) -> "Speech":
        """The speech of several parts of one sample rate, one after the other; at least one."""
        words: list[Word] = []
        samples, sample_rate = 0, parts[0].sample_rate
        for part in parts:
            words += shifted(part.words, samples / sample_rate)
            samples += len(part.audio)
        audio, codes = torch.cat([part.audio for part in parts]), torch.cat([part.codes for part in parts])
        return cls(audio=audio, codes=codes, words=tuple(words), sample_rate=sample_rate)


class SpeechChunk(NamedTuple):
    """A piece of speech that is synthesised in pieces.

    Attributes:
        samples: (samples,), float32 within ±1, on the CPU; empty if the speech ends in words without a sound.
        words: The words that end in this piece, with their times since the start of the speech; see `Speech.words`.
    """

    samples: Tensor
    words: tuple[Word, ...] = ()


def shifted(words: Iterable[Word], seconds: float) -> tuple[Word, ...]:
    """Words that follow this many seconds of speech."""
    return tuple(word._replace(start=word.start + seconds, end=word.end + seconds) for word in words)


@final
class WordTimer:
    """Times of the words of a segment, by the Talker's position in it at each frame.

    A word starts with the first frame that reads its first character or a later one, and ends with the first frame
    after its last character. At 25 Hz a frame lasts 40 ms. For the positions that a Talker is trained on, times differ
    from forced alignment by 20 ms at the starts of words (median; 90 %: 30 ms) and by 0 ms (20 ms) at their ends, over
    466 words of the world's narrator.

    Args:
        units: Input of the Talker.
        vocabulary: The vocabulary of the units.
        samples: Samples per frame.
        sample_rate: Of the audio in Hz.
    """

    def __init__(
        self, units: Sequence[int], vocabulary: CTCVocabulary, samples: float, *, sample_rate: int = SAMPLE_RATE
    ) -> None:
        self._samples, self._sample_rate, self._frames = samples, sample_rate, 0
        self._texts, self._places = _words(units, vocabulary)
        self._starts: list[int] = []  # frame of each word that has started
        self._ends: list[int] = []
        self._taken = 0

    def add(self, position: int) -> None:
        """Adds a frame.

        Args:
            position: The unit that the frame reads, from 1; 0 is the start symbol. Never less than before.
        """
        firsts, lasts = self._places
        while len(self._starts) < len(firsts) and firsts[len(self._starts)] <= position:
            self._starts.append(self._frames)
        while len(self._ends) < len(lasts) and lasts[len(self._ends)] < position:
            self._ends.append(self._frames)
        self._frames += 1

    def take(self, skipped: int, length: int, *, complete: bool) -> tuple[Word, ...]:
        """The words that were not taken yet and end in the audio.

        Args:
            skipped: Samples that were removed before the audio.
            length: Samples of the audio so far.
            complete: Whether it is all of the audio: the last words end there at the latest.
        """
        if complete:
            self._starts += [self._frames] * (len(self._texts) - len(self._starts))
            self._ends += [self._frames] * (len(self._texts) - len(self._ends))
        found: list[Word] = []
        for number in range(self._taken, len(self._ends)):
            start, end = (places[number] * self._samples - skipped for places in (self._starts, self._ends))
            if end > length and not complete:
                break
            start, end = (min(max(0.0, place), length) / self._sample_rate for place in (start, end))
            found.append(Word(self._texts[number], start, end, 1.0))
        self._taken += len(found)
        return tuple(found)


def _words(units: Sequence[int], vocabulary: CTCVocabulary) -> tuple[list[str], tuple[list[int], list[int]]]:
    """The words of units, and the positions of their first and last unit, from 1."""
    texts: list[str] = []
    places: tuple[list[int], list[int]] = ([], [])
    inside = False
    for position, surface in enumerate(map(vocabulary.surface, units), start=1):
        inside = inside and not surface[0].isspace()
        if not surface.strip():
            continue
        if not inside:
            texts.append("")
            for place in places:
                place.append(position)
        texts[-1] += surface.strip()
        places[1][-1], inside = position, True
    return texts, places
