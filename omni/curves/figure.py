"""The figure of curves: panels of metrics, in each a line a run."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import exp, log
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from omni.curves.loss_drops import LossDrop

COLOURS = ("#2f6bb3", "#d9622b", "#3f9468", "#8a57a8", "#c23b5e", "#7f7a2a", "#2a97a8", "#8c6448")
_SPARSE = 25  # points up to which each is marked
_WIDE = 20.0  # times that a panel's values span, from which on it has a logarithmic scale


class Line(NamedTuple):
    """A curve to draw.

    Attributes:
        run: The run's number: its colour.
        name: Of the metric.
        points: Values by steps.
        measured: Whether it was measured at validation: a line with marks; a curve of training is drawn smoothed over
            its faint self.
        cliffs: Where it fell off a cliff.
    """

    run: int
    name: str
    points: Mapping[int, float]
    measured: bool
    cliffs: Sequence[LossDrop] = ()


class Panel(NamedTuple):
    """Curves in one frame.

    Attributes:
        title: What they are of.
        lines: The curves.
        share: Whether they are shares, told in percent.
    """

    title: str
    lines: Sequence[Line]
    share: bool = False


def curves_figure(panels: Sequence[Panel], runs: Sequence[str], *, smoothing: float = 0.7) -> Figure:
    """Draws panels, two in a row, the runs' names above them.

    Args:
        panels: What to draw.
        runs: Names of the runs.
        smoothing: How much the neighbours of a value count in the smoothed curves of training, 0–1; 0 draws
            them as they are.

    Returns:
        A figure of its own, in no window and in no global list of matplotlib's.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.2 * columns, 3.7 * rows + 0.5), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten().tolist()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, smoothing)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=_colour(number), linewidth=2.2) for number in range(len(runs))]
    figure.legend(
        handles, runs, loc="outside upper left", ncols=min(4, len(runs)), frameon=False, fontsize=10, handlelength=1.4
    )
    return figure


def _draw(axis: Axes, panel: Panel, smoothing: float) -> None:
    _frame(axis, panel)
    several = len({line.measured for line in panel.lines}) > 1
    for line in panel.lines:
        steps, values, colour = list(line.points), list(line.points.values()), _colour(line.run)
        if line.measured:
            mark = {"marker": "o", "markersize": 4, "markerfacecolor": "white"} if len(steps) <= _SPARSE else {}
            style: dict[str, Any] = {"linestyle": (0, (4, 1.5))} if several else {}
            axis.plot(steps, values, color=colour, linewidth=1.6, zorder=3, **mark, **style)
        else:
            axis.plot(steps, values, color=colour, linewidth=0.7, alpha=0.28)
            logarithmic = axis.get_yscale() == "log"
            smooth = _smooth([log(value) for value in values] if logarithmic else values, smoothing)
            axis.plot(steps, [exp(v) for v in smooth] if logarithmic else smooth, color=colour, linewidth=1.8, zorder=2)
        for cliff in line.cliffs:
            axis.axvspan(cliff.start, cliff.end, color=colour, alpha=0.13, linewidth=0)
            where = {"xy": (cliff.start, 0.03), "xycoords": ("data", "axes fraction"), "ha": "right"}
            axis.annotate("cliff", **where, textcoords="offset points", xytext=(-3, 0), fontsize=9, color=colour)
    if several:
        shown = [Line2D([], [], color="0.35", linewidth=1.8), Line2D([], [], color="0.35", linestyle=(0, (4, 1.5)))]
        axis.legend(shown, ["training", "validation"], frameon=False, fontsize=8.5, loc="upper right")


def _frame(axis: Axes, panel: Panel) -> None:
    values = [value for line in panel.lines for value in line.points.values()]
    if min(values) > 0 and max(values) > _WIDE * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        plain = FuncFormatter(lambda value, _: f"{100 * value:g} %" if panel.share else f"{value:g}")
        axis.yaxis.set_major_formatter(plain)
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif panel.share:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_title(panel.title, loc="left", fontsize=11, color="0.15")
    axis.set_xlabel("optimizer steps", fontsize=9, color="0.35")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axis.grid(color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("0.75")
    axis.tick_params(labelbottom=True, colors="0.35", labelsize=9, length=3)


def _smooth(values: Sequence[float], weight: float) -> list[float]:
    """Each value averaged with those around it, which count less the further off they are: it lags behind nothing."""
    before, after = _faded(values, weight), _faded(values[::-1], weight)[::-1]
    counts = _faded([1.0] * len(values), weight)
    return [
        (left + right - value) / (count + other - 1)
        for left, right, value, count, other in zip(before, after, values, counts, reversed(counts), strict=True)
    ]


def _faded(values: Sequence[float], weight: float) -> list[float]:
    """The sum of each value and those before it, each times `weight` once for every value between."""
    return list(accumulate(values, lambda faded, value: weight * faded + value))


def _colour(run: int) -> str:
    return COLOURS[run % len(COLOURS)]
