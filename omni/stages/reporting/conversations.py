"""Conversations: images and recordings below the question and the answer."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any, NamedTuple, final

from matplotlib.figure import Figure
from torch import Tensor

from omni.batch import ConversationBatch
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, LogMel
from omni.stages.reporting.media import MediaWriter
from omni.stages.reporting.reporter import Reporter

_MAX_MEDIA = 4  # images and recordings that are shown of a conversation
_LINE_WIDTH = 90  # characters
_MAX_TEXT = 8 * _LINE_WIDTH  # characters: a model in a loop fills its context
_LAST_CHARACTER = 0x52F  # the end of Latin, Greek and Cyrillic, which matplotlib's own font covers


class Answers(NamedTuple):
    """Generated answers to a batch of conversations.

    Attributes:
        texts: The answer to each row.
        correct: Whether each is right.
    """

    texts: list[str]
    correct: list[bool]


class _Example(NamedTuple):
    images: list[Tensor]  # (3, height, width) each
    mels: list[Tensor]  # (mel frames, num_mels) each
    title: str
    correct: bool


@final
class ConversationReporter(Reporter):
    """Writes conversations with their media as figures `val/conversation/N`."""

    def example(self, stage: Any, outputs: Answers, batch: ConversationBatch) -> _Example:
        """The first row."""
        images, mels = [], []
        if batch.images is not None:
            images = [batch.images[i].float() for i, row in enumerate(batch.image_rows) if row == 0]
        if batch.mels is not None and batch.mel_lengths is not None:
            mels = [batch.mels[i, : batch.mel_lengths[i]].float() for i, row in enumerate(batch.audio_rows) if row == 0]
            if not stage.data.num_mels:  # waveforms
                log_mel = LogMel(80)
                mels = [log_mel(mel.flatten().cpu()) for mel in mels]
        question = stage.tokenizer.decode(batch.tokens[0, : batch.prompts[0]].tolist())
        title = f"{batch.tasks[0]}: {question}\nanswer: {outputs.texts[0]}\nreference: {batch.answers[0]}"
        return _Example(images, mels, title, outputs.correct[0])

    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        for number, example in enumerate(self.examples):
            figure = conversation_figure(example.images, example.mels, title=example.title, correct=example.correct)
            writer.add_figure(f"{split}/conversation/{number}", figure, stage.global_step)


def conversation_figure(images: Sequence[Tensor], mels: Sequence[Tensor], *, title: str, correct: bool) -> Figure:
    """The media of a conversation side by side, below its text.

    Args:
        images: (3, height, width) each, pixels from 0 to 1.
        mels: (mel frames, num_mels) each.
        title: The question and the answer.
        correct: Whether the answer is right; the title is red if not.

    Returns:
        A figure that is not registered with pyplot.
    """
    images, mels = images[:_MAX_MEDIA], mels[:_MAX_MEDIA]
    figure = Figure(figsize=(9, 3), layout="constrained")
    lines = "\n".join(fill(_printable(line), _LINE_WIDTH) for line in title.split("\n"))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=9, color="black" if correct else "tab:red", parse_math=False)
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


def _printable(line: str) -> str:
    """The line, cut to a few lines, with a question mark for each character that the font lacks."""
    line = line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "..."
    return "".join(one if one.isprintable() and ord(one) <= _LAST_CHARACTER else "?" for one in line)
