"""The cliff: a loss that lies still for long and then falls within few steps, where a model begins to understand."""

from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any, NamedTuple

_STILL = 0.05  # most that the two halves of a plateau differ by
_FALL = 1 / 3  # least share of the plateau's height that is lost
_NOISE = 4.0  # least number of the plateau's spreads that is lost
_RECENT = 7  # values whose median counts as where the loss is now


class LossDrop(NamedTuple):
    """A sudden fall after a plateau.

    Attributes:
        start: Step at which the loss last lay on the plateau.
        end: Step at which it had fallen.
        height: The loss on the plateau.
        foot: The loss after the fall.
    """

    start: int
    end: int
    height: float
    foot: float

    def __str__(self) -> str:
        begun, ended = (
            f"from {self.height:.3g}, where it lay at step {self.start},",
            f"to {self.foot:.3g} at step {self.end}",
        )
        return f"fell off a cliff: {begun} {ended}"


class LossDropDetector:
    """Watches a loss, value by value, for a cliff.

    It lies on a *plateau* while the medians of the older and the newer half of its last `plateau` values differ by less
    than 5 %. It falls off a *cliff* where, within as many values after it last lay there, the median of the last seven
    is lower than the plateau by a third, and by four of the plateau's spreads (median absolute deviations). So neither
    noise nor steady learning is a cliff: what loses 5 % in ten values, the most that passes for a plateau, loses a
    tenth in the time that counts.

    Args:
        plateau: Values; those of training come every `trainer.log_every_n_steps` steps.
    """

    def __init__(self, plateau: int = 20) -> None:
        self.plateau = plateau
        self._points: list[tuple[int, float]] = []
        self._lay: tuple[int, float, float] | None = None  # the last plateau's last step, its height and spread
        self._since = 0  # values that came after it

    def add(self, step: int, value: float) -> LossDrop | None:
        """Takes the next value; a cliff where it shows that the loss has just fallen off one."""
        self._points = [*self._points[1 - self.plateau :], (step, value)]
        values = [value for _, value in self._points]
        if len(values) == self.plateau:
            height, half = median(values), self.plateau // 2
            if abs(median(values[:half]) - median(values[half:])) < _STILL * height:
                self._lay, self._since = (step, height, median(abs(value - height) for value in values)), 0
                return None
        if self._lay is None:
            return None
        self._since += 1
        start, height, spread = self._lay
        foot = median(values[-_RECENT:])
        if height - foot > max(_FALL * height, _NOISE * spread):
            start = max((at for at, value in self._points if height - value < value - foot), default=start)
            self._points, self._lay = [], None
            return LossDrop(start, step, height, foot)
        if self._since == self.plateau:
            self._lay = None
        return None

    def state(self) -> dict[str, Any]:
        """Plain data; a watch that it is loaded into goes on as this one."""
        return {"points": self._points, "lay": self._lay, "since": self._since}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where the watch stood that `state` came from."""
        self._points, self._lay, self._since = state["points"], state["lay"], state["since"]


def find_loss_drops(curve: Iterable[tuple[int, float]], plateau: int = 20) -> Iterator[LossDrop]:
    """All cliffs of a curve of steps and values; see `LossDropDetector`."""
    watch = LossDropDetector(plateau)
    for step, value in curve:
        if (cliff := watch.add(step, value)) is not None:
            yield cliff
