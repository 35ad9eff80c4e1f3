"""The recogniser of stage B: an audio encoder with its CTC head."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from omni.checkpoints.checkpoint import Checkpoint
from omni.evaluation.word_errors import Row, bootstrap, count_errors, interval
from omni.export.graphs import recognizer_graph
from omni.export.parts.part import Inputs, OnnxPart, Quality, Spoken
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.mel_scale import SILENCE, mel_constants
from omni.models.audio_encoder import AudioEncoder
from omni.runtime.ctc import greedy
from omni.runtime.engine import Run

_BATCH = 4  # rows of different lengths, padded


@final
class RecognizerPart(OnnxPart):
    """`recognizer`: mels to log-probabilities of characters or pieces."""

    name = "recognizer"
    needs = "an audio encoder with its CTC vocabulary, such as one of stage B"
    rows = "speech"
    quality_loss = 0.003  # of WER

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        if "audio_encoder" not in checkpoint:
            return "no audio encoder"
        if not checkpoint.content["parts"]["audio_encoder"]["class_path"].endswith(".AudioEncoder"):
            return "the audio encoder is a pretrained one of another architecture"
        has_units = bool(checkpoint.content.get("units")) or "normalization" in checkpoint.content["tokenizer"]
        return None if has_units else "the audio encoder has no CTC vocabulary: export the checkpoint of stage B"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.encoder = checkpoint.part("audio_encoder", AudioEncoder).float()
        self.vocabulary = self.units = checkpoint.ctc_vocabulary
        self.graph = recognizer_graph(self.encoder)
        self._log_mel = LogMel(self.encoder.num_mels)

    def constants(self) -> dict[str, Any]:
        encoder = self.encoder
        return {
            "mel": {**mel_constants(), "num_mels": encoder.num_mels, "silence": SILENCE},
            "downsampling": encoder.downsampling,
            "subframes": encoder.subframes,
            "subframe_seconds": encoder.subframe_seconds,
        }

    def random_items(self) -> Sequence[Spoken]:
        generator = torch.Generator().manual_seed(0)
        return [Spoken(torch.randn(SAMPLE_RATE * n // 2, generator=generator) * 0.1, "") for n in range(1, 9)]

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        for start in range(0, len(items), _BATCH):
            mels = [self._log_mel(item.audio) for item in items[start : start + _BATCH]]
            padded = pad_sequence(mels, batch_first=True, padding_value=SILENCE)
            yield {"mels": padded.numpy(), "lengths": np.array([len(mel) for mel in mels])}

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        found = []
        for inputs in self.inputs(items):
            log_probs, lengths = run(inputs)
            found += [self.units.decode(greedy(row[:length])) for row, length in zip(log_probs, lengths, strict=True)]
        return found

    def quality(self, run: Run, items: Sequence[Spoken]) -> Quality | None:
        pairs = zip(items, self.results(run, items), strict=True)
        rows = [Row("", None, self.units.normalize(item.text), self.units.normalize(text)) for item, text in pairs]
        rows = [row for row in rows if row.reference]
        if not rows:
            return None
        low, high = interval(bootstrap([rows])[:, 0])
        return Quality("wer", count_errors(rows).wer, low, high, len(rows))
