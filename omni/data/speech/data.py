"""Speech for recognition."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.loading.skipped import SkippedRow, report_skipped
from omni.data.loading.weights import check_weights, weighted
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.dataset import FeatureExtractor, SpeechDataset, row_groups
from omni.data.speech.features import FeatureFile
from omni.data.speech.manifests import Utterances, sha256_of
from omni.data.speech.pieces import find_pieces
from omni.data.speech.rows import SpeechRow, rows_fingerprint, sample_rates, split_by_speaker
from omni.data.speech.stream import SpeechStream
from omni.data.speech.utterance_data import UtteranceData, UtterancePlan
from omni.decoding.ctc import least_subframes
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.media.mel_scale import mel_constants
from omni.text.ctc_vocabulary import ENGLISH, RARE, CTCVocabulary, characters_of, open_ctc_vocabulary
from omni.text.normalization import TextNormalization

AUTO, PIECES = "auto", "pieces"


@final
class SpeechData(UtteranceData[FeatureFile]):
    """Utterances in batches of similar length, as log-mel spectrograms; see `omni.batch.SpeechBatch`.

    Rows that cannot be used (audio missing, too short or long, text outside the units or too long for CTC) are left
    out, counted and reported by reason.

    Args:
        train: Manifests (.jsonl, .csv, .tsv; NeMo's and Common Voice's too), folders (LibriSpeech, LJSpeech, Common
            Voice, Kaldi, ESPnet), tar files as of WebDataset, or hub:OWNER/NAME[:CONFIG[:SPLIT]]; with weights,
            `{FILE: 0.5}`, the share of its rows that an epoch reads, different ones each time; 2 reads each row twice.
        val: The same, for validation; without weights. By default speakers of `train` are held out.
        test: The same, for `omni test` and `omni predict`.
        val_speakers: Speakers to hold out where `val` is not given; by default chosen by a hash of their names.
        val_fraction: Smallest share of the rows to hold out, where neither is given.
        units: Output vocabulary: `characters`, `pieces` (of words, learned from the transcripts of `train` at first
            use), a SentencePiece .model file, or a recogniser's .ckpt file.
        vocab_size: Of `pieces`: number of units, blank included.
        characters: Of `characters`; `auto`: those of the transcripts of `train`, without any that are fewer than 1 in
            100,000, and with the whole Latin alphabet if they use it.
        normalization: Of the transcripts, in training and scoring.
        min_confidence: Training rows with a lower `confidence`, as `omni transcribe --min_confidence` writes it, are
            left out; 0–1.
        num_mels: Mel filters of the encoder.
        crop: Seconds of the random part of each utterance that training reads, without its text; 0: all of it.
        audio: Which batches hold waveforms beside spectrograms: `none`, `validation` or `all`. In training, the
            augmentation must then not change spectrograms.
        augmentation: Of the training utterances.
        cache_features: Whether spectrograms are kept on disk: 184 MB for an hour of audio at 128 filters. The
            augmentation must then not change waveforms.
        shuffle_buffer: Utterances that are shuffled and sorted into batches together when streaming.
        kwargs: See `UtteranceData`.

    Attributes:
        tokenizer: The output vocabulary; after `setup`.

    Raises:
        UserError: If an argument is out of range.
    """

    no_effect = frozenset({"cache_features"})

    def __init__(
        self,
        train: str | list[str] | dict[str, float],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        val_speakers: list[str] | None = None,
        val_fraction: float = 0.1,
        units: str = "characters",
        vocab_size: int = 128,
        characters: str = ENGLISH,
        normalization: TextNormalization = TextNormalization(),  # noqa: B008  immutable
        min_confidence: float = 0.0,
        num_mels: int = 128,
        crop: float = 0.0,
        audio: Literal["none", "validation", "all"] = "none",
        augmentation: SpeechAugmentation = SpeechAugmentation(),  # noqa: B008  immutable
        cache_features: bool = False,
        shuffle_buffer: int = 512,
        **kwargs: Any,
    ):
        super().__init__({"train": train, "val": val, "test": test}, **kwargs)
        self.val_speakers, self.val_fraction = val_speakers, val_fraction
        self.units_spec, self.characters, self.normalization = units, characters, normalization
        self.vocab_size, self.min_confidence = vocab_size, min_confidence
        self.weights = weighted(train)
        self.two_views, self.sample_rate = False, SAMPLE_RATE
        self._source_weights: dict[Utterances, float] = {}
        self.num_mels = num_mels
        self.crop, self.audio = crop, audio
        self.augmentation, self.cache_features = augmentation, cache_features
        self.shuffle_buffer = shuffle_buffer
        self._subframes: Callable[[int], int] | None = None
        self._check_arguments()

    def find_fingerprint(self) -> str:
        fingerprints = self.plan().fingerprints
        train = " ".join(self.entries["train"]) if self.streaming else fingerprints["train"]
        options = [self.tokenizer.fingerprint, self.batch_seconds, self.max_batch_rows, self.augmentation]
        options += [later] if (later := self.augmentation.later_options) else []
        options += [self.crop] if self.crop else []
        options += ["two views"] if self.two_views else []
        options += [f"{self.sample_rate} Hz"] if self.sample_rate != SAMPLE_RATE else []
        weights = [weight for weight in self.weights.values() if weight != 1]
        options += [list(self.weights.values())] if weights else []
        return sha256_of([train, fingerprints["val"], *map(str, options)])

    def prepare_data(self) -> None:
        plan = self.plan(may_write=True)
        for split, file in plan.files.items():
            if not file.complete:
                rows = plan.rows[split]
                file.write(lambda row, rows=rows: rows[row].read(), label=split)

    def open_splits(self, plan: UtterancePlan[FeatureFile]) -> None:
        for split, rows in plan.rows.items():
            self.datasets[split] = self._open(split, rows, plan.files.get(split))
            hours = sum(row.duration for row in rows) / 3600
            speakers = {row.utterance.speaker for row in rows} - {None}
            counted = f", {len(speakers)} speakers" if speakers else ""
            rank_zero_info(f"{split}: {len(rows):,} utterances, {hours:.2f} hours{counted}")

    def mask_twice(self) -> None:
        """Gives each training batch `other_mels`; called by a stage. `batch_seconds` then counts each utterance twice.

        Raises:
            UserError: If the augmentation masks nothing, there is a crop, or a batch holds less than two utterances.
        """
        if not self.augmentation.masks:
            raise UserError(
                "model.consistency compares two maskings of an utterance: set data.init_args.augmentation.time_masks"
            )
        if self.crop:
            raise UserError("data.init_args.crop cuts speech without its text: set it to 0")
        if self.batch_seconds < 2 * self.max_duration:
            raise UserError(
                f"data.batch_seconds ({self.batch_seconds}) must hold an utterance of data.max_duration "
                f"({self.max_duration} s) twice with model.consistency: raise the one or lower the other"
            )
        self.two_views, self._fingerprint = True, None
        if "train" in self.datasets:
            self.datasets["train"].extract.two_views = True

    def read_at(self, sample_rate: int) -> None:
        """Reads waveforms at another rate than 16 kHz, for a vocoder; called by a stage in `setup`.

        Files of 16 kHz or less are left out, as they have nothing to add. Others below `sample_rate` are counted.

        Args:
            sample_rate: In Hz. Spectrograms stay those of 16 kHz.

        Raises:
            UserError: If no row of a split is left, or the data is streamed.
        """
        if sample_rate == SAMPLE_RATE:
            return
        if self.streaming:
            raise UserError(
                f"data.streaming reads audio at {SAMPLE_RATE:,} Hz and the vocoder outputs {sample_rate:,} Hz: set "
                "data.streaming to false"
            )
        self.sample_rate, self._fingerprint = sample_rate, None
        for split, data in self.datasets.items():
            rates = sample_rates(data.rows, self.cache_dir, may_write=True)
            low = [number for number, rate in enumerate(rates) if not isinstance(rate, str) and rate <= SAMPLE_RATE]
            reason = f"sampled at {SAMPLE_RATE:,} Hz or less, and the vocoder outputs {sample_rate:,} Hz"
            skipped = [SkippedRow(data.rows[number].utterance.where, reason) for number in low]
            report_skipped(split, skipped, len(data.rows) - len(low))
            between = [rate for rate in rates if not isinstance(rate, str) and SAMPLE_RATE < rate < sample_rate]
            if between:
                rank_zero_warn(
                    f"{split}: {len(between)} of {len(rates)} rows are sampled at less than {sample_rate:,} Hz (the "
                    f"lowest at {min(between):,} Hz): nothing above half of that is learned from them"
                )
            if low:
                data.keep(sorted({*range(len(rates))} - {*low}))
            data.extract.sample_rate = sample_rate
        if "train" in self.datasets:
            self.report_batches()

    def keep_feasible(self, subframes: Callable[[int], int]) -> None:
        """Leaves out the rows with text too long for CTC; called by a stage in `setup`.

        Args:
            subframes: Output frames of the model for a number of mel frames.

        Raises:
            UserError: If no row is left.
        """
        self._subframes = subframes
        for split, data in self.datasets.items():
            keep, skipped = [], []
            for number, row in enumerate(data.rows):
                frames = -(-round(row.duration * SAMPLE_RATE) // HOP_LENGTH)
                if least_subframes(row.units) <= subframes(frames):
                    keep.append(number)
                else:
                    skipped.append(
                        SkippedRow(row.utterance.where, "the text is too long for its audio (CTC-infeasible)")
                    )
            report_skipped(split, skipped, len(keep))
            if skipped:
                data.keep(keep)
        if "train" in self.datasets:
            self.report_batches()

    def stream(self) -> SpeechStream:
        stream = SpeechStream(
            self.sources("train"),
            self.tokenizer,
            extract=self._extractor("train"),
            min_duration=self.min_duration,
            max_duration=self.max_duration,
            errors=self.stream_errors(),
            min_confidence=self.min_confidence,
            **self.batch_limits,
            **self.stream_options,
        )
        stream.subframes = self._subframes
        return stream

    def sizes(self, split: str) -> np.ndarray:
        return self.item_sizes(self.dataset(split).rows, split)

    def item_sizes(self, rows: Sequence[SpeechRow], split: str) -> np.ndarray:
        if split != "train":
            return np.array([row.duration for row in rows])
        groups = row_groups(rows, self._source_weights)
        sizes = np.array([max(rows[number].duration for number in group) for group in groups])
        return np.minimum(sizes, self.crop) if self.crop else sizes * (1 + self.two_views)

    def sources(self, split: str) -> list[Utterances]:
        found = super().sources(split)
        if split == "train" and any(weight != 1 for weight in self.weights.values()):
            self._source_weights |= zip(found, self.weights.values(), strict=True)
        return found

    def _extractor(self, split: str) -> FeatureExtractor:
        if split == "train":
            options: Any = {"audio": self.audio == "all", "two_views": self.two_views}
            return FeatureExtractor(self.num_mels, augmentation=self.augmentation, crop=self.crop, **options)
        return FeatureExtractor(self.num_mels, audio=self.audio != "none")

    def _open(self, split: str, rows: list[SpeechRow], features: FeatureFile | None) -> SpeechDataset:
        if features is not None and not features.complete:
            raise UserError(f"{features.data} does not exist: data.cache_dir must be a folder that all ranks see")
        errors, unreadable = self.row_errors(split), {} if features is None else features.unreadable
        skipped = [SkippedRow(rows[number].utterance.where, reason) for number, reason in unreadable.items()]
        for where, reason in skipped:
            errors.add(UserError(f"{where}: {reason}"))
        weights = self._source_weights if split == "train" else None
        options: Any = {"errors": errors, "stored": features, "weights": weights, "seed": self.seed}
        data = SpeechDataset(rows, self._extractor(split), **options)
        if skipped:
            report_skipped(split, skipped, len(rows) - len(skipped))
            data.keep([row for row in range(len(rows)) if row not in unreadable])
        return data

    def make_plan(self, *, may_write: bool) -> UtterancePlan[FeatureFile]:
        self.tokenizer = self._units(may_write=may_write)
        splits = [split for split in self.entries if split != "train" or not self.streaming]
        rows = {split: self.read_split(split, may_write=may_write) for split in splits}
        if "val" not in rows:
            rows["train"], rows["val"] = split_by_speaker(rows["train"], self.val_fraction, self.val_speakers)
        fingerprints, files = {split: rows_fingerprint(part) for split, part in rows.items()}, {}
        if self.cache_features:
            constants = [self.num_mels, *sorted(mel_constants().items())]
            for split, part in rows.items():
                key = sha256_of([fingerprints[split], str(constants)])
                files[split] = FeatureFile(self.cache_dir / key[:32], self.num_mels, len(part))
        return UtterancePlan(rows, fingerprints, files)

    def _units(self, *, may_write: bool) -> CTCVocabulary:
        if self.units_spec == PIECES:
            size, cache = self.vocab_size, self.cache_dir
            return find_pieces(self._transcripts(), self.normalization, size, cache_dir=cache, may_train=may_write)
        if self.units_spec.endswith(".ckpt") or Path(self.units_spec).is_dir():
            return Checkpoint(self.units_spec).ctc_vocabulary
        characters = self.characters
        if characters == AUTO:
            characters = characters_of(self._transcripts(), self.normalization, least_share=RARE)
        return open_ctc_vocabulary(self.units_spec, characters=characters, normalization=self.normalization)

    def _transcripts(self) -> Iterator[str]:
        """The texts of `train`."""
        rows = (row for source in self.sources("train") for row in source.rows_or_errors())
        return (row.text for row in rows if not isinstance(row, UserError))

    def _check_arguments(self) -> None:
        self.check_arguments(num_mels=1, vocab_size=2)
        if not 0 <= self.min_confidence <= 1:
            raise UserError(f"data.min_confidence is {self.min_confidence}: it must lie between 0 and 1")
        check_weights("train", self.weights)
        if self.streaming and any(weight != 1 for weight in self.weights.values()):
            raise UserError("data.streaming reads each row once: leave weights out, or prepare the data")
        if self.crop and not self.min_duration <= self.crop <= self.batch_seconds:
            raise UserError(
                f"data.crop is {self.crop} s: 0 for whole utterances, or between data.min_duration "
                f"({self.min_duration} s) and data.batch_seconds ({self.batch_seconds} s)"
            )
        if self.streaming and "val" not in self.entries:
            raise UserError("data.streaming cannot hold rows out of train: give data.val")
        if self.streaming and self.characters == AUTO:
            raise UserError("data.streaming does not read all of train first: give data.characters, not auto")
        if self.streaming and self.units_spec == PIECES:
            raise UserError("data.streaming does not read all of train first: give a .model file as data.units")
        if self.streaming and self.cache_features:
            raise UserError("data.streaming keeps nothing on disk: set data.cache_features to false")
        if self.val_speakers is not None and "val" in self.entries:
            raise UserError("give either data.val or data.val_speakers, not both")
        self.augmentation.check()
        if self.audio == "all" and self.augmentation.changes_mel:
            raise UserError(
                "data.audio is all: waveforms must fit their spectrograms, which data.augmentation changes (tempo, "
                "vocal tract, equalizer or masks): turn these off"
            )
        if self.cache_features and self.augmentation.changes_waveform:
            raise UserError(
                "data.cache_features keeps spectrograms, and data.augmentation changes waveforms (speed, rooms, "
                "noise, gain or telephone): turn one of them off"
            )
