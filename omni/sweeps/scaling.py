"""Scaling laws: how the loss falls with parameters and training data, fitted to the trials of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import least_squares

from omni.errors import UserError
from omni.sweeps.definition import Sweep
from omni.sweeps.stages import stage_with
from omni.sweeps.study import Trial
from omni.training.memory import format_count
from omni.training.memory_plan import plan_of

DELTA = 1e-3  # of the Huber loss, on logarithms, as in the paper
RESAMPLES = 100
FEWEST = 6  # runs: one more than the law has parameters
_STARTS = [(a, b, e, alpha, beta) for a in (2.0, 8.0) for b in (2.0, 8.0) for e in (-1.0, 0.5)
           for alpha in (0.2, 0.6) for beta in (0.2, 0.6)]  # fmt: skip


class Run(NamedTuple):
    """A trained model: its parameters, the tokens of its training and its loss."""

    parameters: int
    tokens: int
    loss: float


class Coefficients(NamedTuple):
    """The law `loss = floor + a / parameters^alpha + b / tokens^beta`."""

    floor: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """The loss that the law predicts."""
        return self.floor + self.a / np.asarray(parameters) ** self.alpha + self.b / np.asarray(tokens) ** self.beta

    def optimal(self, flops: float) -> tuple[float, float]:
        """The parameters and tokens with the lowest loss at `6 · parameters · tokens = flops`."""
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return parameters, flops / 6 / parameters


@final
@dataclass(frozen=True)
class ScalingLaw:
    """A law of the form of Chinchilla (arXiv:2203.15556, approach 3), and how far it can be trusted.

    Attributes:
        runs: The runs that it was fitted to.
        fitted: The law.
        resampled: Laws fitted to resampled runs (bootstrap).
        largest: The run with the most computation.
        without_largest: What the law predicts for that run if it is fitted to the others.
    """

    runs: tuple[Run, ...]
    fitted: Coefficients
    resampled: tuple[Coefficients, ...]
    largest: Run
    without_largest: float

    @property
    def error(self) -> float:
        """The root mean square of the relative errors on the runs."""
        errors = [self.fitted.loss(run.parameters, run.tokens) / run.loss - 1 for run in self.runs]
        return float(np.sqrt(np.mean(np.square(errors))))

    def interval(self, parameters: float, tokens: float) -> tuple[float, float]:
        """The 90 % interval of a prediction, from the resampled laws."""
        predicted = [float(law.loss(parameters, tokens)) for law in self.resampled]
        low, high = np.quantile(predicted, [0.05, 0.95])
        return float(low), float(high)

    def report(self) -> list[str]:
        """The law, its errors and its limits, as lines of Markdown."""
        low = Coefficients(*(float(np.quantile(each, 0.05)) for each in zip(*self.resampled, strict=True)))
        high = Coefficients(*(float(np.quantile(each, 0.95)) for each in zip(*self.resampled, strict=True)))
        law = self.fitted
        flops = 6.0 * self.largest.parameters * self.largest.tokens
        rows = [f"| {name} | {getattr(law, name):.3g} | {getattr(low, name):.3g} to {getattr(high, name):.3g} |"
                for name in law._fields]  # fmt: skip
        miss = self.without_largest / self.largest.loss - 1
        return [
            f"`loss = {law.floor:.3g} + {law.a:.3g} / N^{law.alpha:.3g} + {law.b:.3g} / D^{law.beta:.3g}`, N "
            f"parameters and D tokens, fitted to {len(self.runs)} runs (arXiv:2203.15556, approach 3); root mean "
            f"square error {100 * self.error:.1f} %.",
            "",
            "| coefficient | fitted | 90 % interval |",
            "|---|---|---|",
            *rows,
            "",
            *self._allocation(flops),
            "",
            f"How far to trust it: it was measured for {_range([run.parameters for run in self.runs])} parameters and "
            f"{_range([run.tokens for run in self.runs])} tokens. Fitted without the largest run, it predicts "
            f"{self.without_largest:.4g} for that run, whose loss is {self.largest.loss:.4g} ({100 * miss:+.1f} %). "
            "Beyond ten times the largest computation it says nothing; and it holds for this data, this tokenizer and "
            "these learning rates only.",
        ]

    def _allocation(self, flops: float) -> list[str]:
        """The best use of the largest run's computation, and of ten times as much."""
        lines = ["| computation | best N | best D | predicted loss (90 % interval) |", "|---|---|---|---|"]
        for factor in (1, 10):
            parameters, tokens = self.fitted.optimal(factor * flops)
            low, high = self.interval(parameters, tokens)
            counts = f"{format_count(round(parameters))} | {format_count(round(tokens))}"
            loss = float(self.fitted.loss(parameters, tokens))
            name = f"{factor * flops:.2g} FLOPs" + (
                " (10 × the largest run's)" if factor > 1 else " (the largest run's)"
            )
            lines.append(f"| {name} | {counts} | {loss:.4g} ({low:.4g} to {high:.4g}) |")
        return lines

    def figure(self) -> Figure:
        """The loss by tokens, for each size: the runs, and the law up to ten times the most tokens."""
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        most = max(run.tokens for run in self.runs)
        for number, size in enumerate(sorted({run.parameters for run in self.runs})):
            own = sorted((run.tokens, run.loss) for run in self.runs if run.parameters == size)
            tokens = np.geomspace(own[0][0], 10 * most, 100)
            axes.plot(*zip(*own, strict=True), "o", color=f"C{number}", label=f"{format_count(size)} parameters")
            known = tokens <= most
            axes.plot(tokens[known], self.fitted.loss(size, tokens[known]), color=f"C{number}")
            axes.plot(tokens[~known], self.fitted.loss(size, tokens[~known]), ":", color=f"C{number}")
        axes.axhline(self.fitted.floor, color="0.6", linewidth=1, label=f"floor {self.fitted.floor:.3g}")
        axes.set(xscale="log", xlabel="tokens of training (dotted: not measured)", ylabel="loss")
        axes.legend()
        return figure


def fit_sweep(sweep: Sweep, trials: Sequence[Trial]) -> ScalingLaw | None:
    """The scaling law of a sweep of language models; None with too few complete trials.

    Raises:
        UserError: If its stage is not trained on tokens.
    """
    runs = []
    for trial in trials:
        stage = stage_with(sweep, sweep.stage, trial.values)
        trainer, data = (stage.configuration.config[key] for key in ("trainer", "data"))
        arguments = data["init_args"]
        if "context" not in arguments:
            raise UserError(
                f"sweep {sweep.path}: scaling: {data['class_path']} has no context: it counts tokens of text"
            )
        steps = trial.facts["steps"] if sweep.file.seeds == 1 else trainer["max_steps"]
        tokens = steps * trainer["accumulate_grad_batches"] * arguments["batch_size"] * arguments["context"]
        runs.append(Run(plan_of(stage.configuration).total_parameters, tokens, float(trial.value or 0.0)))
    enough = len(runs) >= FEWEST and min(len({run.parameters for run in runs}), len({run.tokens for run in runs})) >= 2
    return fit(runs) if enough else None


def fit(runs: Sequence[Run], *, seed: int = 0) -> ScalingLaw:
    """Fits a scaling law.

    Args:
        runs: At least six, of several sizes and lengths.
        seed: Of the resampling.
    """
    fitted = _fit(runs, _STARTS)
    rng = np.random.default_rng(seed)
    near = [_logarithms(fitted)]
    resampled = []
    for _ in range(RESAMPLES):
        drawn = [runs[number] for number in rng.integers(len(runs), size=len(runs))]
        resampled.append(_fit(drawn, near))
    largest = max(runs, key=lambda run: run.parameters * run.tokens)
    others = [run for run in runs if run is not largest]
    predicted = float(_fit(others, _STARTS).loss(largest.parameters, largest.tokens))
    return ScalingLaw(tuple(runs), fitted, tuple(resampled), largest, predicted)


def _logarithms(law: Coefficients) -> tuple[float, ...]:
    return math.log(law.a), math.log(law.b), math.log(law.floor), law.alpha, law.beta


def _fit(runs: Sequence[Run], starts: Sequence[Sequence[float]]) -> Coefficients:
    """The best of the fits from several starts, by the Huber loss of the logarithms of the loss."""
    parameters, tokens, losses = (np.log(np.array(column, dtype=float)) for column in zip(*runs, strict=True))

    def terms(x: np.ndarray) -> np.ndarray:
        a, b, floor, alpha, beta = x
        return np.stack([a - alpha * parameters, b - beta * tokens, np.full_like(losses, floor)])

    def errors(x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(terms(x)) - losses

    def gradients(x: np.ndarray) -> np.ndarray:
        shares = np.exp(terms(x) - np.logaddexp.reduce(terms(x)))
        return np.stack([*shares, -shares[0] * parameters, -shares[1] * tokens], axis=1)

    bounds = ([-5.0, -5.0, -10.0, 0.01, 0.01], [40.0, 40.0, 3.0, 3.0, 3.0])
    options: Any = {"jac": gradients, "bounds": bounds, "loss": "huber", "f_scale": DELTA, "max_nfev": 500}
    found = [least_squares(errors, start, **options) for start in starts]
    a, b, floor, alpha, beta = min(found, key=lambda each: each.cost).x
    return Coefficients(math.exp(floor), math.exp(a), math.exp(b), float(alpha), float(beta))


def _range(values: Sequence[int]) -> str:
    return f"{format_count(min(values))} to {format_count(max(values))}"
