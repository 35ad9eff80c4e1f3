"""Conversations as figures: what is seen and heard, above what is said."""

from collections.abc import Sequence
from textwrap import fill

from matplotlib.figure import Figure
from torch import Tensor

from omni.media.audio import HOP_LENGTH, SAMPLE_RATE

_MOST = 4  # images and recordings that are shown of a conversation
_WIDTH = 90  # characters of a line
_LONGEST = 8 * _WIDTH  # characters of a text: a model that loops fills its context
_LAST = 0x52F  # the end of Latin, Greek and Cyrillic, which matplotlib's own font has


def conversation_figure(images: Sequence[Tensor], mels: Sequence[Tensor], *, title: str, right: bool) -> Figure:
    """The media of a conversation side by side, under what is asked and answered.

    Args:
        images: (3, height, width) each, pixels from 0 to 1.
        mels: (mel frames, num_mels) each.
        title: What is said.
        right: Whether the answer is right; a wrong one is red.

    Returns:
        A figure of its own, in no window and in no global list of matplotlib's.
    """
    images, mels = images[:_MOST], mels[:_MOST]
    figure = Figure(figsize=(9, 3), layout="constrained")
    lines = "\n".join(fill(_shown(line), _WIDTH) for line in title.split("\n"))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=9, color="black" if right else "tab:red", parse_math=False)
    widths = [1.0] * len(images) + [2.0] * len(mels)
    if not widths:
        return figure
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_axis_off()
    for axis, mel in zip(axes[len(images) :], mels, strict=True):
        seconds = len(mel) * HOP_LENGTH / SAMPLE_RATE
        axis.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]), cmap="magma")
        axis.set_xlabel("seconds")
    return figure


def _shown(line: str) -> str:
    """The line, cut to a few lines, with a question mark for what the figure's font lacks: models output anything."""
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
    return "".join(one if one.isprintable() and ord(one) <= _LAST else "?" for one in line)
