"""Training losses that a pipeline expects of its stages, and stages that are far off them."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import final

from omni.errors import UserError

LOSS = "train/loss"
_WINDOW = 0.1  # values at a share of the steps: those at most this part of the step away
_FAR = 1.3  # times the expected loss; two seeds of stage E differ by 5 % at most


def parse_expected(losses: Mapping[str, float]) -> dict[float, float]:
    """Expected losses by share of the steps, from a mapping such as `{10%: 3.2, 50%: 2.7}`.

    Raises:
        UserError: If a key is not a percentage, or a loss not positive.
    """
    parsed = {}
    for share, loss in losses.items():
        number = share.removesuffix("%").strip()
        if share == number or not number.replace(".", "", 1).isdecimal() or not 0 < float(number) <= 100:
            raise UserError(f"expected_loss has the key {share!r}: give a percentage of the steps, such as 10%")
        if not loss > 0:
            raise UserError(f"expected_loss at {share} is {loss}: give a positive loss")
        parsed[float(number) / 100] = float(loss)
    return dict(sorted(parsed.items()))


def format_share(share: float) -> str:
    """A share of the steps as a percentage: 0.1 as `10%`."""
    return f"{100 * share:g}%"


def loss_at(curve: Mapping[int, float], step: float) -> float | None:
    """The median of a loss's values near a step, or the nearest value; None for an empty curve."""
    near = [value for at, value in curve.items() if abs(at - step) <= _WINDOW * step]
    return median(near) if near else curve[min(curve, key=lambda at: abs(at - step))] if curve else None


@final
class LossWatch:
    """Compares the losses of running stages with the expected ones.

    Args:
        expected: For each stage, its expected loss by share of the steps.
    """

    def __init__(self, expected: Mapping[str, Mapping[float, float]]) -> None:
        self._left = {name: dict(losses) for name, losses in expected.items()}
        self._curves: dict[str, dict[int, float]] = defaultdict(dict)

    def add(self, name: str, step: int, steps: int, loss: float, *, first_step: int = 0) -> str | None:
        """Takes a stage's latest loss; returns a warning if it is far off, at most once for each expected loss.

        Args:
            name: The stage.
            step: Optimizer steps so far.
            steps: Steps of the whole training.
            loss: Loss of the latest logged step.
            first_step: Step at which this process started; what is expected before is not compared.
        """
        curve, left = self._curves[name], self._left.get(name, {})
        curve[step] = loss
        passed = [share for share in left if step >= (1 + _WINDOW) * share * steps or step >= steps]
        losses = {share: left.pop(share) for share in passed}
        for share, expected in reversed(losses.items()):
            found = loss_at(curve, share * steps)
            if share * steps > first_step and found is not None and not found <= _FAR * expected:  # also NaN
                return (
                    f"{name}: {LOSS} is {found:.3g} at {format_share(share)} of the steps, {expected:.3g} was expected"
                    ": its data, a part that it starts from, or a value of its configuration may be wrong"
                )
        return None
