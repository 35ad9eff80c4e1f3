"""Figures that TensorBoard and notebooks show."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary


def spectrogram_figure(
    mel: Tensor, log_probs: Tensor, *, subframe_seconds: float, units: CTCVocabulary, title: str
) -> Figure:
    """A spectrogram, and under it how sure the CTC head is of the units it writes, at the times it writes them.

    Args:
        mel: (frames, num_mels), from `omni.media.audio.LogMel`.
        log_probs: (sub-frames, vocab_size).
        subframe_seconds: Time from one sub-frame to the next.
        units: What the head writes.
        title: Above the figure.

    Returns:
        A figure of its own, in no window and in no global list of matplotlib's.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    seconds = len(mel) * HOP_LENGTH / SAMPLE_RATE
    above.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]), cmap="magma")
    above.set_ylabel("mel filter")
    above.set_title(title, loc="left", fontsize=10)
    probs = log_probs.exp().numpy()
    times = (np.arange(len(probs)) + 0.5) * subframe_seconds
    best = probs.argmax(1)
    written = [i for i in range(len(best)) if best[i] != BLANK and (i == 0 or best[i] != best[i - 1])]
    below.fill_between(times, 1 - probs[:, BLANK], step="mid", color="tab:blue", alpha=0.3, linewidth=0)
    for i in written:
        below.text(times[i], probs[i, best[i]], units.decode([best[i]]), ha="center", va="bottom", fontsize=8)
    below.set(ylim=(0, 1.3), xlim=(0, seconds), xlabel="seconds", ylabel="not blank")
    return figure


def reconstruction_figure(original: Tensor, rebuilt: Tensor, *, title: str) -> Figure:
    """Two spectrograms of the same sound, one above the other, in the same colours.

    Args:
        original: (frames, num_mels), from `omni.media.audio.LogMel`.
        rebuilt: The same, as a model made it.
        title: Above the figure.

    Returns:
        A figure of its own, in no window and in no global list of matplotlib's.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    seconds = len(original) * HOP_LENGTH / SAMPLE_RATE
    low, high = float(original.min()), float(original.max())
    for axis, mel, name in zip(axes, (original, rebuilt), ("original", "rebuilt"), strict=True):
        extent = (0, seconds, 0, mel.shape[1])
        axis.imshow(
            mel.T.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=max(high, low + 1)
        )
        axis.set_ylabel(f"{name}: mel filter")
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[1].set_xlabel("seconds")
    return figure
