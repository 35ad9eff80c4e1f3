"""A speech encoder that was trained elsewhere, in the place of our audio encoder."""

from typing import Any

import torch
from torch import Tensor

from omni.layers.mask import length_mask
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE
from omni.models.audio_encoder import AudioFeatures
from omni.models.interfaces import SpeechEncoder
from omni.models.pretrained.front_ends import ConvFrontEnd, ExtractorFrontEnd, SpeechFrontEnd, WhisperFrontEnd
from omni.models.pretrained.loading import Precision, PretrainedPart, checkpoint_layers, load, load_other


class PretrainedAudioEncoder(PretrainedPart, SpeechEncoder):
    """The encoder of Whisper, HuBERT, wav2vec 2.0, or any speech model of `transformers` that gives hidden states.

    With the interface of `omni.models.audio_encoder.AudioEncoder`, save that it hears waveforms, cut into frames of 10
    ms, and makes its own features of them, in the model's precision and on its device. Recordings are as long as they
    are: none is filled up to 30 s, what a batch adds behind a row's end is masked, and what is longer than `window` is
    heard in pieces, to its end.

    Args:
        source: Name on the Hub, or a folder that `save_pretrained` wrote, with its feature extractor.
        revision: Commit, branch or tag on the Hub.
        dtype: Of the weights: `float32` where they are trained.
        window: Seconds heard at once; longer recordings in pieces of so many.
        gradient_checkpointing: Whether layers are computed again in the backward pass instead of kept.
    """

    num_mels = 0  # it hears waveforms

    def __init__(
        self,
        *,
        source: str,
        revision: str | None = None,
        dtype: Precision = "float32",
        window: float = 30.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(source, revision, dtype)
        if window <= 0:
            raise ValueError(f"window must be over 0 s, not {window}")
        extractor = load_other("AutoFeatureExtractor", source, revision)
        rate = getattr(extractor, "sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise ValueError(f"source {source}: hears {rate:,} Hz, and omni's audio is {SAMPLE_RATE:,} Hz: use another")
        model = load("AutoModel", source, revision, dtype, attn_implementation="sdpa")
        self.ear: SpeechFrontEnd = _ear(model, extractor)
        self._borrow(self.ear)
        self._lend()
        if gradient_checkpointing:
            checkpoint_layers(self.ear.model, source)
        self.dim, self.downsampling = self.ear.dim, self.ear.downsampling
        frames = min(round(window * SAMPLE_RATE / HOP_LENGTH), self.ear.longest or 10**9)
        self.window = max(1, frames // self.downsampling) * self.downsampling

    def forward(self, mels: Tensor, lengths: Tensor) -> AudioFeatures:
        """Hears.

        Args:
            mels: (batch, frames, 160): waveforms at 16 kHz, 10 ms in each frame, anything behind each row's end.
            lengths: (batch,), int64: frames of each row, 1 or more.

        Returns:
            Features for the Thinker.
        """
        inside = length_mask(lengths, mels.shape[1])
        sound = self.ear.prepared(mels.float() * inside[..., None], lengths)
        if mels.shape[1] <= self.window:
            return AudioFeatures(self.ear(sound, lengths), self.num_frames(lengths))
        pieces = -(-mels.shape[1] // self.window)
        sound = torch.nn.functional.pad(sound, (0, 0, 0, pieces * self.window - sound.shape[1]))
        starts = torch.arange(pieces, device=mels.device) * self.window
        # A piece behind a row's end is heard as one frame, which nobody looks at.
        shares = (lengths[:, None] - starts).clamp(1, self.window)
        hidden = self.ear(sound.reshape(-1, self.window, sound.shape[2]), shares.flatten())
        hidden = hidden.unflatten(0, (-1, pieces)).flatten(1, 2)
        return AudioFeatures(hidden[:, : self.num_frames(mels.shape[1])], self.num_frames(lengths))


def _ear(model: Any, extractor: Any) -> SpeechFrontEnd:
    encoder = getattr(model, "encoder", None)
    if hasattr(encoder, "conv2") and hasattr(encoder, "embed_positions") and hasattr(extractor, "mel_filters"):
        return WhisperFrontEnd(encoder, extractor)
    if hasattr(model, "feature_extractor") and hasattr(model.config, "conv_stride"):
        return ConvFrontEnd(model, extractor)
    return ExtractorFrontEnd(model, extractor)
