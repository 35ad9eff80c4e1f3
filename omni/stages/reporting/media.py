"""Figures, audio and text for the loggers of a run, one adapter for each class of logger."""

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, final

from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from omni.media.audio import SAMPLE_RATE, write_audio


class MediaWriter(ABC):
    """Writes figures, audio and text.

    Tags are those of TensorBoard, such as `val/spectrogram/0`; steps are optimizer steps.
    """

    @abstractmethod
    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        """Writes a figure."""

    @abstractmethod
    def add_audio(self, tag: str, audio: Tensor, step: int, *, sample_rate: int = SAMPLE_RATE) -> None:
        """Writes a waveform (samples,), whose rate is in Hz."""

    @abstractmethod
    def add_text(self, tag: str, text: str, step: int) -> None:
        """Writes Markdown."""


@final
class TensorBoardMedia(MediaWriter):
    """Writes to TensorBoard's event files."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.writer = logger.experiment

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        self.writer.add_figure(tag, figure, step)

    def add_audio(self, tag: str, audio: Tensor, step: int, *, sample_rate: int = SAMPLE_RATE) -> None:
        self.writer.add_audio(tag, audio[None], step, sample_rate)

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.writer.add_text(tag, text, step)


@final
class WandbMedia(MediaWriter):
    """Writes `wandb.Image`, `wandb.Audio`, and text as a table of one cell."""

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        self.logger.log_image(tag, [_image(figure)], step=step)

    def add_audio(self, tag: str, audio: Tensor, step: int, *, sample_rate: int = SAMPLE_RATE) -> None:
        self.logger.log_audio(tag, [audio.cpu().numpy()], step=step, sample_rate=[sample_rate])

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.logger.log_text(tag, columns=["text"], data=[[text]], step=step)


@final
class MLFlowMedia(MediaWriter):
    """Writes artifacts of the run: `val/spectrogram/0/step-000100.png`, and `.wav` and `.md` likewise."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self.client, self.run_id = logger.experiment, logger.run_id

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        self.client.log_figure(self.run_id, figure, _path(tag, step, "png"))

    def add_audio(self, tag: str, audio: Tensor, step: int, *, sample_rate: int = SAMPLE_RATE) -> None:
        artifact = Path(_path(tag, step, "wav"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, artifact.name)
            write_audio(file, audio.cpu(), sample_rate=sample_rate)
            self.client.log_artifact(self.run_id, str(file), artifact.parent.as_posix())

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.client.log_text(self.run_id, text, _path(tag, step, "md"))


@final
class AllMedia(MediaWriter):
    """Writes to several writers.

    Args:
        writers: One for each logger that takes media.
    """

    def __init__(self, writers: Sequence[MediaWriter]) -> None:
        self.writers = writers

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        for writer in self.writers:
            writer.add_figure(tag, figure, step)

    def add_audio(self, tag: str, audio: Tensor, step: int, *, sample_rate: int = SAMPLE_RATE) -> None:
        for writer in self.writers:
            writer.add_audio(tag, audio, step, sample_rate=sample_rate)

    def add_text(self, tag: str, text: str, step: int) -> None:
        for writer in self.writers:
            writer.add_text(tag, text, step)


ADAPTERS: Mapping[type[Logger], type[Any]] = {
    TensorBoardLogger: TensorBoardMedia,
    WandbLogger: WandbMedia,
    MLFlowLogger: MLFlowMedia,
}
_reported: set[type[Logger]] = set()  # classes for which the message below was printed


def media_writer(trainer: Trainer) -> MediaWriter | None:
    """The writer for all loggers of a trainer that take media; None on other ranks than 0 and without such a logger.

    A logger without an adapter gets scalars only, which is printed once.
    """
    if not trainer.is_global_zero:
        return None
    writers = []
    for logger in trainer.loggers:
        adapter = next((adapter for kind, adapter in ADAPTERS.items() if isinstance(logger, kind)), None)
        if adapter is not None:
            writers.append(adapter(logger))
        elif type(logger) not in _reported:
            _reported.add(type(logger))
            names = ", ".join(kind.__name__ for kind in ADAPTERS)
            rank_zero_info(f"{type(logger).__name__} gets scalars only; figures, audio and text need {names}")
    return AllMedia(writers) if writers else None


def _image(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _path(tag: str, step: int, suffix: str) -> str:
    """The path of an artifact, without characters that MLflow refuses."""
    folder = re.sub(r"[^\w/. -]", "_", tag)
    return f"{folder}/step-{step:06}.{suffix}"
