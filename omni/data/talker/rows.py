"""The rows that a Talker can be trained on, and the batches that are made of them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import IGNORE, CodesBatch
from omni.data.speech.rows import Row, Skipped, chosen_by_hash
from omni.data.talker.code_file import CodesFile
from omni.data.talker.encoding import FAULTS, Fault
from omni.errors import UserError
from omni.text.ctc_vocabulary import BLANK


class AlignmentFilter(NamedTuple):
    """What an alignment must be like to be believed.

    Attributes:
        min_score: Least mean probability of the characters, 0–1.
        min_speed: Least characters a second.
        max_speed: Most characters a second.
    """

    min_score: float
    min_speed: float
    max_speed: float

    def doubt(self, record: np.ndarray) -> str | None:
        """What is wrong with a row, given its record in a `CodesFile`, or None."""
        if record["fault"] != Fault.NONE:
            return FAULTS[Fault(int(record["fault"]))]
        if record["score"] < self.min_score:
            return f"the recogniser hears another text (score below data.min_score, {self.min_score:g})"
        if record["speed"] < self.min_speed:
            return f"said too slowly (below data.min_speed, {self.min_speed:g} characters a second)"
        if record["speed"] > self.max_speed:
            return f"said too fast (over data.max_speed, {self.max_speed:g} characters a second)"
        return None


def voice(row: Row) -> str:
    """Who speaks; all rows without a name are one voice."""
    return row.utterance.speaker or ""


def only_speakers(rows: Sequence[Row], speakers: Sequence[str], split: str) -> list[Row]:
    """The rows that some speakers say.

    Raises:
        UserError: If one of them says nothing in training.
    """
    known = {voice(row) for row in rows}
    if split == "train" and (unknown := set(speakers) - known):
        some = ", ".join(sorted(known)[:10])
        raise UserError(f"data.speakers: nobody is called {min(unknown)!r}; there are {len(known)}: {some}")
    return [row for row in rows if voice(row) in speakers]


def split_by_text(rows: Sequence[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """Holds sentences out, chosen by their hash, whoever says them; as many rows as this share at least.

    Raises:
        UserError: If all rows say the same.
    """
    counts = Counter(" ".join(map(str, row.units)) for row in rows)
    if len(counts) < 2:
        raise UserError("data.train holds one sentence only, and none can be held out: give data.val")
    held_out = set(chosen_by_hash(counts, fraction))
    is_held = [" ".join(map(str, row.units)) in held_out for row in rows]
    kept = [row for row, held in zip(rows, is_held, strict=True) if not held]
    return kept, [row for row, held in zip(rows, is_held, strict=True) if held]


@final
class CodesRows(Dataset[CodesBatch]):
    """Texts and codes by number, a whole batch at a time. Numbers beyond the last row are the same rows once more.

    Args:
        rows: All utterances of `file`.
        file: Their codes.
        plausibility: What an alignment must be like.
        frame_rate: Frames a second.
    """

    def __init__(self, rows: Sequence[Row], file: CodesFile, plausibility: AlignmentFilter, frame_rate: float):
        self.rows, self.file, self.frame_rate = rows, file, frame_rate
        self.speakers: dict[str, int] = {}  # the number of each voice
        self.numbers: list[int] = []  # of the rows that are used
        self.skipped: list[Skipped] = []
        for number, row in enumerate(rows):
            if why := plausibility.doubt(file.records[number]):
                self.skipped.append(Skipped(row.utterance.where, why))
            else:
                self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def known_speakers_only(self) -> list[Skipped]:
        """Leaves out the voices that have no number, and tells which rows these are."""
        unknown = [number for number in self.numbers if voice(self.rows[number]) not in self.speakers]
        self.numbers = [number for number in self.numbers if voice(self.rows[number]) in self.speakers]
        return [Skipped(self.rows[number].utterance.where, "a voice that training does not have") for number in unknown]

    @property
    def durations(self) -> np.ndarray:
        """Seconds of codes in each row."""
        return self.file.records["frames"][self.numbers] / self.frame_rate

    def speaker(self, number: int) -> int:
        """The number of a row's voice; 0 for an unknown one."""
        return self.speakers.get(voice(self.rows[self.numbers[number]]), 0)

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
