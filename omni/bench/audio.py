"""The race of the audio encoder against torchaudio's Conformer with a CTC head."""

import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any

import jiwer
import torch
import torchaudio
import yaml
from torch import Tensor, nn

from omni.batch import SpeechBatch
from omni.bench.conditions import cpu, versions
from omni.bench.timing import alternate, seconds
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.data import SpeechData
from omni.decoding.ctc import ctc_nll, greedy
from omni.errors import UserError
from omni.models.audio_encoder import INTERMEDIATE_CTC_WEIGHT, AudioEncoder, AudioFeatures, Emissions
from omni.optim.optimizers import adamw, muon
from omni.training.shipped import CONFIGS

NAMES = ("omni", "conformer")  # in the order of their turns
_UNITS_A_SECOND = 15  # of random targets
_CHECK = 20  # steps between two looks at the word error rate
_ROWS = 64  # held-out rows that are looked at


class ConformerCTC(nn.Module):
    """`torchaudio.models.Conformer` (arXiv:2005.08100) with two mel frames stacked in front and a CTC head behind.

    Args:
        num_mels: Mel filters.
        vocab_size: CTCVocabulary, blank included.
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
        """As of `omni.decoding.ctc.ctc_nll`."""
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
        """As of `omni.decoding.ctc.ctc_nll`; of what it writes in its middle, too, as stage B trains it."""
        features: AudioFeatures = self.audio_encoder(batch.mels, batch.mel_lengths)
        nll, feasible = ctc_nll(*self.audio_encoder.emit(features), batch.targets, batch.target_lengths)
        if features.intermediate is not None:
            first, _ = ctc_nll(*features.intermediate, batch.targets, batch.target_lengths)
            nll = nll.lerp(first, INTERMEDIATE_CTC_WEIGHT)
        return nll, feasible


@dataclass(frozen=True)
class Result:
    """One comparison.

    Attributes:
        measure: What was measured, higher is better for `× real time` and `s/s`, lower for steps.
        omni: Of omni, a median.
        conformer: Of the Conformer, a median; None where it never got there.
        ratios: How many times better omni was, in each pair of turns.
    """

    measure: str
    omni: float | None
    conformer: float | None
    ratios: list[float]


def race(
    *,
    size: str = "laptop",
    repeats: int = 5,
    steps: int = 2,
    rows: int = 16,
    utterance: float = 3.0,
    world: Path | None = Path("data/world/speech"),
    max_steps: int = 300,
    learning_rates: tuple[float, ...] = (2e-3, 4e-3),
    batch_seconds: float = 40.0,
    threads: int | None = None,
    json: str | None = None,
) -> list[Result]:
    """Race the audio encoder against torchaudio's Conformer with a CTC head, and print a table.

    Both have equal parameters (within 2 %) and write as many sub-frames a second. Both train with the same optimizer on
    the same batches. They take turns, and a ratio is the median over pairs of neighbouring turns. Then each learns the
    world's speech until half of the words of held-out rows are right, at the better of the learning rates.

    Args:
        size: tiny, laptop, ... or a YAML file of an audio encoder's arguments.
        repeats: Pairs of turns.
        steps: Training steps of a turn.
        rows: Utterances of a training batch.
        utterance: Their length in seconds.
        world: Folder with train.jsonl and val.jsonl of `omni data world`; null leaves learning out.
        max_steps: Most steps of learning.
        learning_rates: Tried by each.
        batch_seconds: Of a batch of learning.
        threads: Threads on a CPU; PyTorch's own choice if not given.
        json: A file to write all numbers to.
    """
    for name, value in {"repeats": repeats, "steps": steps, "rows": rows, "max_steps": max_steps}.items():
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    if world is not None and not (world / "train.jsonl").is_file():
        raise UserError(f"{world}/train.jsonl is not there: run `omni data world`, or give --world null")
    if threads is not None:
        torch.set_num_threads(threads)
    path = CONFIGS / "models" / size / "audio_encoder.yaml"
    path = path if path.is_file() else Path(size)
    if not path.is_file():
        raise UserError(f"size {size!r} is neither a folder of configs/models nor a YAML file")
    options = yaml.safe_load(path.read_text(encoding="utf-8")) | {"dropout": 0.0}
    results = [*_speed(options, repeats=repeats, steps=steps, rows=rows, utterance=utterance)]
    if world is not None:
        results += _learning(options, world, max_steps, learning_rates, batch_seconds)
    report = {"conditions": _conditions(options, rows, utterance, repeats), "results": [asdict(r) for r in results]}
    print(_table(report["conditions"], results))
    if json is not None:
        Path(json).write_text(dumps(report, indent=1) + "\n", encoding="utf-8")
    return results


def make(name: str, options: dict[str, Any]) -> EncoderCTC | ConformerCTC:
    """A contestant; the Conformer as large as the audio encoder of these arguments.

    Args:
        name: `omni` or `conformer`.
        options: Arguments of `AudioEncoder`.

    Raises:
        UserError: If no Conformer is as large.
    """
    encoder = AudioEncoder(**options)
    if name == "omni":
        return EncoderCTC(encoder)
    if encoder.downsampling != 2 * encoder.subframes:
        raise UserError("the Conformer writes 50 sub-frames a second: downsampling must be twice the subframes")
    wanted = encoder.num_parameters
    layers = len(encoder.transformer.blocks)
    dims = range(16, 4 * encoder.dim, 16)
    candidates = [(dim, 4 * dim) for dim in dims]
    sizes = {ffn: _conformer_size(options, dim, ffn, layers) for dim, ffn in candidates}
    dim, ffn_dim = min(candidates, key=lambda candidate: abs(sizes[candidate[1]] - wanted))
    each = 4 * layers * dim + 2 * layers  # parameters of one unit of ffn_dim: two networks a block, in and out
    ffn_dim += round((wanted - sizes[ffn_dim]) / each)
    conformer = ConformerCTC(
        num_mels=encoder.num_mels, vocab_size=encoder.vocab_size, dim=dim, ffn_dim=ffn_dim, num_layers=layers
    )
    count = sum(parameter.numel() for parameter in conformer.parameters())
    if abs(count - wanted) > 0.02 * wanted:
        raise UserError(f"no Conformer is as large: {count} and {wanted} parameters")
    return conformer


def _conformer_size(options: dict[str, Any], dim: int, ffn_dim: int, layers: int) -> int:
    with torch.device("meta"):
        model = ConformerCTC(
            num_mels=options["num_mels"], vocab_size=options["vocab_size"], dim=dim, ffn_dim=ffn_dim, num_layers=layers
        )
    return sum(parameter.numel() for parameter in model.parameters())


def _speed(options: dict[str, Any], *, repeats: int, steps: int, rows: int, utterance: float) -> list[Result]:
    """Training throughput, and how much faster than real time a recogniser of each kind is."""
    frames, num_mels = round(utterance * 100), options["num_mels"]
    models = [make(name, options) for name in NAMES]
    mels, lengths = torch.randn(rows, frames, num_mels), torch.full((rows,), frames)
    targets = torch.randint(1, options["vocab_size"], (rows, round(utterance * _UNITS_A_SECOND)))
    batch = SpeechBatch(mels, lengths, targets, torch.full((rows,), targets.shape[1]), torch.arange(rows), 0.0)
    optimizers = [adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1) for model in models]

    def train(i: int) -> Callable[[], None]:
        def block() -> None:
            for _ in range(steps):
                _step(models[i], optimizers[i], batch)

        return block

    work = steps * rows * utterance
    results = [_result("training, audio s/s", [train(0), train(1)], work, repeats)]
    for model in models:
        model.eval()
    for size in (1, 8):
        few = (mels[:1].repeat(size, 1, 1), lengths[:1].repeat(size))

        def hear(i: int, few: tuple[Tensor, Tensor] = few) -> Callable[[], None]:
            def block() -> None:
                with torch.inference_mode():
                    greedy(*models[i](*few))

            return block

        results.append(
            _result(f"transcription, batch {size}, × real time", [hear(0), hear(1)], size * utterance, repeats)
        )
    return results


def _result(measure: str, blocks: list[Callable[[], None]], work: float, repeats: int) -> Result:
    rounds = alternate(measure, blocks, repeats=repeats)
    omni, conformer = ([work / times[i] for times in rounds] for i in (0, 1))
    ratios = [a / b for a, b in zip(omni, conformer, strict=True)]
    return Result(measure, statistics.median(omni), statistics.median(conformer), ratios)


def _step(model: EncoderCTC | ConformerCTC, optimizer: torch.optim.Optimizer, batch: SpeechBatch) -> None:
    nll, feasible = model.nll(batch)
    (nll.sum() / (batch.target_lengths * feasible).sum().clamp(min=1)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _learning(
    options: dict[str, Any], world: Path, max_steps: int, learning_rates: tuple[float, ...], batch_seconds: float
) -> list[Result]:
    """Steps and seconds until half of the words are right; the better learning rate of each counts."""
    data = SpeechData(
        str(world / "train.jsonl"),
        str(world / "val.jsonl"),
        num_mels=options["num_mels"],
        batch_seconds=batch_seconds,
        max_duration=12,
        cache_features=True,
        augmentation=SpeechAugmentation(silence=0),
    )
    data.setup()
    data.keep_feasible(AudioEncoder(**options).num_subframes)
    best: dict[str, tuple[float, float]] = {}
    for name in NAMES:
        for lr in learning_rates:
            reached = _learn(name, options, data, lr, max_steps)
            if reached is not None and (name not in best or reached < best[name]):
                best[name] = reached
    results = []
    for i, measure in enumerate(("steps to half of the words", "seconds to half of the words")):
        omni, conformer = (best[name][i] if name in best else None for name in NAMES)
        ratios = [conformer / omni] if omni and conformer else []
        results.append(Result(measure, omni, conformer, ratios))
    return results


def _learn(
    name: str, options: dict[str, Any], data: SpeechData, lr: float, max_steps: int
) -> tuple[float, float] | None:
    """Steps and seconds of training until WER is 50 % on held-out rows; None if it is not within `max_steps`."""
    torch.manual_seed(0)
    model = make(name, options)
    optimizer = muon(model, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    spent, step, batches = 0.0, 0, iter(data.train_dataloader())
    while step < max_steps:
        batch = next(batches, None)
        if batch is None:
            batches = iter(data.train_dataloader())
            continue
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 40)
        spent += seconds(lambda batch=batch: _step(model, optimizer, batch))
        step += 1
        if step % _CHECK == 0:
            wer = _wer(model, data)
            print(f"{name}, lr {lr:g}, step {step}: WER {wer:.1%}", file=sys.stderr, flush=True)
            if wer <= 0.5:
                return float(step), spent
    return None


def _wer(model: nn.Module, data: SpeechData) -> float:
    """Of the first held-out rows."""
    rows, decode = data.val_dataloader().dataset, data.tokenizer.decode
    model.eval()
    references, hypotheses = [], []
    with torch.inference_mode():
        for first in range(0, _ROWS, 16):
            batch: SpeechBatch = rows.__getitems__([*range(first, min(first + 16, len(rows)))])  # pyright: ignore
            hypotheses += [decode(row) for row in greedy(*model(batch.mels, batch.mel_lengths))]
            pairs = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
            references += [decode(row[:length]) for row, length in pairs]
    model.train()
    return jiwer.wer(references, hypotheses)


def _conditions(options: dict[str, Any], rows: int, utterance: float, repeats: int) -> dict[str, str]:
    counts = {name: sum(p.numel() for p in make(name, options).parameters()) for name in NAMES}
    return {
        "versions": versions("torchaudio"),
        "device": cpu(),
        "parameters": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "training": f"32-true, {rows} × {utterance:g} s a step; forward, CTC, backward, clip, fused AdamW, zero",
        "transcription": "forward and greedy decoding of log-mels",
        "learning": "Muon and AdamW for both, the same batches; the better learning rate of each",
        "turns": f"{repeats} pairs; median, and the lowest and highest ratio of a pair",
    }


def _table(conditions: dict[str, str], results: list[Result]) -> str:
    width = max(map(len, conditions))
    lines = [f"{name:<{width}}  {text}" for name, text in conditions.items()]
    lines.append(f"\n{'measure':42}{'omni':>10}{'conformer':>11}  omni is better by")
    for result in results:
        cells = ["never" if value is None else f"{value:,.0f}" for value in (result.omni, result.conformer)]
        ratio = f"{statistics.median(result.ratios):.2f} ×" if result.ratios else "–"
        if len(result.ratios) > 1:
            ratio += f" ({min(result.ratios):.2f}–{max(result.ratios):.2f})"
        lines.append(f"{result.measure:42}{cells[0]:>10}{cells[1]:>11}  {ratio}")
    return "\n".join(lines)
