"""Speech for speaking: the data module."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from omni.batch import CodesBatch, HeldOut
from omni.data.loading.bucketing import BucketedBatches, SortedBatches
from omni.data.loading.resumable import ResumableData
from omni.data.speech.manifests import fingerprint, open_utterances
from omni.data.speech.rows import Row, identity, read_rows, report_skipped
from omni.data.talker.code_file import CodesFile
from omni.data.talker.encoding import Encoded, Encoder
from omni.data.talker.rows import AlignmentFilter, CodesRows, only_speakers, split_by_text, voice
from omni.devices import resolve
from omni.errors import UserError
from omni.media.audio import mel_constants
from omni.text.ctc_vocabulary import CTCVocabulary


class _Plan(NamedTuple):
    """What each split reads; found anew by every process."""

    rows: dict[str, list[Row]]
    identities: dict[str, str]  # of the rows, as the files were then
    files: dict[str, CodesFile]


@final
class CodesData(ResumableData):
    """Texts and the codes of their recordings, in batches of similar length; see `omni.batch.CodesBatch`.

    Every recording is encoded once by the codec and aligned once with its text by the recogniser; both are kept on
    disk until one of the two, or the data, changes. Rows whose alignment cannot be believed are left out, counted and
    reported by reason.

    Args:
        train: Manifests (.jsonl, .csv), folders of LibriSpeech or LJSpeech, or hub:OWNER/NAME[:CONFIG[:SPLIT]]; of
            conversations (.jsonl) the answers that carry speech.
        val: The same, for validation. By default sentences of `train` are held out.
        test: The same, for `omni test`.
        codec: Checkpoint with the codec whose codes are learned, such as lightning_logs/codec/best.ckpt.
        recognizer: Checkpoint with a recogniser that writes characters, such as lightning_logs/audio/best.ckpt.
        val_fraction: Share of the rows held out at least, where `val` is not given.
        speakers: Only these voices; by default all.
        silence: Seconds of silence put before and behind each recording.
        min_score: Least mean probability that the recogniser gives to a recording's characters, 0–1.
        min_speed: Least characters a second.
        max_speed: Most characters a second.
        batch_seconds: Most seconds of speech of a batch on each device, padding counted.
        max_batch_rows: Most utterances of a batch.
        min_duration: Shorter utterances are left out, in seconds.
        max_duration: Longer ones are left out.
        text_column: Where the text is in manifests and on the Hub.
        device: Where the corpus is encoded: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of the shuffling.
        cache_dir: Where codes, durations and downloads are kept.

    Attributes:
        tokenizer: The characters; after `setup`.
        speakers: The voices by number; after `setup`.
        encoder: Codec and recogniser.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: CTCVocabulary
    speakers: list[str]

    no_effect = frozenset({"device"})

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        codec: str,
        recognizer: str,
        val_fraction: float = 0.05,
        speakers: list[str] | None = None,
        silence: float = 0.1,
        min_score: float = 0.3,
        min_speed: float = 3.0,
        max_speed: float = 30.0,
        batch_seconds: float = 100.0,
        max_batch_rows: int = 64,
        min_duration: float = 0.1,
        max_duration: float = 20.0,
        text_column: str = "text",
        device: str = "auto",
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ):
        super().__init__(num_workers=num_workers, seed=seed)
        self.entries = {
            split: [given] if isinstance(given, str) else given
            for split, given in {"train": train, "val": val, "test": test}.items()
            if given is not None
        }
        self.codec_path, self.recognizer_path = codec, recognizer
        self.val_fraction, self.only = val_fraction, speakers
        self.silence, self.plausibility = silence, AlignmentFilter(min_score, min_speed, max_speed)
        self.batch_seconds, self.max_batch_rows = batch_seconds, max_batch_rows
        self.min_duration, self.max_duration = min_duration, max_duration
        self.text_column, self.device = text_column, device
        self.cache_dir = Path(cache_dir).expanduser()
        self._check_arguments()
        self._plan: _Plan | None = None
        self._rows: dict[str, CodesRows] = {}

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.codec_path, self.recognizer_path, silence=self.silence)

    def find_fingerprint(self) -> str:
        identities = self._plan_of(may_write=False).identities
        options = (self.plausibility, self.batch_seconds, self.max_batch_rows)
        return fingerprint([identities["train"], identities["val"], self.encoder.fingerprint, str(options)])

    def prepare_data(self) -> None:
        plan = self._plan_of(may_write=True)
        missing = {split: file for split, file in plan.files.items() if not file.complete}
        if not missing:
            return
        device = resolve(self.device, option="data.device")
        for part in (self.encoder.codec, self.encoder.audio_encoder):
            part.to(device)
        for split, file in missing.items():
            rows = plan.rows[split]
            file.write(lambda numbers, rows=rows: self._encode([rows[number] for number in numbers]), label=split)

    def setup(self, stage: str | None = None) -> None:
        if self._rows:
            return
        if self.trainer is None:
            self.prepare_data()
        plan = self._plan_of(may_write=False)
        rate = self.encoder.codec.frame_rate
        for split, rows in plan.rows.items():
            file = plan.files[split]
            if not file.complete:
                raise UserError(f"{file.data} is not there: data.cache_dir must be a folder that all ranks see")
            data = self._rows[split] = CodesRows(rows, file, self.plausibility, rate)
            report_skipped(split, data.skipped, len(data))
            rank_zero_info(f"{split}: {len(data):,} utterances, {data.durations.sum() / 3600:.2f} hours of codes")
        train = self._rows["train"]
        self.speakers = sorted({voice(train.rows[number]) for number in train.numbers})
        for data in self._rows.values():
            data.speakers = {name: number for number, name in enumerate(self.speakers)}

    def known_speakers_only(self) -> None:
        """Leaves out the voices that training does not have; for a stage that tells voices apart to call in `setup`.

        Raises:
            UserError: If no row is left of a split.
        """
        for split, data in self._rows.items():
            report_skipped(split, data.known_speakers_only(), len(data))

    def held_out(self, split: str, count: int) -> list[HeldOut]:
        """Some sentences of a split, short and long ones, with their recordings; the same each time.

        Args:
            split: `val` or `test`.
            count: Most sentences; this rank's share of them is returned.
        """
        data, sentences = self._rows[split], []
        order = np.argsort(data.durations, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
        share = self.rank()
        for number in chosen[share["rank"] :: share["world_size"]].tolist():
            row = data.rows[data.numbers[number]]
            try:
                audio = row.read()
            except UserError as error:
                rank_zero_warn(f"not spoken: {error}")
                continue
            codes, _ = data.file.read(data.numbers[number])
            text, speaker = self.tokenizer.decode(row.units), data.speaker(number)
            sentences.append(HeldOut(text, torch.tensor(row.units), speaker, self.encoder.mel(audio), codes))
        return sentences

    def train_batches(self) -> BucketedBatches:
        return BucketedBatches(
            self._rows["train"].durations,
            capacity=self.batch_seconds,
            max_rows=self.max_batch_rows,
            seed=self.seed,
            position=self.position,
            **self.rank(),
        )

    def train_dataloader(self) -> DataLoader[CodesBatch]:
        return self.loader(self._rows["train"], self.train_batches())

    def val_dataloader(self) -> DataLoader[CodesBatch]:
        return self._sorted("val")

    def test_dataloader(self) -> DataLoader[CodesBatch]:
        return self._sorted("test")

    def _sorted(self, split: str) -> DataLoader[CodesBatch]:
        if split not in self._rows:
            raise UserError(f"there is no speech to {split} on: give data.init_args.{split}")
        options: Any = {"capacity": self.batch_seconds, "max_rows": self.max_batch_rows, **self.rank()}
        return self.loader(self._rows[split], SortedBatches(self._rows[split].durations, **options))

    def _encode(self, rows: Sequence[Row]) -> list[Encoded]:
        return self.encoder.encode([_read(row) for row in rows], [row.units for row in rows])

    def _plan_of(self, *, may_write: bool) -> _Plan:
        """The rows of each split, found once by each process."""
        if self._plan is None:
            self.tokenizer = self.encoder.units
            rows = {split: self._read(split, may_write=may_write) for split in self.entries}
            if "val" not in rows:
                rows["train"], rows["val"] = split_by_text(rows["train"], self.val_fraction)
            identities = {split: identity(part) for split, part in rows.items()}
            files, constants = {}, str(sorted(mel_constants().items()))
            for split, part in rows.items():
                durations = np.array([row.duration for row in part])  # a manifest's may change while its audio does not
                key = fingerprint([identities[split], self.encoder.fingerprint, constants, str(durations.tolist())])
                files[split] = CodesFile(self.cache_dir / key[:32], durations, self.encoder.codec.num_codebooks)
            self._plan = _Plan(rows, identities, files)
        return self._plan

    def _read(self, split: str, *, may_write: bool) -> list[Row]:
        hub_split = {"val": "validation"}.get(split, split)
        options = {"text_column": self.text_column, "cache_dir": self.cache_dir, "hub_split": hub_split}
        rows, skipped = read_rows(
            open_utterances(self.entries[split], **options),
            self.tokenizer,
            min_duration=self.min_duration,
            max_duration=self.max_duration,
            cache_dir=self.cache_dir,
            may_write=may_write,
        )
        if self.only is not None:
            rows = only_speakers(rows, self.only, split)
        report_skipped(split, skipped, len(rows))
        return rows

    def _check_arguments(self) -> None:
        for name, least in {"max_batch_rows": 1, "num_workers": 0, "seed": 0, "silence": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"data.{name} is {getattr(self, name)}: it must be {least} or more")
        score, slowest, fastest = self.plausibility
        if not 0 <= score < 1:
            raise UserError(f"data.min_score is {score}: it must be 0 or more and less than 1")
        if not 0 <= slowest < fastest:
            raise UserError(f"data.min_speed ({slowest}) must be less than data.max_speed ({fastest})")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: it must lie between 0 and 1")
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(f"data.min_duration ({self.min_duration} s) must be less than data.max_duration")
        if self.batch_seconds < self.max_duration + 2 * self.silence:
            raise UserError(
                f"data.batch_seconds ({self.batch_seconds}) must hold an utterance of data.max_duration "
                f"({self.max_duration} s) and its silences: raise the one or lower the other"
            )
        if any(not entries for entries in self.entries.values()) or self.only == []:
            raise UserError("data.train, val, test and speakers must not be empty lists")


def _read(row: Row) -> Tensor | None:
    try:
        return row.read()
    except UserError as error:
        rank_zero_warn(f"left out: {error}")
        return None
