"""Speech that is read while it is trained on, for corpora too large to be prepared."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from omni.batch import SpeechBatch
from omni.data.loading.bucketing import BucketedBatches
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.features import in_silence
from omni.data.speech.manifests import Utterances
from omni.data.speech.rows import Heard, cropped, encoded, make_batch
from omni.decoding.ctc import least_subframes
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, LogMel, read_audio
from omni.text.ctc_vocabulary import CTCVocabulary


class _Read(NamedTuple):
    audio: Tensor
    units: list[int]
    number: int  # in its share


@final
class SpeechStream(IterableDataset[SpeechBatch]):
    """One pass over utterances in batches of similar length; every rank and worker reads its own share of the rows.

    So many rows at a time are held, sorted into batches and shuffled. Rows that cannot be used are left out and
    counted. Nothing but the arguments and `epoch` decides what comes.

    Args:
        sources: Where the utterances are from.
        units: What their text is written in.
        num_mels: Mel filters.
        augmentation: What happens to the utterances.
        batch_seconds: Most seconds of a batch, padding counted.
        max_rows: Most rows of a batch.
        min_duration: Shorter utterances are left out, in seconds.
        max_duration: Longer ones are left out.
        crop: Seconds of a random stretch that is left of each; 0: all of it.
        audio: Whether batches hold waveforms too.
        buffer: Rows held at a time.
        seed: Of shuffling and augmentation.
        rank: Of this process.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        sources: Sequence[Utterances],
        units: CTCVocabulary,
        *,
        num_mels: int,
        augmentation: SpeechAugmentation,
        batch_seconds: float,
        max_rows: int,
        min_duration: float,
        max_duration: float,
        crop: float = 0.0,
        audio: bool = False,
        buffer: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources, self.units, self.augmentation = sources, units, augmentation
        self.log_mel = LogMel(num_mels)
        self.limits = {"capacity": batch_seconds, "max_rows": max_rows}
        self.min_duration, self.max_duration = min_duration, max_duration
        self.crop, self.audio = crop, audio
        self.buffer, self.seed = buffer, seed
        self.rank, self.world_size = rank, world_size
        self.subframes: Callable[[int], int] | None = None  # of so many mel frames; set by the stage's set-up
        self.epoch = 0

    def __iter__(self) -> Iterator[SpeechBatch]:
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        share, shares = self.rank * workers + (worker.id if worker else 0), self.world_size * workers
        left_out: dict[str, int] = {}
        held: list[_Read] = []
        for block, heard in enumerate(self._blocks(share, shares, held, left_out)):
            durations = np.array([len(row.audio) / SAMPLE_RATE for row in heard])
            durations = np.minimum(durations, self.crop) if self.crop else durations
            batches = BucketedBatches(durations, seed=self.seed + self.epoch, **self.limits)
            for batch in batches.epoch(block):
                yield self._batch([heard[i] for i in batch - block * len(heard)], share, shares)
        if left_out:
            counts = ", ".join(f"{number} {why}" for why, number in left_out.items())
            rank_zero_warn(f"train: rows left out of pass {self.epoch}: {counts}")

    def _blocks(self, share: int, shares: int, held: list[_Read], left_out: dict[str, int]) -> Iterator[list[_Read]]:
        """`buffer` usable rows at a time."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sources))
        seed = int(np.uint32(self.seed + self.epoch))
        rows = chain.from_iterable(
            self.sources[number].stream((share + turn) % shares, shares, seed) for turn, number in enumerate(order)
        )
        for number, (utterance, source) in enumerate(rows):
            units, why = encoded(utterance.text, self.units)
            try:
                audio = read_audio(source, duration=self.max_duration + 1) if why is None else None
            except UserError as error:
                audio, why = None, str(error)
            if audio is not None:
                why = self._unusable(audio, units)
            if why is not None or audio is None:
                left_out[str(why)] = left_out.get(str(why), 0) + 1
                continue
            held.append(_Read(audio, units, number))
            if len(held) >= self.buffer:
                yield held
                held = []
        if held:
            yield held

    def _unusable(self, audio: Tensor, units: list[int]) -> str | None:
        seconds = len(audio) / SAMPLE_RATE
        if seconds < self.min_duration:
            return f"shorter than data.min_duration, {self.min_duration} s"
        if seconds > self.max_duration:
            return f"longer than data.max_duration, {self.max_duration} s"
        if self.subframes is not None and least_subframes(units) > self.subframes(LogMel.num_frames(len(audio))):
            return "with text too long for their audio (CTC-infeasible)"
        return None

    def _batch(self, read: Sequence[_Read], share: int, shares: int) -> SpeechBatch:
        heard = []
        for row in read:
            rng = np.random.default_rng([self.seed, self.epoch, share + row.number * shares])
            lead, tail = self.augmentation.silences(rng)
            audio = in_silence(self.augmentation.of_waveform(row.audio, rng), lead, tail)
            mel = self.augmentation.of_mel(self.log_mel(audio), rng)
            heard.append(cropped(Heard(mel, audio if self.audio else None), self.crop, rng))
        return make_batch(heard, [row.units for row in read], [share + row.number * shares for row in read])
