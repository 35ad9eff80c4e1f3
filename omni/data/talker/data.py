"""Codes of speech for the Talker."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from omni.batch import HeldOut
from omni.data.loading.skipped import report_skipped
from omni.data.speech.manifests import sha256_of
from omni.data.speech.rows import SpeechRow, rows_fingerprint
from omni.data.speech.utterance_data import UtteranceData, UtterancePlan
from omni.data.talker.code_file import CodesFile
from omni.data.talker.encoding import CodesEncoder, EncodedSpeech
from omni.data.talker.rows import AlignmentFilter, CodesDataset, select_speakers, speaker_of, split_by_text
from omni.devices import resolve
from omni.errors import UserError
from omni.media.mel_scale import mel_constants


@final
class CodesData(UtteranceData[CodesFile]):
    """Texts and the codes of their recordings, in batches of similar length; see `omni.batch.CodesBatch`.

    Every recording is encoded once by the codec and aligned once with its text by the recogniser; both results are kept
    on disk until a model or the data changes. Rows with an implausible alignment are left out, counted and reported by
    reason.

    Args:
        train: Manifests (.jsonl, .csv), folders of LibriSpeech or LJSpeech, or hub:OWNER/NAME[:CONFIG[:SPLIT]]; of
            conversations (.jsonl) the answers with speech.
        val: The same, for validation. By default sentences of `train` are held out.
        test: The same, for `omni test`.
        codec: Checkpoint with the codec, such as lightning_logs/codec/best.ckpt.
        recognizer: Checkpoint with a recogniser of characters, such as lightning_logs/audio/best.ckpt.
        val_fraction: Smallest share of the rows to hold out, where `val` is not given.
        speakers: Names of the speakers to use; by default all.
        silence: Seconds of silence added before and after each recording.
        min_score: Smallest mean probability that the recogniser gives to a recording's characters, 0–1.
        min_speed: Smallest number of characters a second.
        max_speed: Largest number of characters a second.
        device: Where the corpus is encoded: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        kwargs: See `UtteranceData`.

    Attributes:
        tokenizer: The characters; after `setup`.
        speakers: Names of the speakers by number; after `setup`.
        encoder: Codec and recogniser.

    Raises:
        UserError: If an argument is out of range.
    """

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
        device: str = "auto",
        **kwargs: Any,
    ):
        super().__init__({"train": train, "val": val, "test": test}, streaming=False, **kwargs)
        self.codec_path, self.recognizer_path = codec, recognizer
        self.val_fraction, self.only_speakers = val_fraction, speakers
        self.silence, self.alignment_filter = silence, AlignmentFilter(min_score, min_speed, max_speed)
        self.device = device
        self._check_arguments()

    @cached_property
    def encoder(self) -> CodesEncoder:
        return CodesEncoder(self.codec_path, self.recognizer_path, silence=self.silence)

    def find_fingerprint(self) -> str:
        fingerprints = self.plan().fingerprints
        options = (self.alignment_filter, self.batch_seconds, self.max_batch_rows)
        return sha256_of([fingerprints["train"], fingerprints["val"], self.encoder.fingerprint, str(options)])

    def prepare_data(self) -> None:
        plan = self.plan(may_write=True)
        missing = {split: file for split, file in plan.files.items() if not file.complete}
        if not missing:
            return
        device = resolve(self.device, option="data.device")
        for part in (self.encoder.codec, self.encoder.audio_encoder):
            part.to(device)
        for split, file in missing.items():
            rows = plan.rows[split]
            file.write(lambda numbers, rows=rows: self._encode([rows[number] for number in numbers]), label=split)

    def open_splits(self, plan: UtterancePlan[CodesFile]) -> None:
        for split, rows in plan.rows.items():
            file = plan.files[split]
            if not file.complete:
                raise UserError(f"{file.data} does not exist: data.cache_dir must be a folder that all ranks see")
            data = CodesDataset(rows, file, self.alignment_filter, self.encoder.codec.frame_rate)
            self.datasets[split] = data
            for row in data.unreadable:
                self.row_errors(split).add(UserError(f"{row.utterance.where}: {row.utterance.audio} cannot be read"))
            report_skipped(split, data.skipped, len(data))
            rank_zero_info(f"{split}: {len(data):,} utterances, {data.durations.sum() / 3600:.2f} hours of codes")
        train = self.dataset("train")
        self.speakers = sorted({speaker_of(train.rows[number]) for number in train.numbers})
        for data in self.datasets.values():
            data.speakers = {name: number for number, name in enumerate(self.speakers)}

    def keep_known_speakers(self) -> None:
        """Leaves out the speakers that training does not have; called in `setup` by a stage with speaker embeddings.

        Raises:
            UserError: If no row of a split is left.
        """
        for split, data in self.datasets.items():
            report_skipped(split, data.keep_known_speakers(), len(data))

    def held_out(self, split: str, count: int) -> list[HeldOut]:
        """Some sentences of a split, short and long ones, with their recordings; the same ones in each call.

        Args:
            split: `val` or `test`.
            count: Largest number of sentences on all ranks.

        Returns:
            This rank's share of them.
        """
        data, sentences = self.dataset(split), []
        order = np.argsort(data.durations, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
        share = self.rank()
        for number in chosen[share["rank"] :: share["world_size"]].tolist():
            row = data.rows[data.numbers[number]]
            try:
                audio = row.read()
            except UserError as error:
                rank_zero_warn(f"left out of the held-out sentences: {error}")
                continue
            codes, _ = data.file.read(data.numbers[number])
            text, speaker = self.tokenizer.decode(row.units), data.speaker(number)
            sentences.append(HeldOut(text, torch.tensor(row.units), speaker, self.encoder.mel(audio), codes))
        return sentences

    def sizes(self, split: str) -> np.ndarray:
        return self.dataset(split).durations

    def _encode(self, rows: Sequence[SpeechRow]) -> list[EncodedSpeech]:
        return self.encoder.encode([_read(row) for row in rows], [row.units for row in rows])

    def make_plan(self, *, may_write: bool) -> UtterancePlan[CodesFile]:
        self.tokenizer = self.encoder.units
        rows = {split: self.read_split(split, may_write=may_write) for split in self.entries}
        if "val" not in rows:
            rows["train"], rows["val"] = split_by_text(rows["train"], self.val_fraction)
        fingerprints = {split: rows_fingerprint(part) for split, part in rows.items()}
        files, constants = {}, str(sorted(mel_constants().items()))
        for split, part in rows.items():
            durations = np.array([row.duration for row in part])  # a manifest's may change while its audio does not
            key = sha256_of([fingerprints[split], self.encoder.fingerprint, constants, str(durations.tolist())])
            files[split] = CodesFile(self.cache_dir / key[:32], durations, self.encoder.codec.num_codebooks)
        return UtterancePlan(rows, fingerprints, files)

    def selected(self, rows: list[SpeechRow], split: str) -> list[SpeechRow]:
        return rows if self.only_speakers is None else select_speakers(rows, self.only_speakers, split)

    def _check_arguments(self) -> None:
        self.check_arguments(silence=0)
        score, slowest, fastest = self.alignment_filter
        if not 0 <= score < 1:
            raise UserError(f"data.min_score is {score}: it must be 0 or more and less than 1")
        if not 0 <= slowest < fastest:
            raise UserError(f"data.min_speed ({slowest}) must be less than data.max_speed ({fastest})")
        if self.only_speakers == []:
            raise UserError("data.speakers is an empty list: name some, or leave it out for all")


def _read(row: SpeechRow) -> Tensor | None:
    try:
        return row.read()
    except UserError as error:
        rank_zero_warn(f"left out: {error}")
        return None
