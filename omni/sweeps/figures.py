"""The figures of a sweep, as PNG files."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from omni.files import private_copy
from omni.sweeps.display import format_one, format_value, short_names
from omni.sweeps.ranking import best_first
from omni.sweeps.scaling import ScalingLaw
from omni.sweeps.study import SweepStudy

_LABEL: dict[str, Any] = {
    "textcoords": "offset points",
    "fontsize": 8,
    "verticalalignment": "center",
    "bbox": {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
}


def save_figures(study: SweepStudy, law: ScalingLaw | None = None) -> list[Path]:
    """Saves the figures for which there are enough trials into the folder of the sweep.

    They are `history`, `curves` (the metric by optimizer step), `slices`, `parallel` and `importance` (PED-ANOVA,
    arXiv:2304.10255), and `scaling` if a law is given.

    Args:
        study: The study.
        law: The scaling law of the sweep.

    Returns:
        The files.
    """
    complete = len(best_first(study.sweep, study.trials()))
    drawn: dict[str, Callable[[], Figure]] = {}
    if complete:
        drawn |= {"history": lambda: _history(study), "curves": lambda: _curves(study)}
    if complete >= 2:
        drawn |= {"slices": lambda: _slices(study), "parallel": lambda: _parallel(study)}
    if complete >= 4 and len(list(study.sweep.parameters)) > 1:
        drawn["importance"] = lambda: _importance(study)
    if law is not None:
        drawn["scaling"] = law.figure
    found = []
    for name, draw in drawn.items():
        path = study.sweep.folder / f"{name}.png"
        figure = draw()
        with private_copy(path) as part, part.open("wb") as file:
            figure.savefig(file, dpi=120, format="png")
        found.append(path)
    return found


def _figure(width: float = 7.0, height: float = 4.0, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _history(study: SweepStudy) -> Figure:
    """The metric of every trial, and the best so far."""
    sweep = study.sweep
    trials = [trial for trial in study.trials() if trial.value is not None]
    pruned = [(each.index, float(each.frozen.value or 0.0)) for each in study.trials() if each.state == "pruned"]
    figure, (axes,) = _figure()
    indices, values = [each.index for each in trials], [float(each.value or 0.0) for each in trials]
    axes.plot(indices, values, "o", label="complete")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="0.6", label="pruned, at its last validation")
    best = (np.minimum if sweep.direction == "minimize" else np.maximum).accumulate(values)
    axes.step(indices, best, where="post", color="C3", label="best so far")
    leave_out_the_worst(axes, [*values, *(value for _, value in pruned)], sweep.direction)
    axes.set(xlabel="trial", ylabel=sweep.file.metric)
    axes.legend()
    return figure


def _curves(study: SweepStudy) -> Figure:
    """The metric of every trial's validations by optimizer step; pruned trials are grey."""
    figure, (axes,) = _figure()
    trials = [trial for trial in study.trials() if trial.curve]
    best = {trial.index for trial in best_first(study.sweep, trials)[:5]}
    for trial in sorted(trials, key=lambda each: each.index in best):
        steps, values = zip(*sorted(trial.curve.items()), strict=True)
        chosen = trial.index in best
        style: dict[str, Any] = {"label": f"trial {trial.index}"} if chosen else {"color": "0.75", "linewidth": 1}
        axes.plot(steps, values, marker="." if len(steps) < 20 else None, **style)
    axes.set(xlabel="optimizer steps", ylabel=study.sweep.file.metric)
    leave_out_the_worst(axes, [value for trial in trials for value in trial.curve.values()], study.sweep.direction)
    axes.legend(title="the best")
    return figure


def _slices(study: SweepStudy) -> Figure:
    """The metric of every complete trial by the value of each parameter."""
    trials = [trial for trial in study.trials() if trial.value is not None]
    parameters = list(study.sweep.parameters)
    names = short_names([each.name for each in parameters])
    figure, columns = _figure(3.2 * len(parameters) + 0.5, 3.4, len(parameters))
    for axes, parameter in zip(columns, parameters, strict=True):
        used = [trial for trial in trials if parameter.name in trial.values]
        values = [trial.values[parameter.name] for trial in used]
        numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
        axes.scatter(
            values if numeric else brief(values),
            [trial.value for trial in used],
            c=[trial.index for trial in used],
            cmap="viridis",
        )
        if getattr(parameter, "log", False):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(names[parameter.name])
        leave_out_the_worst(axes, [float(trial.value or 0.0) for trial in used], study.sweep.direction)
        if not numeric:
            axes.tick_params(axis="x", rotation=30)
    columns[0].set_ylabel(study.sweep.file.metric)
    figure.colorbar(columns[-1].collections[0], ax=columns[-1], label="trial")
    return figure


def brief(values: Sequence[Any]) -> list[str]:
    """Short labels of values: names of files without folders, and of mappings the first entry that tells them apart."""
    if all(isinstance(each, dict) for each in values):
        kinds = [tuple(map(repr, each.items())) for each in values]
        for key in values[0]:
            if len({repr(each.get(key)) for each in values}) == len(set(kinds)):
                return [f"{key}={each[key]}" if key != "class_path" else str(each[key]) for each in values]
    return [Path(format_one(each)).name for each in values]


def _parallel(study: SweepStudy) -> Figure:
    """Parallel coordinates: a line for each complete trial, from its values to its rank; the best are drawn last."""
    ranked = best_first(study.sweep, study.trials())
    parameters = list(study.sweep.parameters)
    names = short_names([each.name for each in parameters])
    figure, (axes,) = _figure(2.0 + 1.6 * len(parameters), 4.0)
    columns = []
    for column, parameter in enumerate(parameters):
        given = [trial.values.get(parameter.name) for trial in ranked]
        heights, ticks = value_heights(given, log=getattr(parameter, "log", False))
        columns.append(heights)
        for label, height in ticks.items():
            axes.annotate(label, (column, height), (4, 0), **_LABEL)
    last = max(1, len(ranked) - 1)
    columns.append([1 - rank / last for rank in range(len(ranked))])
    for rank in sorted({0, last // 2, len(ranked) - 1}):
        value = format_value(ranked[rank].value)
        axes.annotate(value, (len(parameters), 1 - rank / last), (4, 0), **_LABEL)
    colors = mpl.colormaps["viridis"]
    for rank, line in reversed(list(enumerate(zip(*columns, strict=True)))):
        axes.plot(line, color=colors(1 - rank / last), linewidth=2.5 if rank == 0 else 1.0, alpha=1 - 0.6 * rank / last)
    for column in range(len(columns)):
        axes.axvline(column, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(columns)), [*names.values(), f"{study.sweep.file.metric},\nby rank"])
    axes.set(yticks=[], xlim=(-0.1, len(parameters) + 0.5))
    axes.spines[:].set_visible(False)
    return figure


def value_heights(values: Sequence[Any], *, log: bool) -> tuple[list[float], dict[str, float]]:
    """Heights of values on an axis from 0 to 1, NaN without a value; and those of its labels."""
    given = [each for each in values if each is not None]
    numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in given)
    if numeric and len(set(given)) > 1:
        low, high = min(given), max(given)

        def height(value: float) -> float:
            return float(np.log(value / low) / np.log(high / low)) if log else (value - low) / (high - low)

        shown = sorted(set(given)) if len(set(given)) <= 8 else [low, high]
        ticks = {format_one(each): height(each) for each in shown}
        return [float("nan") if each is None else height(each) for each in values], ticks
    labels = dict(zip(map(repr, given), brief(given), strict=True))
    places = {label: number for number, label in enumerate(dict.fromkeys(labels.values()))}
    top = max(1, len(places) - 1)
    heights = [float("nan") if each is None else places[labels[repr(each)]] / top for each in values]
    return heights, {label: place / top for label, place in places.items()}


def leave_out_the_worst(axes: Any, values: Sequence[float], direction: str) -> None:
    """Limits the axis of the metric: a trial that has diverged would flatten all others."""
    low, high = np.nanpercentile(values, (25, 75))
    minimize = direction == "minimize"
    bound = high + 3 * (high - low) if minimize else low - 3 * (high - low)
    outside = sum(value > bound if minimize else value < bound for value in values)
    if outside:
        best = min(values) if minimize else max(values)
        margin = 0.05 * (bound - best)
        axes.set_ylim(*sorted((best - margin, bound)))
        axes.set_title(f"{outside} worse values are outside", fontsize="small", loc="right")


def _importance(study: SweepStudy) -> Figure:
    """How much of the differences between trials each parameter explains."""
    with _quiet_optuna():
        found = optuna.importance.get_param_importances(study.study)
    names = short_names(list(found))
    figure, (axes,) = _figure(6.0, 1.2 + 0.45 * len(found))
    axes.barh([names[key] for key in reversed(found)], list(reversed(found.values())))
    axes.set(xlabel=f"share of the differences in {study.sweep.file.metric} (PED-ANOVA)", xlim=(0, 1))
    return figure


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Without Optuna's notes on experimental functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
