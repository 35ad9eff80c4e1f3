"""Speech for recognition: the data module."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from omni.batch import SpeechBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.data.loading.bucketing import BucketedBatches, SortedBatches, padding_share
from omni.data.loading.streaming import StreamableData
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.features import FeatureFile
from omni.data.speech.manifests import fingerprint, open_utterances
from omni.data.speech.rows import Row, Skipped, SpeechRows, identity, read_rows, report_skipped, split_by_speaker
from omni.data.speech.stream import SpeechStream
from omni.decoding.ctc import least_subframes
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, mel_constants
from omni.text.ctc_vocabulary import ENGLISH, CTCVocabulary, open_ctc_vocabulary
from omni.text.normalization import TextNormalization


class _Plan(NamedTuple):
    """What each split reads; found anew by every process."""

    rows: dict[str, list[Row]]
    identities: dict[str, str]  # of the rows, as the files were then
    files: dict[str, FeatureFile]


@final
class SpeechData(StreamableData):
    """Utterances in batches of similar length, as log-mel spectrograms; see `omni.batch.SpeechBatch`.

    Rows that cannot be used (audio missing, too short or long, text that the units cannot write or that CTC cannot
    emit in time) are left out, counted and reported by reason.

    Args:
        train: Manifests (.jsonl, .csv), folders of LibriSpeech or LJSpeech, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        val: The same, for validation. By default speakers of `train` are held out.
        test: The same, for `omni test` and `omni predict`.
        val_speakers: Speakers to hold out where `val` is not given; by default some are chosen by their names' hash.
        val_fraction: Share of the rows held out at least, where neither is given.
        units: What is written: `characters`, a SentencePiece .model file, or a recogniser's .ckpt file.
        characters: Of `characters`.
        normalization: How text is written before it is learned and scored.
        num_mels: Mel filters; the encoder's.
        batch_seconds: Most audio of a batch on each device, padding counted.
        max_batch_rows: Most utterances of a batch.
        min_duration: Shorter utterances are left out, in seconds.
        max_duration: Longer ones are left out.
        crop: Training hears a random stretch of so many seconds of each utterance, and no text; 0: all of it.
        audio: Where batches hold waveforms beside spectrograms: `none`, `validation` or `all`. In training,
            augmentation must then leave spectrograms as they are.
        augmentation: What training does to utterances.
        cache_features: Keep spectrograms on disk: 184 MB for an hour of audio at 128 filters. The augmentation must
            then leave waveforms as they are.
        text_column: Where the text is in manifests and on the Hub.
        streaming: Read while training, for a corpus too large to prepare; `val` must be given. Resuming reads again.
        shuffle_buffer: Utterances that are shuffled and sorted into batches together when streaming.
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of shuffling and augmentation.
        cache_dir: Where durations, spectrograms and downloads are kept.

    Attributes:
        tokenizer: The units; after `setup`.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: CTCVocabulary

    no_effect = frozenset({"cache_features"})

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        val_speakers: list[str] | None = None,
        val_fraction: float = 0.1,
        units: str = "characters",
        characters: str = ENGLISH,
        normalization: TextNormalization = TextNormalization(),  # noqa: B008  immutable
        num_mels: int = 128,
        batch_seconds: float = 100.0,
        max_batch_rows: int = 64,
        min_duration: float = 0.1,
        max_duration: float = 20.0,
        crop: float = 0.0,
        audio: Literal["none", "validation", "all"] = "none",
        augmentation: SpeechAugmentation = SpeechAugmentation(),  # noqa: B008  immutable
        cache_features: bool = False,
        text_column: str = "text",
        streaming: bool = False,
        shuffle_buffer: int = 512,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ):
        super().__init__(streaming=streaming, num_workers=num_workers, seed=seed)
        self.entries = {
            split: [given] if isinstance(given, str) else given
            for split, given in {"train": train, "val": val, "test": test}.items()
            if given is not None
        }
        self.val_speakers, self.val_fraction = val_speakers, val_fraction
        self.units_spec, self.characters, self.normalization = units, characters, normalization
        self.num_mels = num_mels
        self.batch_seconds, self.max_batch_rows = batch_seconds, max_batch_rows
        self.min_duration, self.max_duration = min_duration, max_duration
        self.crop, self.audio = crop, audio
        self.augmentation, self.cache_features = augmentation, cache_features
        self.text_column, self.shuffle_buffer = text_column, shuffle_buffer
        self._subframes: Callable[[int], int] | None = None
        self.cache_dir = Path(cache_dir).expanduser()
        self._check_arguments()
        self._plan: _Plan | None = None
        self._rows: dict[str, SpeechRows] = {}

    def find_fingerprint(self) -> str:
        identities = self._plan_of(may_write=False).identities
        train = " ".join(self.entries["train"]) if self.streaming else identities["train"]
        options = [self.tokenizer.fingerprint, self.batch_seconds, self.max_batch_rows, self.augmentation]
        options += [self.crop] if self.crop else []
        return fingerprint([train, identities["val"], *map(str, options)])

    def prepare_data(self) -> None:
        plan = self._plan_of(may_write=True)
        for split, file in plan.files.items():
            if not file.complete:
                rows = plan.rows[split]
                file.write(lambda row, rows=rows: rows[row].read(), label=split)

    def setup(self, stage: str | None = None) -> None:
        if self._rows:
            return
        if self.trainer is None:
            self.prepare_data()
        plan = self._plan_of(may_write=False)
        for split, rows in plan.rows.items():
            self._rows[split] = self._dataset(split, rows, plan.files.get(split))
            hours = sum(row.duration for row in rows) / 3600
            speakers = {row.utterance.speaker for row in rows} - {None}
            told = f", {len(speakers)} speakers" if speakers else ""
            rank_zero_info(f"{split}: {len(rows):,} utterances, {hours:.2f} hours{told}")

    def keep_feasible(self, subframes: Callable[[int], int]) -> None:
        """Leaves out the rows whose text no CTC path of so many sub-frames can spell; for a stage to call in `setup`.

        Args:
            subframes: How many the head writes for so many mel frames.

        Raises:
            UserError: If no row is left.
        """
        self._subframes = subframes
        for split, data in self._rows.items():
            keep, skipped = [], []
            for number, row in enumerate(data.rows):
                frames = -(-round(row.duration * SAMPLE_RATE) // HOP_LENGTH)
                needed = least_subframes(row.units)
                if needed <= subframes(frames):
                    keep.append(number)
                else:
                    skipped.append(Skipped(row.utterance.where, "the text is too long for its audio (CTC-infeasible)"))
            report_skipped(split, skipped, len(keep))
            if skipped:
                data.keep(keep)
        if "train" in self._rows:
            batches = self.train_batches()
            share = padding_share(self._durations("train"), [batch % batches.num_rows for batch in batches.epoch(0)])
            rank_zero_info(f"train: {len(batches)} batches an epoch, {share:.1%} padding")

    def train_batches(self) -> BucketedBatches:
        return BucketedBatches(
            self._durations("train"),
            capacity=self.batch_seconds,
            max_rows=self.max_batch_rows,
            seed=self.seed,
            position=self.position,
            **self.rank(),
        )

    @property
    def stream_identity(self) -> str:
        return f"{self.fingerprint} {self.shuffle_buffer}"

    def _stream(self) -> SpeechStream:
        stream = SpeechStream(
            open_utterances(self.entries["train"], text_column=self.text_column, cache_dir=self.cache_dir),
            self.tokenizer,
            num_mels=self.num_mels,
            augmentation=self.augmentation,
            batch_seconds=self.batch_seconds,
            max_rows=self.max_batch_rows,
            min_duration=self.min_duration,
            max_duration=self.max_duration,
            crop=self.crop,
            audio=self.audio == "all",
            buffer=self.shuffle_buffer,
            seed=self.seed,
            **self.rank(),
        )
        stream.subframes = self._subframes
        return stream

    def train_dataloader(self) -> DataLoader[SpeechBatch]:
        if self.streaming:
            return self.stream_loader(self._stream())
        return self.loader(self._rows["train"], self.train_batches())

    def val_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._sorted("val")

    def test_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._sorted("test")

    def predict_dataloader(self) -> DataLoader[SpeechBatch]:
        # Lightning wraps the sampler, to know which rows a prediction is of; it cannot wrap a batch sampler of ours.
        loader, share = self._sorted("test"), self.rank()
        rows = range(share["rank"], len(self._rows["test"]), share["world_size"])
        return DataLoader(loader.dataset, batch_size=8, sampler=rows, collate_fn=loader.collate_fn)

    def _sorted(self, split: str) -> DataLoader[SpeechBatch]:
        if split not in self._rows:
            raise UserError(f"there is no speech to {split} on: give data.init_args.{split}")
        options: Any = {"capacity": self.batch_seconds, "max_rows": self.max_batch_rows, **self.rank()}
        return self.loader(self._rows[split], SortedBatches(self._durations(split), **options))

    def _durations(self, split: str) -> np.ndarray:
        durations = np.array([row.duration for row in self._rows[split].rows])
        return np.minimum(durations, self.crop) if self.crop and split == "train" else durations

    def _dataset(self, split: str, rows: list[Row], features: FeatureFile | None) -> SpeechRows:
        if features is not None and not features.complete:
            raise UserError(f"{features.data} is not there: data.cache_dir must be a folder that all ranks see")
        augmentation = self.augmentation if split == "train" else None
        crop = self.crop if split == "train" else 0.0
        audio = self.audio == "all" or (self.audio == "validation" and split != "train")
        options: Any = {"augmentation": augmentation, "crop": crop, "features": features, "audio": audio}
        data = SpeechRows(rows, self.num_mels, **options, seed=self.seed)
        if features is not None and features.unreadable:
            data.keep([row for row in range(len(rows)) if row not in features.unreadable])
        return data

    def _plan_of(self, *, may_write: bool) -> _Plan:
        """The rows of each split, found once by each process."""
        if self._plan is None:
            self.tokenizer = self._units()
            splits = [split for split in self.entries if split != "train" or not self.streaming]
            rows = {split: self._read(split, may_write=may_write) for split in splits}
            if "val" not in rows:
                rows["train"], rows["val"] = split_by_speaker(rows["train"], self.val_fraction, self.val_speakers)
            identities, files = {split: identity(part) for split, part in rows.items()}, {}
            if self.cache_features:
                constants = [self.num_mels, *sorted(mel_constants().items())]
                for split, part in rows.items():
                    key = fingerprint([identities[split], str(constants)])
                    files[split] = FeatureFile(self.cache_dir / key[:32], self.num_mels, len(part))
            self._plan = _Plan(rows, identities, files)
        return self._plan

    def _units(self) -> CTCVocabulary:
        if self.units_spec.endswith(".ckpt") or Path(self.units_spec).is_dir():
            return Checkpoint(self.units_spec).ctc_vocabulary
        return open_ctc_vocabulary(self.units_spec, characters=self.characters, normalization=self.normalization)

    def _read(self, split: str, *, may_write: bool) -> list[Row]:
        hub_split = {"val": "validation"}.get(split, split)
        options = {"text_column": self.text_column, "cache_dir": self.cache_dir, "hub_split": hub_split}
        sources = open_utterances(self.entries[split], **options)
        rows, skipped = read_rows(
            sources,
            self.tokenizer,
            min_duration=self.min_duration,
            max_duration=self.max_duration,
            cache_dir=self.cache_dir,
            may_write=may_write,
        )
        report_skipped(split, skipped, len(rows))
        return rows

    def _check_arguments(self) -> None:
        for name, least in {
            "max_batch_rows": 1,
            "shuffle_buffer": 1,
            "num_workers": 0,
            "seed": 0,
            "num_mels": 1,
        }.items():
            if getattr(self, name) < least:
                raise UserError(f"data.{name} is {getattr(self, name)}: it must be {least} or more")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: it must lie between 0 and 1")
        if self.crop and not self.min_duration <= self.crop <= self.batch_seconds:
            raise UserError(
                f"data.crop is {self.crop} s: 0 for whole utterances, or between data.min_duration "
                f"({self.min_duration} s) and data.batch_seconds ({self.batch_seconds} s)"
            )
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(f"data.min_duration ({self.min_duration} s) must be less than data.max_duration")
        if self.batch_seconds < self.max_duration:
            raise UserError(
                f"data.batch_seconds ({self.batch_seconds}) must hold an utterance of data.max_duration "
                f"({self.max_duration} s): raise the one or lower the other"
            )
        if self.streaming and "val" not in self.entries:
            raise UserError("data.streaming reads train as it comes: give data.val")
        if self.streaming and self.cache_features:
            raise UserError("data.streaming keeps nothing on disk: set data.cache_features to false")
        if self.val_speakers is not None and "val" in self.entries:
            raise UserError("give either data.val or data.val_speakers, not both")
        if any(not entries for entries in self.entries.values()):
            raise UserError("data.train, val and test must not be empty lists")
        self.augmentation.check()
        if self.audio == "all" and self.augmentation.changes_mel:
            raise UserError(
                "data.audio is all: waveforms must fit their spectrograms, which data.augmentation changes (tempo, "
                "vocal tract, equalizer or masks): turn these off"
            )
        if self.cache_features and self.augmentation.changes_waveform:
            raise UserError(
                "data.cache_features keeps spectrograms, and data.augmentation changes waveforms (speed, gain, noise "
                "or rooms): turn one of them off"
            )
