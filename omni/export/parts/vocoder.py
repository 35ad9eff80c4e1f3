"""The vocoder, as a stream."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.export.parts.codec import random_recordings, streamed
from omni.export.parts.part import Inputs, OnnxPart, Quality, Spoken
from omni.export.speech_graphs import vocoder_graph
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.mel_scale import mel_constants
from omni.media.resampling import resample
from omni.models.vocoder import Vocos
from omni.runtime.engine import Run


@final
class VocoderPart(OnnxPart):
    """`vocoder`: mels to samples."""

    name = "vocoder"
    needs = "a causal vocoder, such as one of the vocoder's stage"
    targets = ("onnx",)
    rows = "speech"
    agreement = 0.9
    quality_loss = 0.02  # of the mean difference of log-mel values

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        if "vocoder" not in checkpoint:
            return "no vocoder"
        part = checkpoint.content["parts"]["vocoder"]
        if part["class_path"] != f"{Vocos.__module__}.{Vocos.__qualname__}":
            return "the vocoder is a class of its own"
        return None if part["init_args"].get("causal", True) else "the vocoder reads future frames (causal is false)"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.vocoder = checkpoint.part("vocoder", Vocos).float()
        self.graph = vocoder_graph(self.vocoder)
        self._log_mel = LogMel(self.vocoder.num_mels)

    def constants(self) -> dict[str, Any]:
        return {
            "mel": {**mel_constants(), "num_mels": self.vocoder.num_mels},
            "sample_rate": self.vocoder.sample_rate,
            "hop_length": self.vocoder.hop_length,
            "delay": self.vocoder.delay,
        }

    def random_items(self) -> Sequence[Spoken]:
        return random_recordings()

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        for item in items:
            yield from streamed(self.module_run(), {"mels": self._mels(item)}, self._start())

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        """Length and level of each waveform."""
        found = []
        for item in items:
            audio = self.audio(run, self._mels(item))
            found.append(f"{len(audio)} samples, {10 * np.log10(np.square(audio).mean() + 1e-12):.1f} dB")
        return found

    def quality(self, run: Run, items: Sequence[Spoken]) -> Quality:
        """Mean difference of log-mel values of a recording and of its waveform from the vocoder."""
        errors = []
        for item in items:
            mels = self._mels(item)
            made = resample(torch.from_numpy(self.audio(run, mels)), self.vocoder.sample_rate, SAMPLE_RATE)
            again = self._log_mel(made).numpy()
            errors.append(float(np.abs(mels[0] - again).mean()))
        value, spread = float(np.mean(errors)), 1.96 * float(np.std(errors)) / len(errors) ** 0.5
        return Quality("loss", value, value - spread, value + spread, len(errors))

    def audio(self, run: Run, mels: np.ndarray) -> np.ndarray:
        """The waveform (samples,) of mels (1, frames, num_mels), at the vocoder's sample rate."""
        samples, _, tail = run({"mels": mels, **self._start()})
        delay = self.vocoder.delay
        return np.concatenate((samples[0], tail[0, :delay]))[delay:]

    def _mels(self, item: Spoken) -> np.ndarray:
        return self._log_mel(item.audio)[None].numpy()

    def _start(self) -> Inputs:
        example = self.graph.example
        return {
            "past": np.zeros_like(example["past"][:, :1].numpy()),
            "tail": np.zeros_like(example["tail"][:1].numpy()),
        }
