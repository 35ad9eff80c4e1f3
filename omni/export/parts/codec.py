"""The speech codec: its encoder and its decoder, each as a stream."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from omni.checkpoints.checkpoint import Checkpoint
from omni.export.graphs import Graph
from omni.export.parts.part import Inputs, OnnxPart, Quality, Spoken
from omni.export.speech_graphs import codec_decoder_graph, codec_encoder_graph
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.mel_scale import mel_constants
from omni.models.codec import Codec
from omni.runtime.engine import Run

_PIECE = 25  # frames of codes that are streamed at once


class _CodecPart(OnnxPart):
    """Abstract: one side of a codec."""

    needs = "a codec of omni's, such as one of the codec's stage"
    targets = ("onnx",)
    rows = "speech"
    agreement = 0.9  # an utterance has hundreds of codes, and a choice between two may hang on rounding

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        if "codec" not in checkpoint:
            return "no codec"
        ours = checkpoint.content["parts"]["codec"]["class_path"] == f"{Codec.__module__}.{Codec.__qualname__}"
        return None if ours else "the codec is a class of its own"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.codec = checkpoint.part("codec", Codec).float()
        self.graph = self.graph_of(self.codec)
        self._log_mel = LogMel(self.codec.num_mels)

    @abstractmethod
    def graph_of(self, codec: Codec) -> Graph:
        """The graph of this side."""

    def constants(self) -> dict[str, Any]:
        codec = self.codec
        return {
            "mel": {**mel_constants(), "num_mels": codec.num_mels},
            "downsampling": codec.downsampling,
            "frame_rate": codec.frame_rate,
            "num_codebooks": codec.num_codebooks,
            "codebook_size": codec.codebook_size,
            "fingerprint": codec.fingerprint,
        }

    def random_items(self) -> Sequence[Spoken]:
        return random_recordings()

    def quality(self, run: Run, items: Sequence[Spoken]) -> Quality | None:
        return None  # of codes alone there is none: see `omni.export.round_trip`

    def mels(self, item: Spoken) -> NDArray[np.float32]:
        """(1, frames, downsampling, num_mels); the last frame is filled with the last mel frame."""
        mel = self._log_mel(item.audio).numpy()
        mel = np.pad(mel, ((0, -len(mel) % self.codec.downsampling), (0, 0)), mode="edge")
        return mel.reshape(1, -1, self.codec.downsampling, self.codec.num_mels)

    def start(self) -> NDArray[np.float32]:
        """The state of a start."""
        return np.zeros_like(self.graph.example["past"][:, :1].numpy())


@final
class CodecEncoderPart(_CodecPart):
    """`codec_encoder`: mels to codes."""

    name = "codec_encoder"

    def graph_of(self, codec: Codec) -> Graph:
        return codec_encoder_graph(codec)

    def modules(self) -> Sequence[nn.Module]:
        codec = self.codec
        return [codec.mel_input, codec.mel_encoder, codec.down, codec.encoder, codec.quantizer.project_in]

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        for item in items:
            yield from streamed(self.module_run(), {"mels": self.mels(item)}, {"past": self.start()})

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        """The codes of each recording."""
        found = []
        for item in items:
            codes = run({"mels": self.mels(item), "past": self.start()})[0]
            found.append(" ".join(map(str, codes.ravel().tolist())))
        return found


@final
class CodecDecoderPart(_CodecPart):
    """`codec_decoder`: codes to mels."""

    name = "codec_decoder"
    quality_loss = 0.01  # of the round trip's WER

    def graph_of(self, codec: Codec) -> Graph:
        return codec_decoder_graph(codec)

    def modules(self) -> Sequence[nn.Module]:
        codec = self.codec
        return [codec.quantizer.project_out, codec.decoder, codec.up, codec.mel_decoder, codec.mel_output]

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        for codes in self._codes(items):
            yield from streamed(self.module_run(), {"codes": codes}, {"past": self.start()})

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        """The codes of each decoded recording, encoded again."""
        found = []
        for codes in self._codes(items):
            mels = torch.from_numpy(run({"codes": codes, "past": self.start()})[0])
            with torch.no_grad():
                found.append(" ".join(map(str, self.codec.encode(mels).flatten().tolist())))
        return found

    def _codes(self, items: Sequence[Spoken]) -> Iterator[NDArray[np.int64]]:
        for item in items:
            with torch.no_grad():
                yield self.codec.encode(torch.from_numpy(self.mels(item)).flatten(1, 2)).numpy()


def streamed(run: Run, whole: Inputs, state: Inputs) -> Iterator[Inputs]:
    """Inputs of a stream in pieces, each with the state that a module returned for the one before.

    Args:
        run: The module; its first output is the result, the others are the next state.
        whole: The input (1, time, ...), by its name.
        state: The state of a start, by its names.
    """
    ((name, values),) = whole.items()
    for start in range(0, values.shape[1], _PIECE):
        inputs = {name: values[:, start : start + _PIECE], **state}
        yield inputs
        state = dict(zip(state, run(inputs)[1:], strict=True))


def random_recordings() -> list[Spoken]:
    """Noise of half a second to four."""
    generator = torch.Generator().manual_seed(0)
    return [Spoken(torch.randn(SAMPLE_RATE * n // 2, generator=generator) * 0.1, "") for n in range(1, 9)]
