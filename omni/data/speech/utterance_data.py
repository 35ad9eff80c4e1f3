"""The base of the data modules whose rows are utterances."""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from omni.data.loading.bad_rows import BadRows
from omni.data.loading.batched_data import BucketedData
from omni.data.loading.row_file import RowFile
from omni.data.loading.skipped import report_skipped
from omni.data.loading.statistics import DataStatistics
from omni.data.speech.manifests import Utterances
from omni.data.speech.opening import open_utterances
from omni.data.speech.rows import SpeechRow, read_rows
from omni.errors import UserError
from omni.text.ctc_vocabulary import CTCVocabulary

File = TypeVar("File", bound=RowFile)


class UtterancePlan(NamedTuple, Generic[File]):
    """The rows of each split, and the files of what is computed from them.

    Attributes:
        rows: By split, as the others.
        fingerprints: Of the rows, as their files were when the plan was made.
        files: Without the splits that have none.
    """

    rows: dict[str, list[SpeechRow]]
    fingerprints: dict[str, str]
    files: dict[str, File]


class UtteranceData(BucketedData[UtterancePlan[File]], ABC):
    """Abstract: a data module of utterances.

    Args:
        entries: See `SplitData`.
        batch_seconds: Largest total duration of a batch on each device, padding counted.
        max_batch_rows: Largest number of utterances of a batch.
        min_duration: Shorter utterances are left out, in seconds.
        max_duration: Longer ones are left out.
        text_column: Column of the text in manifests and on the Hub.
        bad_rows: See `SplitData`; of speech, rows that cannot be read are left out unless this is `error`.
        kwargs: See `SplitData`.

    Attributes:
        tokenizer: Encodes the transcripts.
        silence: Seconds that are added before and after each utterance.
        min_confidence: Training transcripts by a recogniser that are less certain are left out; 0–1.
    """

    row_name: ClassVar[str] = "utterances"

    tokenizer: CTCVocabulary
    silence: float = 0.0
    min_confidence: float = 0.0

    def __init__(
        self,
        entries: Mapping[str, str | list[str] | dict[str, float] | None],
        *,
        batch_seconds: float = 100.0,
        max_batch_rows: int = 64,
        min_duration: float = 0.1,
        max_duration: float = 20.0,
        text_column: str = "text",
        bad_rows: BadRows = "skip",
        **kwargs: Any,
    ):
        super().__init__(entries, bad_rows=bad_rows, **kwargs)
        self.batch_seconds, self.max_batch_rows = batch_seconds, max_batch_rows
        self.min_duration, self.max_duration = min_duration, max_duration
        self.text_column = text_column

    @property
    def batch_capacity(self) -> float:
        return self.batch_seconds

    def statistics(self) -> DataStatistics:
        """Of the rows that are read; those that turn out to be unusable for a model are counted too."""
        rows = {split: part for split, part in self.plan(may_write=True).rows.items() if split != "test"}
        durations = {split: np.array([row.duration for row in part]) for split, part in rows.items()}
        counts = {
            split: {
                "utterances": len(part),
                "hours": float(durations[split].sum() / 3600),
                "s the longest": float(durations[split].max()),
                "speakers": len({row.utterance.speaker for row in part} - {None}),
            }
            for split, part in rows.items()
        }
        return self.statistics_of(
            "hours",
            counts,
            {split: self.item_sizes(part, split) for split, part in rows.items()},
            batch_argument="batch_seconds",
            smallest_batch=self.max_duration + 2 * self.silence,
        )

    def item_sizes(self, rows: Sequence[SpeechRow], split: str) -> np.ndarray:
        """Seconds of a batch that each item of an epoch takes; an item is an utterance.

        Args:
            rows: The utterances of the split.
            split: Its name.
        """
        return np.array([row.duration for row in rows]) + 2 * self.silence

    def read_split(self, split: str, *, may_write: bool) -> list[SpeechRow]:
        """The rows of a split that can be used; the others are reported."""
        rows, skipped = read_rows(
            self.sources(split),
            self.tokenizer,
            min_duration=self.min_duration,
            max_duration=self.max_duration,
            cache_dir=self.cache_dir,
            may_write=may_write,
            errors=self.row_errors(split),
            min_confidence=self.min_confidence if split == "train" else 0.0,
        )
        rows = self.selected(rows, split)
        report_skipped(split, skipped, len(rows))
        return rows

    def sources(self, split: str) -> list[Utterances]:
        """The sources of a split."""
        return open_utterances(
            self.entries[split],
            text_column=self.text_column,
            cache_dir=self.cache_dir,
            split=split,
            columns=self.columns,
        )

    def selected(self, rows: list[SpeechRow], split: str) -> list[SpeechRow]:
        """The rows of a split that are wanted; all of them, unless a subclass selects."""
        return rows

    def check_arguments(self, **limits: float) -> None:
        super().check_arguments(max_batch_rows=1, **limits)
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(f"data.min_duration ({self.min_duration} s) must be less than data.max_duration")
        if self.batch_seconds < self.max_duration + 2 * self.silence:
            silences = f" and twice data.silence ({self.silence} s)" if self.silence else ""
            raise UserError(
                f"data.batch_seconds ({self.batch_seconds}) must hold an utterance of data.max_duration "
                f"({self.max_duration} s){silences}: raise the one or lower the other"
            )
