"""Transcripts of speech, with spectrograms and the probabilities of the units."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from lightning import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from omni.batch import SpeechBatch
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim
from omni.models.audio_encoder import Emissions
from omni.stages.reporting.media import MediaWriter
from omni.stages.reporting.reporter import Reporter
from omni.text.ctc_vocabulary import BLANK, CTCVocabulary


class Recognition(NamedTuple):
    """A batch of speech as a recogniser reads it.

    Attributes:
        emissions: Log-probabilities of the units.
        references: The text of each row.
        hypotheses: The transcript of each row.
    """

    emissions: Emissions
    references: list[str]
    hypotheses: list[str]


class Transcript(NamedTuple):
    """One row of speech and its transcript.

    Attributes:
        mel: (mel frames, num_mels).
        log_probs: (sub-frames, vocab_size).
        reference: The text.
        hypothesis: The transcript.
    """

    mel: Tensor
    log_probs: Tensor
    reference: str
    hypothesis: str


@final
class TranscriptReporter(Reporter):
    """Writes `val/transcripts`, a table, and `val/spectrogram/N`, a figure of each row in it."""

    def example(self, stage: Any, outputs: Recognition, batch: SpeechBatch) -> Transcript:
        """The first row."""
        emissions, references, hypotheses = outputs
        mel, log_probs = batch.mels[0, : batch.mel_lengths[0]], emissions.log_probs[0, : emissions.lengths[0]]
        return Transcript(mel, log_probs, references[0], hypotheses[0])

    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        if not self.examples:
            return
        for number, transcript in enumerate(self.examples):
            writer.add_figure(f"{split}/spectrogram/{number}", _figure(transcript, stage), stage.global_step)
        writer.add_text(f"{split}/transcripts", _table(self.examples), stage.global_step)


@final
class SpeechReporter(Reporter):
    """Writes what a Talker says and a recogniser transcribes.

    `val/spoken` is a table of all sentences; `val/spoken/N` are a figure and the audio, by Griffin–Lim, of some.

    Args:
        shown: Number of sentences with figure and audio.
    """

    def __init__(self, shown: int) -> None:
        super().__init__(shown)
        self.griffin_lim: GriffinLim | None = None  # made once, when it is needed

    def example(self, stage: Any, outputs: Any, batch: Any) -> None:
        """None: the sentences are those of `stage.transcripts`."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(trainer, pl_module, "test")

    def write(self, writer: MediaWriter, stage: Any, split: str) -> None:
        transcripts: Sequence[Transcript] = stage.transcripts
        if not transcripts:
            return
        self.griffin_lim = self.griffin_lim or GriffinLim(stage.codec.num_mels)
        writer.add_text(f"{split}/spoken", _table(transcripts), stage.global_step)
        every = max(1, len(transcripts) // max(1, self.shown))  # they are sorted by length: short and long ones
        for number, transcript in enumerate(transcripts[::every][: self.shown]):
            writer.add_figure(f"{split}/spoken/{number}", _figure(transcript, stage), stage.global_step)
            audio = self.griffin_lim(transcript.mel[None])[0].clamp(-1, 1)
            writer.add_audio(f"{split}/spoken/{number}", audio, stage.global_step)


def _table(transcripts: Sequence[Transcript]) -> str:
    rows = [f"| {transcript.reference} | {transcript.hypothesis} |" for transcript in transcripts]
    return "\n".join(["| reference | transcript |", "| --- | --- |", *rows])


def _figure(transcript: Transcript, stage: Any) -> Figure:
    return spectrogram_figure(
        transcript.mel,
        transcript.log_probs,
        subframe_seconds=stage.audio_encoder.subframe_seconds,
        units=stage.units,
        title=f"reference: {transcript.reference}\ntranscript: {transcript.hypothesis}",
    )


def spectrogram_figure(
    mel: Tensor, log_probs: Tensor, *, subframe_seconds: float, units: CTCVocabulary, title: str
) -> Figure:
    """A spectrogram above the probability of a unit other than blank, with the likeliest units at their times.

    Args:
        mel: (frames, num_mels), from `omni.media.audio.LogMel`.
        log_probs: (sub-frames, vocab_size).
        subframe_seconds: Seconds per sub-frame.
        units: The vocabulary of the CTC head.
        title: Title of the figure.

    Returns:
        A figure that is not registered with pyplot.
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
    starts = [i for i in range(len(best)) if best[i] != BLANK and (i == 0 or best[i] != best[i - 1])]
    below.fill_between(times, 1 - probs[:, BLANK], step="mid", color="tab:blue", alpha=0.3, linewidth=0)
    for i in starts:
        below.text(times[i], probs[i, best[i]], units.decode([best[i]]), ha="center", va="bottom", fontsize=8)
    below.set(ylim=(0, 1.3), xlim=(0, seconds), xlabel="seconds", ylabel="not blank")
    return figure
