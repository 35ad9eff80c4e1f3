"""Interfaces of the parts of a composed model, which ours and pretrained ones implement."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from omni.layers.transformer import TransformerOutput
from omni.models.part import Part

if TYPE_CHECKING:
    from omni.models.audio_encoder import AudioFeatures


class Cache(Protocol):
    """Keys and values of a language model; see `omni.layers.cache.KVCache`."""

    @property
    def device(self) -> torch.device:
        """Device of keys and values."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Number of entries of each row."""
        ...

    def keep(self, entries: int) -> None:
        """Drops all but the first entries of each row."""
        ...

    def advance(self, entries: int | Sequence[int]) -> None:
        """Counts new entries: the same number for each row, or one number a row (the rest was padding)."""
        ...


class LanguageModel(Part, ABC):
    """Abstract: a causal language model over embeddings; see `omni.models.thinker.Thinker`.

    Attributes:
        vocab_size: Number of tokens.
        dim: Width of the embeddings.
        rope_axes: 3 if positions are time, height and width (TM-RoPE); 1 if they are token indices.
    """

    vocab_size: int
    dim: int
    rope_axes: int

    @property
    @abstractmethod
    def embedding_rms(self) -> float:
        """Root mean square of the token embeddings."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Looks up tokens (batch, time): (batch, time, dim)."""

    def encode(
        self,
        tokens: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Any = None,
        scored: Tensor | None = None,
    ) -> TransformerOutput:
        """Runs the model without its head.

        Args:
            tokens: (batch, time) of int64.
            embeddings: (batch, time, dim), instead of tokens.
            positions: (time,), (batch, time) or (rope_axes, batch, time); consecutive, after the cached ones, if not
                given.
            mask: (batch, time) of bool, false at padding; padding at the end needs none.
            cache: Earlier keys and values, from `new_cache`. New ones are appended, and counted by `cache.advance`.
            scored: (scored,) of int64: positions of the flattened rows whose hidden states are wanted, which are then
                (scored, dim); all if not given.
        """
        if embeddings is None and tokens is not None:
            embeddings = self.embed(tokens)
        elif embeddings is None or tokens is not None:
            raise ValueError("a Thinker takes either tokens or embeddings")
        if scored is None:
            return self.encode_embeddings(embeddings, positions, mask, cache)
        if cache is not None:
            raise ValueError("give scored positions or a cache, not both")
        return self.encode_scored(embeddings, positions, mask, scored)

    def encode_scored(
        self, embeddings: Tensor, positions: Tensor | None, mask: Tensor | None, scored: Tensor
    ) -> TransformerOutput:
        """Does what `encode` describes for `scored`; a model may leave out what no other position needs."""
        hidden, balance_loss = self.encode_embeddings(embeddings, positions, mask, None)
        return TransformerOutput(hidden.flatten(0, 1).index_select(0, scored), balance_loss)

    @abstractmethod
    def encode_embeddings(
        self, embeddings: Tensor, positions: Tensor | None, mask: Tensor | None, cache: Any
    ) -> TransformerOutput:
        """Does what `encode` describes."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Applies the head to hidden states (..., dim): (..., vocab)."""

    @abstractmethod
    def new_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache for rows of up to `max_length` positions."""


class ImageEncoder(Part, ABC):
    """Abstract: images to a fixed number of tokens; see `omni.models.vision_encoder.VisionEncoder`.

    Attributes:
        image_size: Side of its input images in pixels.
        token_dim: Width of a token.
        token_grid: Rows and columns of an image's tokens.
    """

    image_size: Any
    token_dim: Any
    token_grid: Any

    @abstractmethod
    def tokens(self, images: Tensor) -> Tensor:
        """Encodes images (images, 3, height, width): (images, rows × columns, token_dim), in reading order."""


class SpeechEncoder(Part, ABC):
    """Abstract: log-mel frames to frames at a lower, constant rate; see `omni.models.audio_encoder.AudioEncoder`.

    Attributes:
        num_mels: Number of mel filters of the input; 0 for waveforms (see `omni.media.speech_preprocessing`).
        dim: Width of a frame.
        downsampling: Mel frames per frame.
    """

    num_mels: Any
    dim: Any
    downsampling: Any

    @abstractmethod
    def forward(self, mels: Tensor, lengths: Tensor) -> "AudioFeatures":
        """Encodes (audios, mel frames, num_mels), each with its number of mel frames."""

    def num_frames(self, mel_frames: Any) -> Any:
        """Number of frames for a number of mel frames: ints or tensors."""
        return -(-mel_frames // self.downsampling)
