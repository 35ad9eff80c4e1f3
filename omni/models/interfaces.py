"""What a composed model needs of its parts, so that a pretrained one can stand in the place of ours."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from omni.layers.transformer import TransformerOutput
from omni.models.audio_encoder import AudioFeatures


class Cache(Protocol):
    """What a language model has computed of some rows; see `omni.layers.cache.KVCache`."""

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Entries of each row."""
        ...

    def keep(self, entries: int) -> None:
        """Forgets what lies behind the first entries of each row."""
        ...

    def advance(self, entries: int | Sequence[int]) -> None:
        """Counts new entries: the same number for each row, or one number a row (the rest was padding)."""
        ...


class LanguageModel(Protocol):
    """A causal language model over embeddings; see `omni.models.thinker.Thinker`."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        ...

    @property
    def dim(self) -> int:
        """Width of its embeddings."""
        ...

    @property
    def rope_axes(self) -> int:
        """3 where positions are time, height and width (TM-RoPE); 1 where they are the order of the tokens."""
        ...

    @property
    def embedding_rms(self) -> float:
        """Root mean square of its token embeddings."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Looks up tokens (batch, time): (batch, time, dim)."""
        ...

    def encode(
        self,
        tokens: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Any = None,
    ) -> TransformerOutput:
        """Runs all but the head, on tokens or on embeddings."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Applies the head to hidden states (..., dim): (..., vocab)."""
        ...

    def new_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache for rows of up to `max_length` positions; its own is what `encode` takes."""
        ...


class ImageEncoder(Protocol):
    """Images to a fixed number of tokens; see `omni.models.vision_encoder.VisionEncoder`."""

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        ...

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        ...

    def tokens(self, images: Tensor) -> Tensor:
        """Sees images (images, 3, height, width): (images, rows × columns, token_dim), in reading order."""
        ...


class SpeechEncoder(Protocol):
    """Log-mel frames to frames at a lower, constant rate; see `omni.models.audio_encoder.AudioEncoder`."""

    @property
    def num_mels(self) -> int:
        """Mel filters that it hears; 0 of waveforms (see `omni.media.speech_preprocessing`)."""
        ...

    @property
    def dim(self) -> int:
        """Width of a frame."""
        ...

    @property
    def downsampling(self) -> int:
        """Mel frames for each frame."""
        ...

    def __call__(self, mels: Tensor, lengths: Tensor) -> AudioFeatures:
        """Hears (audios, mel frames, num_mels) of so many mel frames each."""
        ...

    def num_frames(self, mel_frames: Any) -> Any:
        """Frames for so many mel frames: ints or tensors."""
        ...
