"""Streams of speech."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from torch import Tensor

from omni.batch import SpeechBatch
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.streaming import BucketedStream
from omni.data.speech.dataset import FeatureExtractor, make_batch
from omni.data.speech.manifests import Utterance, Utterances
from omni.data.speech.rows import encode_text, is_uncertain, read_utterance
from omni.decoding.ctc import least_subframes
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.container import AudioSource
from omni.text.ctc_vocabulary import CTCVocabulary


class _LoadedUtterance(NamedTuple):
    audio: Tensor
    units: list[int]
    number: int  # in all shares of the pass


@final
class SpeechStream(BucketedStream[tuple[Utterance, AudioSource] | UserError, _LoadedUtterance, SpeechBatch]):
    """One pass over utterances in batches of similar length.

    Args:
        sources: The utterances.
        units: Encodes their texts.
        extract: Makes their features.
        min_duration: Shorter utterances are left out, in seconds.
        max_duration: Longer ones are left out.
        errors: Of rows that cannot be read.
        min_confidence: Transcripts by a recogniser that are less certain are left out.
        **options: Of `BucketedStream`; `capacity` in seconds.

    Attributes:
        subframes: Output frames of the model for a number of mel frames; None: rows are not checked for feasibility.
    """

    def __init__(
        self,
        sources: Sequence[Utterances],
        units: CTCVocabulary,
        *,
        extract: FeatureExtractor,
        min_duration: float,
        max_duration: float,
        errors: RowErrors,
        min_confidence: float = 0.0,
        **options: Any,
    ):
        super().__init__(sources, **options)
        self.units, self.extract = units, extract
        self.min_duration, self.max_duration, self.errors = min_duration, max_duration, errors
        self.min_confidence = min_confidence
        self.subframes: Callable[[int], int] | None = None

    def load(
        self, number: int, row: tuple[Utterance, AudioSource] | UserError, skipped: Counter[str]
    ) -> _LoadedUtterance | None:
        try:
            if isinstance(row, UserError):
                raise row
            units, reason = encode_text(row[0].text, self.units)
            if is_uncertain(row[0], self.min_confidence):
                reason = f"less certain than data.min_confidence, {self.min_confidence}"
            if reason is None:
                audio = read_utterance(row[1], row[0].where, self.max_duration + 1)
                reason = self._fault(audio, units)
                if reason is None:
                    return _LoadedUtterance(audio, units, number)
        except UserError as error:
            self.errors.add(error)
            reason = "that cannot be read"
        skipped[reason] += 1
        return None

    def size(self, item: _LoadedUtterance) -> float:
        seconds = len(item.audio) / SAMPLE_RATE
        return min(seconds, self.extract.crop) if self.extract.crop else seconds * (1 + self.extract.two_views)

    def collate(self, items: Sequence[_LoadedUtterance]) -> SpeechBatch:
        seeds = [[self.seed, self.epoch, item.number] for item in items]
        pairs = zip(items, seeds, strict=True)
        features = [self.extract(item.audio, np.random.default_rng(seed)) for item, seed in pairs]
        return make_batch(features, [item.units for item in items], [item.number for item in items])

    def _fault(self, audio: Tensor, units: list[int]) -> str | None:
        """Why a row cannot be used, or None."""
        seconds = len(audio) / SAMPLE_RATE
        if seconds < self.min_duration:
            return f"shorter than data.min_duration, {self.min_duration} s"
        if seconds > self.max_duration:
            return f"longer than data.max_duration, {self.max_duration} s"
        if self.subframes is not None and least_subframes(units) > self.subframes(LogMel.num_frames(len(audio))):
            return "with text too long for their audio (CTC-infeasible)"
        return None
