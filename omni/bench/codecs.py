"""Whose codecs race: omni's, and EnCodec and Mimi as Hugging Face has them, at the sizes of their published models."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from omni.bench.models import import_transformers
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.models.speech_codec import SpeechCodec
from omni.models.speech_vocoder import SpeechVocoder


class BenchmarkCodec(Protocol):
    """Sound to codes and back.

    Attributes:
        name: In tables.
        model: What has the parameters.
        sample_rate: Of its sound, in Hz.
    """

    name: str
    model: nn.Module
    sample_rate: int

    def encode(self, audio: Tensor) -> Any:
        """Maps (batch, samples) to codes."""
        ...

    def decode(self, codes: Any) -> Tensor:
        """Maps codes to sound, (batch, samples)."""
        ...


class Ours:
    """The codec between a log-mel spectrogram and a vocoder.

    Args:
        codec: The codec.
        vocoder: The vocoder.
    """

    name, sample_rate = "omni", SAMPLE_RATE

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


class EnCodec:
    """Meta's EnCodec for 24 kHz (arXiv:2210.13438), untrained, at its lowest bandwidth: 2 codebooks at 75 Hz."""

    name = "EnCodec"

    def __init__(self) -> None:
        transformers = import_transformers()
        config = transformers.EncodecConfig()
        self.model: Any = transformers.EncodecModel(config).eval()
        self.sample_rate: int = config.sampling_rate

    def encode(self, audio: Tensor) -> Any:
        """See `BenchmarkCodec`."""
        return self.model.encode(audio[:, None])

    def decode(self, codes: Any) -> Tensor:
        """See `BenchmarkCodec`."""
        return self.model.decode(codes.audio_codes, codes.audio_scales).audio_values[:, 0]


class Mimi:
    """Kyutai's Mimi (arXiv:2410.00037), untrained, with the 8 codebooks at 12.5 Hz that Moshi speaks."""

    name = "Mimi"

    def __init__(self) -> None:
        transformers = import_transformers()
        config = transformers.MimiConfig()
        self.model: Any = transformers.MimiModel(config).eval()
        self.sample_rate: int = config.sampling_rate

    def encode(self, audio: Tensor) -> Any:
        """See `BenchmarkCodec`."""
        return self.model.encode(audio[:, None], num_quantizers=8).audio_codes

    def decode(self, codes: Any) -> Tensor:
        """See `BenchmarkCodec`."""
        return self.model.decode(codes).audio_values[:, 0]
