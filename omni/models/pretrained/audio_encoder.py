"""A pretrained speech encoder, in place of our audio encoder."""

from typing import Any

import torch
from torch import Tensor

from omni.layers.mask import length_mask
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.models.audio_encoder import AudioFeatures
from omni.models.interfaces import SpeechEncoder
from omni.models.pretrained.front_ends import ConvFrontEnd, ExtractorFrontEnd, SpeechFrontEnd, WhisperFrontEnd
from omni.models.pretrained.loading import PretrainedPart, checkpoint_layers, load_other


class PretrainedAudioEncoder(PretrainedPart, SpeechEncoder):
    """The encoder of Whisper, HuBERT, wav2vec 2.0, or any speech model of `transformers` with hidden states.

    It has the interface of `omni.models.audio_encoder.AudioEncoder`, but its input are waveforms in frames of 10 ms,
    from which it computes its own features, in the model's dtype and on its device. Recordings are not padded to 30 s,
    padding of a batch is masked, and recordings longer than `window` are encoded in windows.

    Args:
        window: Longest input of the model in seconds; longer recordings are split.
        gradient_checkpointing: Whether activations of layers are recomputed in the backward pass.
        kwargs: See `PretrainedPart`; a folder also holds the feature extractor.
    """

    num_mels = 0  # its input are waveforms

    def __init__(self, *, window: float = 30.0, gradient_checkpointing: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if window <= 0:
            raise ValueError(f"window must be over 0 s, not {window}")
        extractor = load_other("AutoFeatureExtractor", self.source, self.revision)
        rate = getattr(extractor, "sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise ValueError(
                f"source {self.source}: its sampling rate is {rate:,} Hz and omni's {SAMPLE_RATE:,} Hz: "
                "use another model"
            )
        model = self.load("AutoModel")
        self.front_end: SpeechFrontEnd = _front_end(model, extractor)
        self._record_fingerprint(self.front_end)
        self._omit_pretrained()
        if gradient_checkpointing:
            checkpoint_layers(self.front_end.model, self.source)
        self.dim, self.downsampling = self.front_end.dim, self.front_end.downsampling
        frames = min(round(window * SAMPLE_RATE / HOP_LENGTH), self.front_end.longest or 10**9)
        self.window = max(1, frames // self.downsampling) * self.downsampling

    def forward(self, mels: Tensor, lengths: Tensor) -> AudioFeatures:
        """Encodes recordings.

        Args:
            mels: (batch, frames, 160): waveforms at 16 kHz, 10 ms in each frame, undefined after each row's end.
            lengths: (batch,), int64: frames of each row, 1 or more.

        Returns:
            Features for the Thinker.
        """
        inside = length_mask(lengths, mels.shape[1])
        audio = self.front_end.preprocess(mels.float() * inside[..., None], lengths)
        if mels.shape[1] <= self.window:
            return AudioFeatures(self.front_end(audio, lengths), self.num_frames(lengths))
        windows = -(-mels.shape[1] // self.window)
        audio = torch.nn.functional.pad(audio, (0, 0, 0, windows * self.window - audio.shape[1]))
        starts = torch.arange(windows, device=mels.device) * self.window
        # A window after a row's end counts as one frame, which is not used.
        window_lengths = (lengths[:, None] - starts).clamp(1, self.window)
        hidden = self.front_end(audio.reshape(-1, self.window, audio.shape[2]), window_lengths.flatten())
        hidden = hidden.unflatten(0, (-1, windows)).flatten(1, 2)
        return AudioFeatures(hidden[:, : self.num_frames(mels.shape[1])], self.num_frames(lengths))


def _front_end(model: Any, extractor: Any) -> SpeechFrontEnd:
    encoder = getattr(model, "encoder", None)
    if hasattr(encoder, "conv2") and hasattr(encoder, "embed_positions") and hasattr(extractor, "mel_filters"):
        return WhisperFrontEnd(encoder, extractor)
    if hasattr(model, "feature_extractor") and hasattr(model.config, "conv_stride"):
        return ConvFrontEnd(model, extractor)
    return ExtractorFrontEnd(model, extractor)
