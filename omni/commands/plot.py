"""`omni plot`: the curves of one or several runs, as a picture."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path

from omni.curves.event_files import Run, read_run
from omni.curves.figure import Line, Panel, curves_figure
from omni.curves.loss_drops import LossDrop, find_loss_drops
from omni.errors import UserError
from omni.files import atomic_write, check_free

_LOSSES = ("train/loss", "val/loss")
_DEFAULT = (_LOSSES, ("train/grad_norm",), ("val/wer",))  # the metrics of each panel
_SHARES = {"wer", "cer", "accuracy", "recall", "top5", "use", "mfu", "padding"}  # parts of names of percentages
_MAX_PANELS = 24
_MARK = b"omni plot"  # in the metadata of a picture


def plot_runs(
    runs: list[str],
    *,
    out: Path = Path("curves.png"),
    metrics: list[str] | None = None,
    smoothing: float = 0.7,
    dpi: int = 150,
    overwrite: bool = False,
) -> None:
    """Plot the curves of one or several runs, from TensorBoard's event files or a CSVLogger's metrics.csv.

    Their last values are printed. Without `--metrics`: training and validation loss, gradient norm, word error rate,
    and the metric that selects `best.ckpt`. Sudden drops of the training loss after a plateau are marked.

    Example:
        omni plot audio an4 --metrics val/wer --out curves.png

    Args:
        runs: Folders of runs, or their names in lightning_logs: `audio world/audio`.
        out: The picture to write: .png, .svg or .pdf.
        metrics: Metrics to plot instead, one panel each, or patterns: `val/wer 'val/*'`.
        smoothing: Weight of neighbouring values in the smoothed training curves: from 0 to below 1.
        dpi: Dots per inch of a .png; a panel is 6.2 inches wide.
        overwrite: Replace a file that `omni plot` did not write.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing is {smoothing:g}: it must be from 0 to below 1")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"out is {out}: its suffix must be .png, .svg or .pdf")
    check_free([out], overwrite=overwrite, is_ours=lambda path: path.is_file() and _MARK in path.read_bytes())
    read = [read_run(name) for name in runs]
    drops = [list(find_loss_drops(run.curves.get("train/loss", {}).items())) for run in read]
    groups = _matching_metrics(read, metrics) if metrics else _default_metrics(read)
    panels = [panel for names in groups if (panel := _panel(read, drops, names)).lines]
    if not panels:
        raise UserError("there is nothing to plot: no run has logged a finite value of these metrics yet")
    labels = _distinct_names([run.folder for run in read])
    figure = curves_figure(panels, labels, smoothing=smoothing)
    metadata = {"Software" if out.suffix == ".png" else "Creator": _MARK.decode()}
    with atomic_write(out) as file:
        figure.savefig(file, format=out.suffix[1:], dpi=dpi, metadata=metadata)
    for number, run in enumerate(read):
        print(run.name)
        for line in (line for panel in panels for line in panel.lines if line.run == number):
            print(_summary(line))
        for drop in drops[number]:
            print(f"  train/loss {drop}")
    print(out)


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as make them distinct."""
    paths, length = [folder.absolute().parts for folder in folders], 1
    while len({path[-length:] for path in paths}) < len(set(paths)):
        length += 1
    return ["/".join(path[-length:]) for path in paths]


def _default_metrics(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    headlines = [(run.headline,) for run in runs if run.headline and run.headline not in _LOSSES]
    return list(dict.fromkeys([*_DEFAULT, *headlines]))


def _matching_metrics(runs: Sequence[Run], patterns: Sequence[str]) -> list[tuple[str, ...]]:
    known = sorted({name for run in runs for name in run.curves})
    names: dict[str, None] = {}  # in order
    for pattern in patterns:
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"metrics: no run has logged {pattern}; there are: {', '.join(known)}")
        names |= dict.fromkeys(found)
    if len(names) > _MAX_PANELS:
        raise UserError(f"metrics: {len(names)} panels are too many for one picture: give at most {_MAX_PANELS}")
    return [(name,) for name in names]


def _panel(runs: Sequence[Run], drops: Sequence[Sequence[LossDrop]], names: Sequence[str]) -> Panel:
    lines = []
    for number, run in enumerate(runs):
        for name in names:
            points = {step: value for step, value in run.curves.get(name, {}).items() if isfinite(value)}
            if points:
                marked = drops[number] if name == "train/loss" else ()
                lines.append(Line(number, name, points, not name.startswith("train/"), marked))
    shown = [name for name in names if any(line.name == name for line in lines)]
    return Panel(", ".join(shown), lines, not _SHARES.isdisjoint(names[0].split("/")[1:]))


def _summary(line: Line) -> str:
    """A line's last value, and the range of all."""
    (step, last), values = list(line.points.items())[-1], line.points.values()
    span = f"{min(values):.4g} to {max(values):.4g} in {len(values):,} values"
    return f"  {line.name:28} {last:10.4g} at step {step:,}; {span}"
