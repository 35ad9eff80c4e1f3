"""The rows that a Talker is trained on, and their batches."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import IGNORE, CodesBatch
from omni.data.loading.skipped import SkippedRow
from omni.data.speech.rows import SpeechRow, chosen_by_hash
from omni.data.talker.code_file import CodesFile
from omni.data.talker.encoding import FAULT_MESSAGES, AlignmentFault
from omni.errors import UserError
from omni.text.ctc_vocabulary import BLANK


class AlignmentFilter(NamedTuple):
    """Limits of a plausible alignment.

    Attributes:
        min_score: Smallest mean probability of the characters, 0–1.
        min_speed: Smallest number of characters a second.
        max_speed: Largest number of characters a second.
    """

    min_score: float
    min_speed: float
    max_speed: float

    def rejection(self, record: np.ndarray) -> str | None:
        """Why a row is left out, given its record in a `CodesFile`; None if it is not."""
        if record["fault"] != AlignmentFault.NONE:
            return FAULT_MESSAGES[AlignmentFault(int(record["fault"]))]
        if record["score"] < self.min_score:
            return f"the recogniser outputs another text (score below data.min_score, {self.min_score:g})"
        if record["speed"] < self.min_speed:
            return f"too slow (below data.min_speed, {self.min_speed:g} characters a second)"
        if record["speed"] > self.max_speed:
            return f"too fast (over data.max_speed, {self.max_speed:g} characters a second)"
        return None


def speaker_of(row: SpeechRow) -> str:
    """The name of the speaker; all rows without one have the same, empty."""
    return row.utterance.speaker or ""


def select_speakers(rows: Sequence[SpeechRow], speakers: Sequence[str], split: str) -> list[SpeechRow]:
    """The rows of some speakers.

    Raises:
        UserError: If one of them has no row in training.
    """
    known = {speaker_of(row) for row in rows}
    if split == "train" and (unknown := set(speakers) - known):
        some = ", ".join(sorted(known)[:10])
        raise UserError(f"data.speakers: no speaker is called {min(unknown)!r}; there are {len(known)}: {some}")
    return [row for row in rows if speaker_of(row) in speakers]


def split_by_text(rows: Sequence[SpeechRow], fraction: float) -> tuple[list[SpeechRow], list[SpeechRow]]:
    """Holds sentences out, chosen by a hash of their text, with at least a given share of the rows.

    Raises:
        UserError: If all rows have the same text.
    """
    counts = Counter(" ".join(map(str, row.units)) for row in rows)
    if len(counts) < 2:
        raise UserError("data.train has a single sentence, so none can be held out: give data.val")
    held_out = set(chosen_by_hash(counts, fraction))
    is_held = [" ".join(map(str, row.units)) in held_out for row in rows]
    kept = [row for row, held in zip(rows, is_held, strict=True) if not held]
    return kept, [row for row, held in zip(rows, is_held, strict=True) if held]


@final
class CodesDataset(Dataset[CodesBatch]):
    """Texts and codes by number, a whole batch at a time. Numbers beyond the last row are the same rows again.

    Args:
        rows: All utterances of `file`.
        file: Their codes.
        alignment_filter: Limits of their alignments.
        frame_rate: Frames a second.

    Attributes:
        speakers: Number of each speaker.
        numbers: Of the rows that are used.
        skipped: The other rows.
        unreadable: Those of them whose audio cannot be read.
    """

    def __init__(
        self, rows: Sequence[SpeechRow], file: CodesFile, alignment_filter: AlignmentFilter, frame_rate: float
    ):
        self.rows, self.file, self.frame_rate = rows, file, frame_rate
        self.speakers: dict[str, int] = {}
        self.numbers: list[int] = []
        self.skipped: list[SkippedRow] = []
        unreadable = np.flatnonzero(file.records["fault"] == AlignmentFault.UNREADABLE).tolist()
        self.unreadable = [rows[number] for number in unreadable]
        for number, row in enumerate(rows):
            if reason := alignment_filter.rejection(file.records[number]):
                self.skipped.append(SkippedRow(row.utterance.where, reason))
            else:
                self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def keep_known_speakers(self) -> list[SkippedRow]:
        """Leaves out the rows of speakers without a number, and returns these rows."""
        unknown = [number for number in self.numbers if speaker_of(self.rows[number]) not in self.speakers]
        self.numbers = [number for number in self.numbers if speaker_of(self.rows[number]) in self.speakers]
        reason = "a speaker that training does not have"
        return [SkippedRow(self.rows[number].utterance.where, reason) for number in unknown]

    @property
    def durations(self) -> np.ndarray:
        """Seconds of codes in each row."""
        return self.file.records["frames"][self.numbers] / self.frame_rate

    def speaker(self, number: int) -> int:
        """The number of a row's speaker; 0 for an unknown one."""
        return self.speakers.get(speaker_of(self.rows[self.numbers[number]]), 0)

    def __getitems__(self, numbers: list[int]) -> CodesBatch:
        used = [number % len(self) for number in numbers]
        texts = [torch.tensor(self.rows[self.numbers[number]].units) for number in used]
        codes, advances = zip(*(self.file.read(self.numbers[number]) for number in used), strict=True)
        return CodesBatch(
            text=pad_sequence(texts, batch_first=True, padding_value=BLANK),
            text_lengths=torch.tensor([len(text) for text in texts]),
            codes=pad_sequence(list(codes), batch_first=True, padding_value=IGNORE),
            advances=pad_sequence(list(advances), batch_first=True, padding_value=IGNORE),
            speakers=torch.tensor([self.speaker(number) for number in used]),
            rows=torch.tensor(used),
            seconds=sum(map(len, codes)) / self.frame_rate,
            spelled=tuple(text.numpy() for text in texts),
        )
