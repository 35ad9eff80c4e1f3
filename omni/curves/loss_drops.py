"""Sudden loss drops: a plateau, and then a fall within few steps."""

from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

_FLAT = 0.05  # a plateau: its halves differ by less than this fraction
_FALL = 1 / 3  # a drop: at least this fraction of the plateau's loss is lost
_NOISE = 4.0  # and at least this many of the plateau's median absolute deviations
_RECENT = 7  # values whose median is the current loss


class LossDrop(NamedTuple):
    """A sudden drop after a plateau.

    Attributes:
        start: Last step on the plateau.
        end: Step at which the drop was found.
        height: Loss on the plateau.
        foot: Loss after the drop.
    """

    start: int
    end: int
    height: float
    foot: float

    def __str__(self) -> str:
        return (
            f"dropped suddenly after a plateau: from {self.height:.3g} at step {self.start} to {self.foot:.3g} at step "
            f"{self.end}"
        )


class LossDropDetector:
    """Looks for sudden drops in a loss, value by value.

    A *plateau* is a window of `plateau` values whose older and newer halves have medians within 5 %. The loss has
    dropped if, at most `plateau` values after the last plateau, the median of the last seven is lower than the plateau
    by a third and by four median absolute deviations. Neither noise nor steady learning qualifies: the steepest
    plateau falls by 5 % in ten values.

    Args:
        plateau: Window length; training logs a value every `trainer.log_every_n_steps` steps.

    Attributes:
        points: The last steps and values: all of the detector's state.
    """

    def __init__(self, plateau: int = 20) -> None:
        self.plateau = plateau
        self.points: list[tuple[int, float]] = []

    def add(self, step: int, value: float) -> LossDrop | None:
        """Takes the next value; returns the drop if this value completes one."""
        self.points = [*self.points[1 - 2 * self.plateau :], (step, value)]
        values = [value for _, value in self.points]
        foot = median(values[-_RECENT:])
        for end in range(len(values), self.plateau - 1, -1):
            window = values[end - self.plateau : end]
            height, half = median(window), self.plateau // 2
            if abs(median(window[:half]) - median(window[half:])) < _FLAT * height:
                break
        else:
            return None
        spread = median(abs(value - height) for value in window)
        if end == len(values) or height - foot <= max(_FALL * height, _NOISE * spread):
            return None
        start = max(at for at, value in self.points if height - value < value - foot)
        self.points = []
        return LossDrop(start, step, height, foot)


def find_loss_drops(curve: Iterable[tuple[int, float]], plateau: int = 20) -> Iterator[LossDrop]:
    """All sudden drops of a curve of steps and values; see `LossDropDetector`."""
    detector = LossDropDetector(plateau)
    for step, value in curve:
        if (drop := detector.add(step, value)) is not None:
            yield drop
