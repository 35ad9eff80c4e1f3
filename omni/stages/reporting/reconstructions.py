"""Spectrograms and sounds beside what a model makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

from matplotlib.figure import Figure
from torch import Tensor

from omni.batch import SpeechBatch
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim
from omni.media.mel_scale import samples_of
from omni.stages.reporting.media import MediaWriter
from omni.stages.reporting.reporter import Reporter


class Reconstructed(NamedTuple):
    """What a model makes of a batch of speech.

    Attributes:
        rebuilt: (batch, frames, num_mels), which is shown below the original.
        mels: Spectrograms of the same shape that are played by Griffin–Lim, by tag.
        audio: Waveforms (batch, samples) that are played as they are, by tag.
        texts: Texts of each row that stand above the figure, by name.
        sample_rate: Of `audio` in Hz.
    """

    rebuilt: Tensor
    mels: Mapping[str, Tensor]
    audio: Mapping[str, Tensor]
    texts: Mapping[str, Sequence[str]]
    sample_rate: int = SAMPLE_RATE


class _Example(NamedTuple):
    original: Tensor  # (frames, num_mels)
    rebuilt: Tensor
    mels: dict[str, Tensor]
    audio: dict[str, Tensor]  # (samples,) each
    title: str
    sample_rate: int


@final
class ReconstructionReporter(Reporter):
    """Writes pairs of spectrograms as `val/TAG/N`, and the sounds of a `Reconstructed` as `val/NAME/N`.

    Args:
        shown: Number of utterances.
        num_mels: Mel filters.
        tag: Of the figures.
    """

    def __init__(self, shown: int, num_mels: int, *, tag: str) -> None:
        super().__init__(shown)
        self.griffin_lim, self.tag = GriffinLim(num_mels), tag

    def example(self, stage: Any, outputs: Reconstructed | None, batch: SpeechBatch) -> _Example | None:
        """The first row."""
        if outputs is None:
            return None
        frames = int(batch.mel_lengths[0])
        lines = [f"row {int(batch.rows[0])}", *(f"{name}: {texts[0]}" for name, texts in outputs.texts.items())]
        samples = frames * samples_of(HOP_LENGTH, outputs.sample_rate)
        return _Example(
            batch.mels[0, :frames],
            outputs.rebuilt[0, :frames],
            {name: mels[0, :frames] for name, mels in outputs.mels.items()},
            {name: audio[0, :samples].float() for name, audio in outputs.audio.items()},
            "\n".join(lines),
            outputs.sample_rate,
        )

    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        for number, example in enumerate(self.examples):
            figure = reconstruction_figure(example.original, example.rebuilt, title=example.title)
            writer.add_figure(f"{split}/{self.tag}/{number}", figure, stage.global_step)
            for name, mel in example.mels.items():
                writer.add_audio(f"{split}/{name}/{number}", self.griffin_lim(mel[None])[0], stage.global_step)
            for name, audio in example.audio.items():
                tag, rate = f"{split}/{name}/{number}", example.sample_rate
                writer.add_audio(tag, audio, stage.global_step, sample_rate=rate)


def reconstruction_figure(original: Tensor, rebuilt: Tensor, *, title: str) -> Figure:
    """Two spectrograms of the same sound, one above the other, in the same colours.

    Args:
        original: (frames, num_mels), from `omni.media.audio.LogMel`.
        rebuilt: The same, as a model made it.
        title: Title of the figure.

    Returns:
        A figure that is not registered with pyplot.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    low, high = float(original.min()), float(original.max())
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": low}
    for axis, mel, name in zip(axes, (original, rebuilt), ("original", "rebuilt"), strict=True):
        extent = (0, len(original) * HOP_LENGTH / SAMPLE_RATE, 0, mel.shape[1])
        axis.imshow(mel.T.numpy(), extent=extent, vmax=max(high, low + 1), **options)
        axis.set_ylabel(f"{name}: mel filter")
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[1].set_xlabel("seconds")
    return figure
