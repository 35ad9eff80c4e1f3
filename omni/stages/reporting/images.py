"""Images with their labels or captions, attention maps, and tables of classes."""

from collections.abc import Sequence
from textwrap import shorten
from typing import Any, final

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from omni.batch import ImageBatch
from omni.models.classifier import in_words, probabilities
from omni.stages.reporting.media import MediaWriter
from omni.stages.reporting.reporter import Reporter

_COLUMNS = 4
_MAX_TEXT = 40  # characters below an image
_MAX_NUMBERED = 20  # classes of a confusion matrix with numbers in its cells
_MAX_CLASSES = 100  # classes of a confusion matrix that is shown


@final
class ImageReporter(Reporter):
    """Writes images, attention maps, a table of classes and confusion matrices.

    The tags are `val/images`, `val/attention`, `val/classes` and `val/confusion/ATTRIBUTE`.

    Args:
        shown: Number of images, from the first batch; 0 for none. Table and matrices do not depend on it.
    """

    def __init__(self, shown: int) -> None:
        super().__init__(shown=min(shown, 1))  # an example is a batch
        self.num_images = shown
        self.classes: list[tuple[str, str, int, float]] = []
        self.confusion: dict[str, Tensor] = {}

    def example(self, stage: Any, outputs: Any, batch: ImageBatch) -> ImageBatch:
        """The first images of a batch."""
        fields = {name: value[: self.num_images] for name, value in batch._asdict().items() if value is not None}
        return batch._replace(**fields)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the counts of all ranks, before the stage resets them."""
        stage: Any = pl_module
        if stage.classification is not None:
            with stage.classification.sync_context():
                self.classes, self.confusion = stage.classification.per_class(), stage.classification.confusion()

    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        if self.classes:
            rows = (f"| {n} | {v} | {count} | {share:.1%} |" for n, v, count, share in self.classes)
            table = "\n".join(("| attribute | class | images | correct |", "|---|---|---|---|", *rows))
            writer.add_text(f"{split}/classes", table, stage.global_step)
        for attribute in stage.attributes:
            counts = self.confusion.get(attribute.name)
            if counts is not None and len(counts) <= _MAX_CLASSES:
                figure = confusion_figure(counts.cpu(), attribute.values)
                writer.add_figure(f"{split}/confusion/{attribute.name}", figure, stage.global_step)
        for batch in self.examples:
            with torch.compiler.set_stance("force_eager"):  # this batch size would be compiled
                maps = stage.vision_encoder.attention_maps(batch.images.to(stage.device)).float().cpu()
                labels, predictions = described(stage, batch)
            images = batch.images.float()
            writer.add_figure(f"{split}/images", image_grid(images, labels, predictions), stage.global_step)
            writer.add_figure(f"{split}/attention", attention_figure(images, maps), stage.global_step)


def described(stage: Any, batch: ImageBatch) -> tuple[list[str], list[str]]:
    """Labels and predictions of images, in words: their classes, or else captions and the captions nearest to them."""
    pooled = stage.vision_encoder(batch.images.to(stage.device)).pooled
    if stage.classifier is not None:
        predictions = probabilities(stage.classifier(pooled), stage.attributes)
        sizes = [len(attribute.values) for attribute in stage.attributes]
        names = [attribute.name for attribute in stage.attributes]
        labels = dict(zip(names, batch.labels.split(sizes, dim=1), strict=True))
        return in_words(labels, stage.attributes), in_words(predictions, stage.attributes)
    assert batch.captions is not None
    texts = stage.contrast.embed_texts(stage.read(batch.captions[:, 0].to(stage.device)))
    nearest = stage.contrast.scores(stage.contrast.embed_images(pooled), texts).argmax(1).tolist()
    captions = [stage.tokenizer.decode(text.tolist()) for text in batch.captions[:, 0]]
    return captions, [captions[number] for number in nearest]


def image_grid(images: Tensor, labels: Sequence[str], predictions: Sequence[str]) -> Figure:
    """Images with their predictions; where one differs from the label, both are shown, in red.

    Args:
        images: (images, 3, height, width), pixels from 0 to 1.
        labels: One for each image.
        predictions: One for each image.
    """
    figure, axes = _grid(len(images))
    for axis, image, label, prediction in zip(axes, images, labels, predictions, strict=False):
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        correct, text = label == prediction, shorten(prediction, _MAX_TEXT)
        text = text if correct else f"{text}\nlabel: {shorten(label, _MAX_TEXT)}"
        axis.set_title(text, fontsize=7, color="black" if correct else "tab:red")
    return figure


def attention_figure(images: Tensor, maps: Tensor) -> Figure:
    """Images overlaid with the attention of the CLS token.

    Args:
        images: (images, 3, height, width), pixels from 0 to 1.
        maps: (images, heads, rows, columns), shares of attention; the mean over heads is shown.
    """
    figure, axes = _grid(len(images))
    large = F.interpolate(maps.mean(1, keepdim=True), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    for axis, image, attention in zip(axes, images, large, strict=False):
        axis.imshow(image.mean(0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.imshow(attention.numpy(), cmap="inferno", alpha=0.6)
    return figure


def confusion_figure(counts: Tensor, values: Sequence[str]) -> Figure:
    """A confusion matrix, as shares of each true class (row).

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
    axis.set(xlabel="prediction", ylabel="label")
    if len(values) <= _MAX_NUMBERED:
        for i in ticks:
            for j in ticks:
                color = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=6, color=color)
    return figure


def _grid(number: int) -> tuple[Figure, list[Axes]]:
    rows = -(-number // _COLUMNS)
    figure = Figure(figsize=(2 * _COLUMNS, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.set_axis_off()
    return figure, axes
