"""Codecs to compare: omni's, and EnCodec and Mimi of transformers at the sizes of their published models."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from omni.bench.language_models import import_transformers
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.models.speech_codec import SpeechCodec
from omni.models.speech_vocoder import SpeechVocoder


class BenchmarkCodec(Protocol):
    """Audio to codes and back.

    Attributes:
        model: The module with the parameters.
        sample_rate: Of the audio, in Hz.
    """

    model: nn.Module
    sample_rate: int

    def encode(self, audio: Tensor) -> Any:
        """Maps (batch, samples) to codes."""
        ...

    def decode(self, codes: Any) -> Tensor:
        """Maps codes to audio, (batch, samples)."""
        ...


class OmniCodec:
    """The codec between a log-mel spectrogram and a vocoder.

    Args:
        codec: The codec.
        vocoder: The vocoder.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, codec: Any, vocoder: Any) -> None:
        self.model: nn.Module = codec
        self.codec: SpeechCodec = codec
        self.vocoder: SpeechVocoder = vocoder
        self.log_mel = LogMel(codec.num_mels).to(next(codec.parameters()).device)

    def encode(self, audio: Tensor) -> Tensor:
        """See `BenchmarkCodec`."""
        mels = self.log_mel(audio)
        return self.codec.encode(mels, torch.full((len(mels),), mels.shape[1], device=mels.device))

    def decode(self, codes: Tensor) -> Tensor:
        """See `BenchmarkCodec`."""
        return self.vocoder(self.codec.decode(codes))


class _HuggingFaceCodec:
    """An untrained codec of transformers, at the size of its published model.

    Args:
        name: Prefix of its classes in transformers.
    """

    def __init__(self, name: str) -> None:
        transformers = import_transformers()
        config = getattr(transformers, f"{name}Config")()
        self.model: Any = getattr(transformers, f"{name}Model")(config).eval()
        self.sample_rate: int = config.sampling_rate


class EnCodec(_HuggingFaceCodec):
    """Meta's EnCodec for 24 kHz (arXiv:2210.13438) at its lowest bandwidth: 2 codebooks at 75 Hz."""

    def __init__(self) -> None:
        super().__init__("Encodec")

    def encode(self, audio: Tensor) -> Any:
        """See `BenchmarkCodec`."""
        return self.model.encode(audio[:, None])

    def decode(self, codes: Any) -> Tensor:
        """See `BenchmarkCodec`."""
        return self.model.decode(codes.audio_codes, codes.audio_scales).audio_values[:, 0]


class Mimi(_HuggingFaceCodec):
    """Kyutai's Mimi (arXiv:2410.00037) with the 8 codebooks at 12.5 Hz that Moshi uses."""

    def __init__(self) -> None:
        super().__init__("Mimi")

    def encode(self, audio: Tensor) -> Any:
        """See `BenchmarkCodec`."""
        return self.model.encode(audio[:, None], num_quantizers=8).audio_codes

    def decode(self, codes: Any) -> Tensor:
        """See `BenchmarkCodec`."""
        return self.model.decode(codes).audio_values[:, 0]
