"""The verb `plot`: the curves of one or several runs, as a picture."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path

from omni.curves.event_files import Run, read_run
from omni.curves.figure import Line, Panel, curves_figure
from omni.curves.loss_drops import LossDrop, find_loss_drops
from omni.errors import UserError

_LOSSES = ("train/loss", "val/loss")
_GRADIENTS = "train/grad_norm"
_WORDS = "val/wer"
_SHARES = ("wer", "cer", "accuracy", "recall", "top5", "use", "mfu", "padding")  # their last or second name says it
_MOST = 24  # panels


def plot_runs(
    runs: list[str],
    *,
    out: Path = Path("curves.png"),
    metrics: list[str] | None = None,
    smoothing: float = 0.7,
    dpi: int = 150,
) -> None:
    """Draw the curves of one or several runs, read from the files of TensorBoard.

    Without `--metrics`: training and validation loss, the norm of the gradient, the word error rate and what
    `best.ckpt` was chosen by. Where a training loss lies still and then falls within few steps, the cliff is marked.

    Args:
        runs: Folders of runs, or their names in lightning_logs: `audio world/audio`.
        out: The picture to write: .png, .svg or .pdf.
        metrics: Names of metrics to draw instead, a panel each, or patterns: `val/wer 'val/*'`.
        smoothing: How much the neighbours of a value count in the smoothed curves of training: from 0 to below 1.
        dpi: Dots per inch of a .png: a panel is 6.2 inches wide.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing is {smoothing:g}: it must be from 0 to below 1")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"out is {out}: give it the ending .png, .svg or .pdf")
    read = [read_run(name) for name in runs]
    cliffs = [list(find_loss_drops(run.curves.get("train/loss", {}).items())) for run in read]
    panels = _chosen(read, cliffs, metrics) if metrics else _usual(read, cliffs)
    out.parent.mkdir(parents=True, exist_ok=True)
    curves_figure(panels, _short([run.folder for run in read]), smoothing=smoothing).savefig(out, dpi=dpi)
    for number, run in enumerate(read):
        print(run.name)
        for panel in panels:
            for line in panel.lines:
                if line.run == number:
                    print(_told(line))
        for cliff in cliffs[number]:
            print(f"  train/loss {cliff}")
    print(out)


def _short(folders: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as it takes to tell all apart."""
    trails = [folder.absolute().parts for folder in folders]
    length = next(
        n for n in range(1, 1 + max(map(len, trails))) if len({trail[-n:] for trail in trails}) == len(set(trails))
    )
    return ["/".join(trail[-length:]) for trail in trails]


def _usual(runs: Sequence[Run], cliffs: Sequence[Sequence[LossDrop]]) -> list[Panel]:
    """The panels that are drawn where nothing is asked for."""
    headlines = [run.headline for run in runs if run.headline and run.headline not in _LOSSES]
    groups = [_LOSSES, (_GRADIENTS,), *((name,) for name in dict.fromkeys([_WORDS, *headlines]))]
    panels = [_panel(runs, cliffs, names) for names in groups]
    return _drawable(panels)


def _chosen(runs: Sequence[Run], cliffs: Sequence[Sequence[LossDrop]], metrics: Sequence[str]) -> list[Panel]:
    known = sorted({name for run in runs for name in run.curves})
    names: list[str] = []
    for metric in metrics:
        found = [name for name in known if fnmatchcase(name, metric)]
        if not found:
            raise UserError(f"metrics: {metric} was logged by no run; there are: {', '.join(known)}")
        names += found
    if len(set(names)) > _MOST:
        raise UserError(f"metrics: {len(set(names))} panels are too many for a picture: ask for {_MOST} or fewer")
    panels = [_panel(runs, cliffs, (name,)) for name in dict.fromkeys(names)]
    return _drawable(panels)


def _drawable(panels: Sequence[Panel]) -> list[Panel]:
    held = [panel for panel in panels if panel.lines]
    if not held:
        raise UserError("there is nothing to draw: no run has logged a finite value of these metrics yet")
    return held


def _panel(runs: Sequence[Run], cliffs: Sequence[Sequence[LossDrop]], names: Sequence[str]) -> Panel:
    lines = []
    for number, run in enumerate(runs):
        for name in names:
            points = {step: value for step, value in run.curves.get(name, {}).items() if isfinite(value)}
            if points:
                fallen = cliffs[number] if name == "train/loss" else ()
                lines.append(Line(number, name, points, not name.startswith("train/"), fallen))
    held = [name for name in names if any(line.name == name for line in lines)]
    return Panel(", ".join(held), lines, any(part in _SHARES for part in names[0].split("/")[1:]))


def _told(line: Line) -> str:
    """A line's last value, and the range of all."""
    (step, last), values = list(line.points.items())[-1], line.points.values()
    span = f"{min(values):.4g} to {max(values):.4g} in {len(values):,} values"
    return f"  {line.name:28} {last:10.4g} at step {step:,}; {span}"
