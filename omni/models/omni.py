"""Omni: a Thinker with image and audio input."""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from omni.layers.moe import RouterUse
from omni.layers.transformer import TransformerOutput
from omni.models.audio_encoder import AudioFeatures
from omni.models.interfaces import Cache, ImageEncoder, LanguageModel, SpeechEncoder
from omni.models.projector import Projector
from omni.text.media_positions import MediaLayout
from omni.text.tokenizer import AUDIO, IMAGE


class MediaEmbeddings(NamedTuple):
    """The input of the Thinker.

    Attributes:
        embeddings: (batch, time, dim): of tokens, with those of media in the positions of their placeholders.
        router_uses: How the experts of projectors were used in training, by the projectors' names.
    """

    embeddings: Tensor
    router_uses: dict[str, RouterUse]


@final
class Omni(nn.Module):
    """A Thinker, and the encoders and projectors whose features are placed among its tokens.

    Args:
        thinker: The language model.
        vision_encoder: Image encoder; None for a Thinker without images.
        vision_projector: From the encoder's tokens to the Thinker's; required with the encoder.
        audio_encoder: Audio encoder; None for a Thinker without audio.
        audio_projector: From the encoder's frames to the Thinker's tokens; required with the encoder.

    Raises:
        ValueError: If an encoder or its projector is missing, or widths do not match.
    """

    def __init__(
        self,
        thinker: LanguageModel,
        *,
        vision_encoder: ImageEncoder | None = None,
        vision_projector: Projector | None = None,
        audio_encoder: SpeechEncoder | None = None,
        audio_projector: Projector | None = None,
    ) -> None:
        super().__init__()
        self.thinker = thinker
        self.vision_encoder, self.vision_projector = vision_encoder, vision_projector
        self.audio_encoder, self.audio_projector = audio_encoder, audio_projector
        vision_dim = None if vision_encoder is None else vision_encoder.token_dim
        audio_dim = None if audio_encoder is None else audio_encoder.dim
        for name, width, projector in (("vision", vision_dim, vision_projector), ("audio", audio_dim, audio_projector)):
            if (width is None) != (projector is None):
                raise ValueError(f"{name}_encoder and {name}_projector belong together: give both or none")
            if projector is not None and (projector.in_dim, projector.out_dim) != (width, thinker.dim):
                raise ValueError(
                    f"{name}_projector maps {projector.in_dim} to {projector.out_dim}: in_dim must be {width}, the "
                    f"{name}_encoder's, and out_dim {thinker.dim}, the thinker's"
                )
        if vision_projector is not None and vision_projector.frame_stacking > 1:
            raise ValueError("vision_projector.frame_stacking must be 1: `reduction_factor` joins patches")

    @property
    def layout(self) -> MediaLayout:
        """How media are laid out among its tokens."""
        grid = None if self.vision_encoder is None else self.vision_encoder.token_grid
        frames = None
        if self.audio_encoder is not None and self.audio_projector is not None:
            frames = self.audio_encoder.downsampling * self.audio_projector.frame_stacking
        return MediaLayout(image_grid=grid, mel_frames=frames)

    def embed(
        self,
        tokens: Tensor,
        *,
        images: Tensor | None = None,
        mels: Tensor | None = None,
        mel_lengths: Tensor | None = None,
        features: AudioFeatures | None = None,
        frame_dropout: float = 0.0,
    ) -> MediaEmbeddings:
        """Embeds tokens and media, and puts the media in the positions of their placeholders.

        Args:
            tokens: (batch, time), with a placeholder for each feature.
            images: (images, 3, height, width), pixels from 0 to 1, in the order of their placeholders; video frames
                among them. None without any.
            mels: (audios, mel frames, num_mels), in the order of their placeholders. None without any.
            mel_lengths: (audios,), int64: mel frames of each.
            features: Output of the audio encoder for `mels`, if computed already.
            frame_dropout: Share of the audio encoder's frames that are zeroed, in training.

        Raises:
            RuntimeError: If the placeholders do not match the features.
            ValueError: If there are media without an encoder.
        """
        x = self.thinker.embed(tokens)
        uses: dict[str, RouterUse | None] = {}
        if images is not None:
            if self.vision_encoder is None or self.vision_projector is None:
                raise ValueError("there are images, but no vision_encoder")
            with gradients_of(self.vision_encoder):
                patches = self.vision_encoder.tokens(images)
            projected, uses["vision_projector"] = self.vision_projector(as_input(patches, self.vision_projector))
            counts = torch.full((len(projected),), projected.shape[1], device=projected.device)
            x = place(x, tokens == IMAGE, projected, counts)
        if mels is not None:
            if self.audio_projector is None or mel_lengths is None:
                raise ValueError("there is audio, but no audio_encoder or no mel_lengths")
            hidden, lengths, _ = self.encode_audio(mels, mel_lengths) if features is None else features
            dropped = None
            if frame_dropout:
                dropped = torch.rand(hidden.shape[:2], device=hidden.device) < frame_dropout
                # Not a product with 0: norms of a frame of zeros have gradients over fp16's range, and 0 × inf is NaN.
                hidden = hidden.masked_fill(dropped[..., None], 0)
            projected, uses["audio_projector"] = self.audio_projector(as_input(hidden, self.audio_projector), lengths)
            if dropped is not None and self.audio_projector.stacks_features:
                projected = _without_gradient(projected, dropped, self.audio_projector.frame_stacking)
            x = place(x, tokens == AUDIO, projected, self.audio_projector.num_tokens(lengths))
        return MediaEmbeddings(x, {name: use for name, use in uses.items() if use is not None})

    def encode_audio(self, mels: Tensor, mel_lengths: Tensor) -> AudioFeatures:
        """Output of the audio encoder for (audios, mel frames, num_mels), before the projector."""
        if self.audio_encoder is None:
            raise ValueError("there is audio, but no audio_encoder")
        with gradients_of(self.audio_encoder):
            return self.audio_encoder(mels, mel_lengths)

    def encode(
        self,
        embeddings: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        scored: Tensor | None = None,
    ) -> TransformerOutput:
        """Runs the Thinker without its head.

        Args:
            embeddings: (batch, time, dim), from `embed`.
            positions: (3, batch, time), from `omni.text.media_positions`. A Thinker with a single axis uses
                token indices instead.
            mask: (batch, time) of bool, false at padding; padding at the end needs none.
            cache: Earlier keys and values.
            scored: As in `LanguageModel.encode`.
        """
        positions = self.rotary_positions(positions)
        return self.thinker.encode(embeddings=embeddings, positions=positions, mask=mask, cache=cache, scored=scored)

    def rotary_positions(self, positions: Tensor | None) -> Tensor | None:
        """Positions (3, batch, time) for the Thinker; None if it has a single axis, and uses token indices."""
        return positions if self.thinker.rope_axes == 3 else None

    def calibrate(self) -> None:
        """Scales the outputs of projectors to the RMS of the token embeddings; see `Projector.calibrate`."""
        for projector in (self.vision_projector, self.audio_projector):
            if projector is not None:
                projector.calibrate(self.thinker.embedding_rms)


def gradients_of(encoder: Any) -> torch.set_grad_enabled:
    """Context in which a frozen encoder stores nothing for a backward pass."""
    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and trained)


def _without_gradient(tokens: Tensor, dropped: Tensor, stack: int) -> Tensor:
    """Tokens (batch, tokens, dim), detached where all of their frames are `dropped` (batch, frames).

    Zeroed frames teach nothing, but each norm after them multiplies the gradient by 1,000.
    """
    groups = nn.functional.pad(dropped, (0, -dropped.shape[1] % stack), value=True).unflatten(1, (-1, stack))
    return torch.where(groups.all(-1)[..., None], tokens.detach(), tokens)


def as_input(features: Tensor, projector: Projector) -> Tensor:
    """Casts features to the dtype of the projector's weights: a frozen encoder may have another."""
    return features.to(next(projector.parameters()).dtype)


def place(x: Tensor, slots: Tensor, features: Tensor, counts: Tensor) -> Tensor:
    """Puts features in their slots, in order, without a device synchronisation.

    Args:
        x: (batch, time, dim).
        slots: (batch, time), bool: positions of features, row by row.
        features: (media, max count, dim); those after a medium's count are padding.
        counts: (media,), int64: features of each medium.

    Returns:
        `x` with the features in the slots.

    Raises:
        RuntimeError: If the numbers of slots and features differ, or a run of slots starts inside a medium.
    """
    number = slots.flatten().cumsum(0) - 1  # of each slot
    ends = counts.cumsum(0)
    owner = torch.searchsorted(ends, number.clamp(min=0), right=True).clamp(max=len(counts) - 1)
    index = number - (ends - counts)[owner]
    starts = slots & ~nn.functional.pad(slots, (1, 0))[:, :-1]
    _check(slots.sum() == ends[-1], "there are more or fewer placeholders than features")
    _check(~(starts.flatten() & (index != 0)).any(), "runs of placeholders do not match the media: counts differ")
    chosen = (owner * features.shape[1] + index).clamp(0, features.shape[0] * features.shape[1] - 1)
    placed = features.flatten(0, 1).index_select(0, chosen).view_as(x)
    return torch.where(slots[..., None], placed.to(x.dtype), x)


def _check(holds: Tensor, message: str) -> None:
    """Raises a RuntimeError if the condition is false; on a GPU asynchronously."""
    torch._assert_async(holds, message)  # pyright: ignore[reportPrivateImportUsage]
