"""Speech for recognition."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.loading.skipped import SkippedRow, report_skipped
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.dataset import FeatureExtractor, SpeechDataset
from omni.data.speech.features import FeatureFile
from omni.data.speech.manifests import sha256_of
from omni.data.speech.rows import SpeechRow, rows_fingerprint, split_by_speaker
from omni.data.speech.stream import SpeechStream
from omni.data.speech.utterance_data import UtteranceData, UtterancePlan
from omni.decoding.ctc import least_subframes
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.media.mel_scale import mel_constants
from omni.text.ctc_vocabulary import ENGLISH, RARE, CTCVocabulary, characters_of, open_ctc_vocabulary
from omni.text.normalization import TextNormalization

AUTO = "auto"


@final
class SpeechData(UtteranceData[FeatureFile]):
    """Utterances in batches of similar length, as log-mel spectrograms; see `omni.batch.SpeechBatch`.

    Rows that cannot be used (audio missing, too short or long, text outside the units or too long for CTC) are left
    out, counted and reported by reason.

    Args:
        train: Manifests (.jsonl, .csv, .tsv; NeMo's and Common Voice's too), folders (LibriSpeech, LJSpeech, Common
            Voice, Kaldi, ESPnet), tar files as of WebDataset, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        val: The same, for validation. By default speakers of `train` are held out.
        test: The same, for `omni test` and `omni predict`.
        val_speakers: Speakers to hold out where `val` is not given; by default chosen by a hash of their names.
        val_fraction: Smallest share of the rows to hold out, where neither is given.
        units: Output vocabulary: `characters`, a SentencePiece .model file, or a recogniser's .ckpt file.
        characters: Of `characters`; `auto`: those of the transcripts of `train`, without any that are fewer than 1 in
            100,000, and with the whole Latin alphabet if they use it.
        normalization: Of the transcripts, in training and scoring.
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
        options += [self.crop] if self.crop else []
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
            **self.batch_limits,
            **self.stream_options,
        )
        stream.subframes = self._subframes
        return stream

    def sizes(self, split: str) -> np.ndarray:
        return self.batch_sizes(np.array([row.duration for row in self.dataset(split).rows]), split)

    def batch_sizes(self, durations: np.ndarray, split: str) -> np.ndarray:
        return np.minimum(durations, self.crop) if self.crop and split == "train" else durations

    def _extractor(self, split: str) -> FeatureExtractor:
        if split == "train":
            audio = self.audio == "all"
            return FeatureExtractor(self.num_mels, augmentation=self.augmentation, crop=self.crop, audio=audio)
        return FeatureExtractor(self.num_mels, audio=self.audio != "none")

    def _open(self, split: str, rows: list[SpeechRow], features: FeatureFile | None) -> SpeechDataset:
        if features is not None and not features.complete:
            raise UserError(f"{features.data} does not exist: data.cache_dir must be a folder that all ranks see")
        errors, unreadable = self.row_errors(split), {} if features is None else features.unreadable
        skipped = [SkippedRow(rows[number].utterance.where, reason) for number, reason in unreadable.items()]
        for where, reason in skipped:
            errors.add(UserError(f"{where}: {reason}"))
        data = SpeechDataset(rows, self._extractor(split), errors=errors, stored=features, seed=self.seed)
        if skipped:
            report_skipped(split, skipped, len(rows) - len(skipped))
            data.keep([row for row in range(len(rows)) if row not in unreadable])
        return data

    def make_plan(self, *, may_write: bool) -> UtterancePlan[FeatureFile]:
        self.tokenizer = self._units()
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

    def _units(self) -> CTCVocabulary:
        if self.units_spec.endswith(".ckpt") or Path(self.units_spec).is_dir():
            return Checkpoint(self.units_spec).ctc_vocabulary
        characters = self._found_characters() if self.characters == AUTO else self.characters
        return open_ctc_vocabulary(self.units_spec, characters=characters, normalization=self.normalization)

    def _found_characters(self) -> str:
        rows = (row for source in self.sources("train") for row in source.rows_or_errors())
        texts = (row.text for row in rows if not isinstance(row, UserError))
        return characters_of(texts, self.normalization, least_share=RARE)

    def _check_arguments(self) -> None:
        self.check_arguments(num_mels=1)
        if self.crop and not self.min_duration <= self.crop <= self.batch_seconds:
            raise UserError(
                f"data.crop is {self.crop} s: 0 for whole utterances, or between data.min_duration "
                f"({self.min_duration} s) and data.batch_seconds ({self.batch_seconds} s)"
            )
        if self.streaming and "val" not in self.entries:
            raise UserError("data.streaming cannot hold rows out of train: give data.val")
        if self.streaming and self.characters == AUTO:
            raise UserError("data.streaming does not read all of train first: give data.characters, not auto")
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
                "data.cache_features keeps spectrograms, and data.augmentation changes waveforms (speed, gain or "
                "noise): turn one of them off"
            )
