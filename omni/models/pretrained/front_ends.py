"""Front ends of pretrained speech encoders: feature extraction and masks; a row does not depend on its batch."""

from abc import ABC, abstractmethod
from math import prod
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.errors import UserError
from omni.layers.mask import length_mask
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE

_LEAST = SAMPLE_RATE // 10  # shortest input of a feature extractor in samples


class SpeechFrontEnd(nn.Module, ABC):
    """Abstract: a model of `transformers` with its feature extraction.

    Attributes:
        model: The model.
        dim: Width of a frame.
        downsampling: Frames of 10 ms per output frame.
        longest: Longest input in frames of 10 ms; None for no limit.
    """

    model: Any
    dim: int
    downsampling: int
    longest: int | None = None

    def preprocess(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Preprocesses whole recordings (batch, frames, 160), before they are split into windows."""
        return audio

    @abstractmethod
    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Encodes recordings.

        Args:
            audio: (batch, frames, 160), from `preprocess`; zeros after each row's end.
            lengths: (batch,): frames of each row, 1 or more.

        Returns:
            (batch, frames / downsampling, dim), rounded up; undefined after each row's end.
        """


@final
class WhisperFrontEnd(SpeechFrontEnd):
    """Whisper's encoder (arXiv:2212.04356), without the padding to 30 s that its own code requires.

    Args:
        encoder: Whisper's encoder.
        extractor: Its feature extractor, for the mel filters.
    """

    def __init__(self, encoder: Any, extractor: Any) -> None:
        super().__init__()
        self.model = encoder
        encoder.layerdrop = 0.0
        self.dim = encoder.config.d_model
        if extractor.hop_length != HOP_LENGTH:
            raise UserError(
                f"the feature extractor has a hop of {extractor.hop_length} samples: omni supports {HOP_LENGTH}"
            )
        self.n_fft = extractor.n_fft
        self.filters: Tensor
        self.register_buffer("filters", torch.as_tensor(extractor.mel_filters).float(), persistent=False)
        self.downsampling = encoder.conv1.stride[0] * encoder.conv2.stride[0]
        self.longest = encoder.embed_positions.num_embeddings * self.downsampling

    def features(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel spectrograms, equal to those of `WhisperFeatureExtractor`: (batch, frames, mels)."""
        samples = F.pad(audio.flatten(1), (0, self.n_fft))  # silence after each row's end, in a batch or alone
        with torch.autocast(samples.device.type, enabled=False):
            window = torch.hann_window(self.n_fft, device=samples.device)
            spectrum = torch.stft(samples.float(), self.n_fft, HOP_LENGTH, window=window, return_complex=True).abs()
            mel = (spectrum.square()[..., : audio.shape[1]].mT @ self.filters).clamp(min=1e-10).log10()
        inside = length_mask(lengths, mel.shape[1])[..., None]
        largest = mel.where(inside, -10.0).amax((1, 2), keepdim=True)
        return (torch.maximum(mel, largest - 8) + 4) / 4 * inside

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """See `SpeechFrontEnd`."""
        encoder = self.model
        x = self.features(audio, lengths).to(encoder.conv1.weight.dtype).mT
        for conv in (encoder.conv1, encoder.conv2):
            x = F.gelu(conv(x * length_mask(lengths, x.shape[2])[:, None]))
            lengths = -(-lengths // conv.stride[0])
        x = x.mT + encoder.embed_positions.weight[: x.shape[2]]
        x = F.dropout(x, encoder.dropout, self.training)
        hidden = torch.zeros((), dtype=x.dtype, device=x.device)
        mask = hidden.where(length_mask(lengths, x.shape[1]), torch.finfo(x.dtype).min)[:, None, None]
        for layer in encoder.layers:
            x = layer(x, mask)
        return encoder.layer_norm(x)


class _RowNorm(nn.GroupNorm):
    """A norm over the time of each channel that ignores padding.

    The first layer of the base sizes of wav2vec 2.0 and HuBERT has such a norm; theirs includes padding, so that a
    row's features depend on its batch.
    """

    lengths: Tensor  # of the current call; set by `ConvFrontEnd`

    def forward(self, input: Tensor) -> Tensor:
        inside = length_mask(self.lengths, input.shape[2])[:, None]
        count = self.lengths[:, None, None]
        x = input.float()
        mean = (x * inside).sum(2, keepdim=True) / count
        variance = ((x - mean).square() * inside).sum(2, keepdim=True) / count
        normal = (x - mean) * (variance + self.eps).rsqrt()
        return (normal * self.weight[:, None] + self.bias[:, None]).to(input.dtype)


@final
class ConvFrontEnd(SpeechFrontEnd):
    """Models with convolutions over waveforms: wav2vec 2.0 (arXiv:2006.11477), HuBERT, WavLM and similar ones.

    Args:
        model: A model with a `feature_extractor`, and kernels and strides in its configuration.
        extractor: Its feature extractor, which says whether recordings are normalised.
    """

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__()
        self.model = model
        config = model.config
        config.apply_spec_augment, config.layerdrop = False, 0.0  # their random numbers are not restored on resuming
        self.dim, self.normalized = config.hidden_size, bool(getattr(extractor, "do_normalize", False))
        stride = prod(config.conv_stride)
        if stride % HOP_LENGTH:
            raise UserError(f"the encoder has a stride of {stride} samples: omni supports multiples of {HOP_LENGTH}")
        self.downsampling = stride // HOP_LENGTH
        self.reach, jump = 1, 1  # receptive field of a frame in samples
        for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
            self.reach, jump = self.reach + (kernel - 1) * jump, jump * step
        self.first = config.conv_kernel[0], config.conv_stride[0]
        self.norms = []
        for module in model.feature_extractor.modules():
            if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels:
                module.__class__ = _RowNorm
                self.norms.append(module)

    def preprocess(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Normalises each recording to mean 0 and variance 1, if the model was trained so."""
        if not self.normalized:
            return audio
        inside = length_mask(lengths, audio.shape[1])[..., None]
        count = (lengths * HOP_LENGTH)[:, None, None]
        mean = audio.sum((1, 2), keepdim=True) / count
        variance = ((audio - mean).square() * inside).sum((1, 2), keepdim=True) / count
        return (audio - mean) * (variance + 1e-7).rsqrt() * inside

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """See `SpeechFrontEnd`."""
        stride = self.downsampling * HOP_LENGTH
        frames = -(-lengths // self.downsampling)
        most = -(-audio.shape[1] // self.downsampling)
        # The receptive field of all frames: the last one reaches beyond the end.
        ends = frames * stride + self.reach - stride
        samples = F.pad(audio.flatten(1), (0, most * stride + self.reach - stride - audio.shape[1] * HOP_LENGTH))
        for norm in self.norms:
            norm.lengths = (ends - self.first[0]) // self.first[1] + 1
        dtype = next(self.model.parameters()).dtype
        mask = length_mask(ends, samples.shape[1]).long()
        return self.model(samples.to(dtype), attention_mask=mask).last_hidden_state


@final
class ExtractorFrontEnd(SpeechFrontEnd):
    """Any other model: its feature extractor runs on the host, and its frame rate is measured.

    Args:
        model: The model.
        extractor: Its feature extractor.
    """

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__()
        self.model, self.extractor = model, extractor
        with torch.no_grad():
            self.model.eval()
            short, long = (self._encode([torch.zeros(seconds * SAMPLE_RATE)])[0] for seconds in (2, 4))
            self.model.train()
        self.dim = short.shape[2]
        self.downsampling = round(200 / (long.shape[1] - short.shape[1]))

    def _encode(self, recordings: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Hidden states, and the number of frames of each row without padding."""
        options = {"sampling_rate": SAMPLE_RATE, "return_tensors": "pt", "padding": True}
        arrays = [recording.cpu().numpy() for recording in recordings]
        weight = next(self.model.parameters())
        inputs = self.extractor(arrays, return_attention_mask=True, **options).to(weight.device)
        for name, value in inputs.items():
            inputs[name] = value.to(weight.dtype) if value.is_floating_point() else value
        hidden = self.model(**inputs).last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None and len(recordings) > 1:
            raise UserError(
                "its feature extractor returns no attention mask: batches of several recordings are not supported"
            )
        shares = torch.ones(len(hidden), device=hidden.device) if mask is None else mask.float().mean(1)
        return hidden, (shares * hidden.shape[1]).round().long().clamp(min=1)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """See `SpeechFrontEnd`."""
        rows = [row[:length].flatten() for row, length in zip(audio, lengths.tolist(), strict=True)]
        rows = [F.pad(row, (0, max(0, _LEAST - len(row)))) for row in rows]
        hidden, counts = self._encode(rows)
        # The last samples of a recording may be too few for a frame: the previous one is repeated.
        index = torch.arange(-(-audio.shape[1] // self.downsampling), device=hidden.device)
        index = index.minimum(counts[:, None] - 1)
        return hidden.gather(1, index[..., None].expand(-1, -1, self.dim))
