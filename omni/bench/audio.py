"""The audio encoder against torchaudio's Conformer with a CTC head."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import torch
import torchaudio
from torch import Tensor, nn
from tqdm import tqdm

from omni.batch import SpeechBatch
from omni.bench import race
from omni.bench.race import Comparison, Race, Report
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.data import SpeechData
from omni.decoding.ctc import ctc_nll, greedy
from omni.errors import UserError
from omni.models.audio_encoder import INTERMEDIATE_CTC_WEIGHT, AudioEncoder, AudioFeatures, Emissions
from omni.optim.optimizers import adamw, muon

NAMES = ("omni", "conformer")
_CHARACTERS_PER_SECOND = 15  # of random targets
_WARMUP_STEPS = 40  # of learning
_EVAL_INTERVAL = 20  # steps between two measurements of the word error rate
_EVAL_ROWS = 64  # held-out rows that are transcribed


class ConformerCTC(nn.Module):
    """`torchaudio.models.Conformer` (arXiv:2005.08100) on pairs of stacked mel frames, followed by a CTC head.

    Args:
        num_mels: Mel filters.
        vocab_size: Number of CTC units, blank included.
        dim: Width.
        ffn_dim: Width inside its feed-forward networks.
        num_layers: Blocks.
    """

    def __init__(self, *, num_mels: int, vocab_size: int, dim: int, ffn_dim: int, num_layers: int) -> None:
        super().__init__()
        self.input = nn.Linear(2 * num_mels, dim)
        self.conformer = torchaudio.models.Conformer(dim, 4, ffn_dim, num_layers, 31)
        self.head = nn.Linear(dim, vocab_size)

    def forward(self, mels: Tensor, lengths: Tensor) -> Emissions:
        """Maps (batch, mel frames, num_mels) and lengths to emissions at half their rate."""
        if mels.shape[1] % 2:
            mels = nn.functional.pad(mels, (0, 0, 0, 1))
        lengths = (lengths + 1) // 2
        hidden, lengths = self.conformer(self.input(mels.unflatten(1, (-1, 2)).flatten(2)), lengths)
        return Emissions(self.head(hidden).float().log_softmax(-1), lengths)

    def nll(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """See `omni.decoding.ctc.ctc_nll`."""
        emissions: Emissions = self(batch.mels, batch.mel_lengths)
        return ctc_nll(*emissions, batch.targets, batch.target_lengths)


class EncoderCTC(nn.Module):
    """The audio encoder and its head.

    Args:
        audio_encoder: The model.
    """

    def __init__(self, audio_encoder: AudioEncoder) -> None:
        super().__init__()
        self.audio_encoder = audio_encoder

    def forward(self, mels: Tensor, lengths: Tensor) -> Emissions:
        """Maps (batch, mel frames, num_mels) and lengths to emissions."""
        return self.audio_encoder.emit(self.audio_encoder(mels, lengths))

    def nll(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """See `omni.decoding.ctc.ctc_nll`; with the intermediate CTC loss, as stage B trains it."""
        features: AudioFeatures = self.audio_encoder(batch.mels, batch.mel_lengths)
        nll, feasible = ctc_nll(*self.audio_encoder.emit(features), batch.targets, batch.target_lengths)
        if features.intermediate is not None:
            first, _ = ctc_nll(*features.intermediate, batch.targets, batch.target_lengths)
            nll = nll.lerp(first, INTERMEDIATE_CTC_WEIGHT)
        return nll, feasible


@dataclass(frozen=True, kw_only=True)
class AudioRace(Race):
    """The audio encoder against torchaudio's Conformer with a CTC head.

    Attributes:
        size: tiny, laptop, ... or a YAML file with the arguments of an audio encoder.
        steps: Training steps in a round.
        rows: Utterances in a training batch.
        utterance: Their length in seconds.
        world: Folder with train.jsonl and val.jsonl of `omni data world`; null skips learning.
        max_steps: Most steps of learning.
        learning_rates: Both models try each of these.
        batch_seconds: Seconds of audio in a batch of learning.
    """

    positive = ("repeats", "steps", "rows", "max_steps")

    size: str = "laptop"
    steps: int = 2
    rows: int = 16
    utterance: float = 3.0
    world: Path | None = Path("data/world/speech")
    max_steps: int = 300
    learning_rates: tuple[float, ...] = (2e-3, 4e-3)
    batch_seconds: float = 40.0

    def run(self) -> Report:
        """Runs the race.

        Raises:
            UserError: If there is no such size or no such world.
        """
        if self.world is not None and not (self.world / "train.jsonl").is_file():
            raise UserError(f"{self.world}/train.jsonl does not exist: run `omni data world`, or give --world null")
        options: dict[str, Any] = race.read_size(self.size, "audio_encoder") | {"dropout": 0.0}
        results = [*self._speed(options)]
        if self.world is not None:
            results += self._learning(options, self.world)
        step = f"{self.rows} × {self.utterance:g} s a step"
        return Report(
            self.conditions(
                "torchaudio",
                parameters=race.parameter_counts({name: build_model(name, options) for name in NAMES}),
                training=f"32-true, {step}; forward, CTC, backward, clip, fused AdamW, zero",
                transcription="forward and greedy decoding of log-mels",
                learning="Muon and AdamW for both, the same batches; the better learning rate of each",
            ),
            results,
        )

    def _speed(self, options: dict[str, Any]) -> Iterator[Comparison]:
        """Training and transcription."""
        frames = round(self.utterance * 100)
        models = {name: build_model(name, options) for name in NAMES}
        mels, lengths = torch.randn(self.rows, frames, options["num_mels"]), torch.full((self.rows,), frames)
        targets = torch.randint(1, options["vocab_size"], (self.rows, round(self.utterance * _CHARACTERS_PER_SECOND)))
        target_lengths = torch.full((self.rows,), targets.shape[1])
        batch = SpeechBatch(mels, lengths, targets, target_lengths, torch.arange(self.rows), 0.0)
        train = {name: self._training(model, batch) for name, model in models.items()}
        yield self.compare("training", "audio s/s", train, work=self.steps * self.rows * self.utterance)
        for size in (1, 8):
            inputs = (mels[:1].repeat(size, 1, 1), lengths[:1].repeat(size))
            transcribe = {name: _transcription(model.eval(), inputs) for name, model in models.items()}
            measure, work = f"transcription, batch {size}", size * self.utterance
            yield self.compare(measure, "× real time", transcribe, work=work)

    def _training(self, model: "EncoderCTC | ConformerCTC", batch: SpeechBatch) -> Callable[[], Any]:
        optimizer = adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
        step = race.training_step(model, lambda: ctc_loss(model, batch), optimizer)
        return lambda: [step() for _ in range(self.steps)]

    def _learning(self, options: dict[str, Any], world: Path) -> Iterator[Comparison]:
        """Steps and seconds until half of the words are right, at the better learning rate of each model."""
        data = SpeechData(
            str(world / "train.jsonl"),
            str(world / "val.jsonl"),
            num_mels=options["num_mels"],
            batch_seconds=self.batch_seconds,
            max_duration=12,
            cache_features=True,
            augmentation=SpeechAugmentation(silence=0),
        )
        data.setup()
        data.keep_feasible(AudioEncoder(**options).num_subframes)
        best: dict[str, tuple[float, float] | None] = {}
        for name in NAMES:
            runs = [_learn(name, options, data, lr, self.max_steps) for lr in self.learning_rates]
            best[name] = min(filter(None, runs), default=None)
        for i, unit in enumerate(("steps", "s")):
            values = {name: None if run is None else run[i] for name, run in best.items()}
            omni, conformer = values.values()
            ratios = [conformer / omni] if omni and conformer else []
            yield Comparison("until half of the words are right", unit, values, {"conformer": ratios})


def build_model(name: str, options: dict[str, Any]) -> EncoderCTC | ConformerCTC:
    """The audio encoder, or a Conformer with the same number of parameters (within 2 %).

    Args:
        name: `omni` or `conformer`.
        options: Arguments of `AudioEncoder`.

    Raises:
        UserError: If there is no Conformer of that size.
    """
    encoder = AudioEncoder(**options)
    if name == "omni":
        return EncoderCTC(encoder)
    if encoder.downsampling != 2 * encoder.subframes:
        raise UserError("the Conformer emits 50 sub-frames a second: downsampling must be twice the subframes")
    wanted, layers = encoder.num_parameters, len(encoder.transformer.blocks)
    sizes = {"num_mels": encoder.num_mels, "vocab_size": encoder.vocab_size, "num_layers": layers}

    def count(dim: int) -> int:
        with torch.device("meta"):
            return race.count_parameters(ConformerCTC(dim=dim, ffn_dim=4 * dim, **sizes))

    dim = min(range(16, 4 * encoder.dim, 16), key=lambda dim: abs(count(dim) - wanted))
    each = 4 * layers * dim + 2 * layers  # parameters of one unit of ffn_dim: two networks a block, in and out
    ffn_dim = 4 * dim + round((wanted - count(dim)) / each)
    conformer = ConformerCTC(dim=dim, ffn_dim=ffn_dim, **sizes)
    if abs(race.count_parameters(conformer) - wanted) > 0.02 * wanted:
        raise UserError(f"no Conformer has {wanted:,} parameters; the nearest has {race.count_parameters(conformer):,}")
    return conformer


def ctc_loss(model: EncoderCTC | ConformerCTC, batch: SpeechBatch) -> Tensor:
    """The mean negative log likelihood of a target unit."""
    nll, feasible = model.nll(batch)
    return nll.sum() / (batch.target_lengths * feasible).sum().clamp(min=1)


def _transcription(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Callable[[], Any]:
    return torch.inference_mode()(lambda: greedy(*model(*inputs)))


def _learn(
    name: str, options: dict[str, Any], data: SpeechData, lr: float, max_steps: int
) -> tuple[float, float] | None:
    """Steps and seconds of training until the WER of held-out rows is 50 %; None if `max_steps` are not enough."""
    torch.manual_seed(0)
    model = build_model(name, options)
    optimizer = muon(model, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    spent, batches = 0.0, iter(())
    progress = tqdm(range(1, max_steps + 1), f"learning, {name}, lr {lr:g}")
    for step in progress:
        batch = next(batches, None)
        if batch is None:
            batches = iter(data.train_dataloader())
            batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / _WARMUP_STEPS)
        spent += race.seconds(race.training_step(model, lambda batch=batch: ctc_loss(model, batch), optimizer))
        if step % _EVAL_INTERVAL == 0:
            wer = _wer(model, data)
            progress.set_postfix(WER=f"{wer:.1%}")
            if wer <= 0.5:
                return float(step), spent
    return None


def _wer(model: nn.Module, data: SpeechData) -> float:
    """Word error rate of the first held-out rows."""
    rows: Any = data.val_dataloader().dataset
    decode = data.tokenizer.decode
    model.eval()
    references, hypotheses = [], []
    with torch.inference_mode():
        for first in range(0, min(_EVAL_ROWS, len(rows)), 16):
            batch: SpeechBatch = rows.__getitems__([*range(first, min(first + 16, len(rows)))])
            hypotheses += [decode(row) for row in greedy(*model(batch.mels, batch.mel_lengths))]
            pairs = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
            references += [decode(row[:length]) for row, length in pairs]
    model.train()
    return jiwer.wer(references, hypotheses)
