"""The figure of `omni plot`: one panel for each metric, one line for each run."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import exp, log
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from omni.curves.loss_drops import LossDrop

COLORS = ("#2f6bb3", "#d9622b", "#3f9468", "#8a57a8", "#c23b5e", "#7f7a2a", "#2a97a8", "#8c6448")
_SPARSE = 25  # up to this many points, each is marked
_WIDE = 20.0  # ratio of largest to smallest value above which the scale is logarithmic


class Line(NamedTuple):
    """A curve.

    Attributes:
        run: The run's number, which selects the colour.
        name: The metric.
        points: Values by step.
        validation: Whether it was measured at validation: a line with markers. Training curves are drawn faint, with a
            smoothed line over them.
        drops: Sudden drops to mark.
    """

    run: int
    name: str
    points: Mapping[int, float]
    validation: bool
    drops: Sequence[LossDrop] = ()


class Panel(NamedTuple):
    """Curves on the same axes.

    Attributes:
        title: The names of the metrics.
        lines: The curves.
        share: Whether values are shown in percent.
    """

    title: str
    lines: Sequence[Line]
    share: bool = False


def curves_figure(panels: Sequence[Panel], runs: Sequence[str], *, smoothing: float = 0.7) -> Figure:
    """Draws panels, two per row, below a legend of the runs.

    Args:
        panels: The panels.
        runs: Names of the runs.
        smoothing: Weight of neighbouring values in the smoothed training curves, from 0 (no smoothing) to below 1.

    Returns:
        A figure that pyplot does not manage.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.2 * columns, 3.7 * rows + 0.5), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten().tolist()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, smoothing)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=_color(number), linewidth=2.2) for number in range(len(runs))]
    figure.legend(
        handles, runs, loc="outside upper left", ncols=min(4, len(runs)), frameon=False, fontsize=10, handlelength=1.4
    )
    return figure


def _draw(axis: Axes, panel: Panel, smoothing: float) -> None:
    _format(axis, panel)
    several = len({line.validation for line in panel.lines}) > 1
    for line in panel.lines:
        steps, values, color = list(line.points), list(line.points.values()), _color(line.run)
        if line.validation:
            mark = {"marker": "o", "markersize": 4, "markerfacecolor": "white"} if len(steps) <= _SPARSE else {}
            style: dict[str, Any] = {"linestyle": (0, (4, 1.5))} if several else {}
            axis.plot(steps, values, color=color, linewidth=1.6, zorder=3, **mark, **style)
        else:
            axis.plot(steps, values, color=color, linewidth=0.7, alpha=0.28)
            logarithmic = axis.get_yscale() == "log"
            smooth = _smooth([log(value) for value in values] if logarithmic else values, smoothing)
            axis.plot(steps, [exp(v) for v in smooth] if logarithmic else smooth, color=color, linewidth=1.8, zorder=2)
        for drop in line.drops:
            axis.axvspan(drop.start, drop.end, color=color, alpha=0.13, linewidth=0)
            where = {"xy": (drop.start, 0.03), "xycoords": ("data", "axes fraction"), "ha": "right"}
            axis.annotate("drop", **where, textcoords="offset points", xytext=(-3, 0), fontsize=9, color=color)
    if several:
        shown = [Line2D([], [], color="0.35", linewidth=1.8), Line2D([], [], color="0.35", linestyle=(0, (4, 1.5)))]
        axis.legend(shown, ["training", "validation"], frameon=False, fontsize=8.5, loc="upper right")


def _format(axis: Axes, panel: Panel) -> None:
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
    """Symmetric exponential smoothing, which does not lag."""
    before, after = _decayed_sums(values, weight), _decayed_sums(values[::-1], weight)[::-1]
    counts = _decayed_sums([1.0] * len(values), weight)
    return [
        (left + right - value) / (count + other - 1)
        for left, right, value, count, other in zip(before, after, values, counts, reversed(counts), strict=True)
    ]


def _decayed_sums(values: Sequence[float], weight: float) -> list[float]:
    """Running sums with exponential decay."""
    return list(accumulate(values, lambda total, value: weight * total + value))


def _color(run: int) -> str:
    return COLORS[run % len(COLORS)]
