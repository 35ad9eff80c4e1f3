"""Figures of images that TensorBoard and notebooks show. Each is in no window and in no global list of matplotlib's."""

from collections.abc import Sequence
from textwrap import shorten

import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

_COLUMNS = 4
_MOST_TEXT = 40  # characters under an image
_NUMBERED = 20  # classes up to which a confusion matrix has numbers in it


def image_grid(images: Tensor, truths: Sequence[str], guesses: Sequence[str]) -> Figure:
    """Images, each with what it is and what it was taken for; in red where the two differ.

    Args:
        images: (images, 3, height, width), pixels from 0 to 1.
        truths: What each is.
        guesses: What each was taken for.
    """
    figure, axes = _grid(len(images))
    for axis, image, truth, guess in zip(axes, images, truths, guesses, strict=False):
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        right = truth == guess
        said = shorten(guess, _MOST_TEXT) if right else f"{shorten(guess, _MOST_TEXT)}\nis {shorten(truth, _MOST_TEXT)}"
        axis.set_title(said, fontsize=7, color="black" if right else "tab:red")
    return figure


def attention_figure(images: Tensor, maps: Tensor) -> Figure:
    """Images, lit where the CLS token looks.

    Args:
        images: (images, 3, height, width), pixels from 0 to 1.
        maps: (images, heads, rows, columns), shares of attention; the heads are averaged.
    """
    figure, axes = _grid(len(images))
    large = F.interpolate(maps.mean(1, keepdim=True), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    for axis, image, look in zip(axes, images, large, strict=False):
        axis.imshow(image.mean(0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.imshow(look.numpy(), cmap="inferno", alpha=0.6)
    return figure


def confusion_figure(counts: Tensor, values: Sequence[str]) -> Figure:
    """A confusion matrix: shares of each class (row) that were taken for each class (column).

    Args:
        counts: (classes, classes).
        values: Names of the classes.
    """
    size = min(12.0, 2.5 + 0.4 * len(values))
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(values))
    axis.set_xticks(ticks, [shorten(v, 16, placeholder="…") for v in values], rotation=90, fontsize=7)
    axis.set_yticks(ticks, [shorten(v, 16, placeholder="…") for v in values], fontsize=7)
    axis.set(xlabel="taken for", ylabel="is")
    if len(values) <= _NUMBERED:
        for i in ticks:
            for j in ticks:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


def _grid(number: int) -> tuple[Figure, list[Axes]]:
    rows = -(-number // _COLUMNS)
    figure = Figure(figsize=(2 * _COLUMNS, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.set_axis_off()
    return figure, axes
