"""Omni: a Thinker that sees and hears."""

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
    """A Thinker, and the encoders whose features stand among its tokens, each behind a projector.

    Args:
        thinker: The language model.
        vision_encoder: What it sees with; None: it sees nothing.
        vision_projector: From the encoder's tokens to the Thinker's; given with the encoder.
        audio_encoder: What it hears with; None: it hears nothing.
        audio_projector: From the encoder's frames to the Thinker's tokens; given with the encoder.

    Raises:
        ValueError: If an encoder comes without its projector, or widths do not fit.
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
        seen = None if vision_encoder is None else vision_encoder.token_dim
        heard = None if audio_encoder is None else audio_encoder.dim
        for name, width, projector in (("vision", seen, vision_projector), ("audio", heard, audio_projector)):
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
        """How media are laid out for it."""
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
                among them. None where the batch has none.
            mels: (audios, mel frames, num_mels), in the order of their placeholders. None where the batch has none.
            mel_lengths: (audios,), int64: mel frames of each.
            features: What the audio encoder gave of them, where it is known already.
            frame_dropout: Share of the audio encoder's frames that are zero, in training.

        Raises:
            RuntimeError: If there are more or fewer placeholders than features, or they are cut otherwise.
            ValueError: If there are media that no part takes in.
        """
        x = self.thinker.embed(tokens)
        uses: dict[str, RouterUse | None] = {}
        if images is not None:
            if self.vision_encoder is None or self.vision_projector is None:
                raise ValueError("there are images, and no vision_encoder to see them")
            with gradients_of(self.vision_encoder):
                patches = self.vision_encoder.tokens(images)
            seen, uses["vision_projector"] = self.vision_projector(as_read(patches, self.vision_projector))
            counts = torch.full((len(seen),), seen.shape[1], device=seen.device)
            x = place(x, tokens == IMAGE, seen, counts)
        if mels is not None:
            if self.audio_projector is None or mel_lengths is None:
                raise ValueError("there is audio, and no audio_encoder to hear it, or no mel_lengths")
            hidden, lengths, _ = self.hear(mels, mel_lengths) if features is None else features
            dropped = None
            if frame_dropout:
                dropped = torch.rand(hidden.shape[:2], device=hidden.device) < frame_dropout
                # Not a product with 0: norms of a frame of zeros have gradients over fp16's range, and 0 × inf is NaN.
                hidden = hidden.masked_fill(dropped[..., None], 0)
            heard, uses["audio_projector"] = self.audio_projector(as_read(hidden, self.audio_projector), lengths)
            if dropped is not None and self.audio_projector.stacks_features:
                heard = _without_gradient(heard, dropped, self.audio_projector.frame_stacking)
            x = place(x, tokens == AUDIO, heard, self.audio_projector.num_tokens(lengths))
        return MediaEmbeddings(x, {name: use for name, use in uses.items() if use is not None})

    def hear(self, mels: Tensor, mel_lengths: Tensor) -> AudioFeatures:
        """What the audio encoder makes of (audios, mel frames, num_mels), before the projector."""
        if self.audio_encoder is None:
            raise ValueError("there is audio, and no audio_encoder to hear it")
        with gradients_of(self.audio_encoder):
            return self.audio_encoder(mels, mel_lengths)

    def encode(
        self,
        embeddings: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> TransformerOutput:
        """Runs the Thinker, all but its head.

        Args:
            embeddings: (batch, time, dim), from `embed`.
            positions: (3, batch, time), from `omni.text.media_positions`. A Thinker of one axis counts its
                tokens instead.
            mask: (batch, time) of bool, false at padding; padding at the end needs none.
            cache: Earlier keys and values.
        """
        positions = self.rotary_positions(positions)
        return self.thinker.encode(embeddings=embeddings, positions=positions, mask=mask, cache=cache)

    def rotary_positions(self, positions: Tensor | None) -> Tensor | None:
        """What the Thinker is told of positions (3, batch, time): nothing, where it has one axis and counts itself."""
        return positions if self.thinker.rope_axes == 3 else None

    def calibrate(self) -> None:
        """Makes the projectors as loud as the Thinker's tokens; see `Projector.calibrate`."""
        for projector in (self.vision_projector, self.audio_projector):
            if projector is not None:
                projector.calibrate(self.thinker.embedding_rms)


def gradients_of(encoder: Any) -> torch.set_grad_enabled:
    """A frozen encoder keeps nothing for a backward pass."""
    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and trained)


def _without_gradient(tokens: Tensor, dropped: Tensor, stack: int) -> Tensor:
    """Tokens (batch, tokens, dim), held where all of their frames are dropped, (batch, frames): such are zeros.

    Nothing is learned from zeros, but each norm after them multiplies the gradient by 1,000.
    """
    groups = nn.functional.pad(dropped, (0, -dropped.shape[1] % stack), value=True).unflatten(1, (-1, stack))
    return torch.where(groups.all(-1)[..., None], tokens.detach(), tokens)


def as_read(features: Tensor, projector: Projector) -> Tensor:
    """Features in the precision of the projector's weights: a frozen encoder may have another."""
    return features.to(next(projector.parameters()).dtype)


def place(x: Tensor, slots: Tensor, features: Tensor, counts: Tensor) -> Tensor:
    """Puts features in their slots, in order. Nothing is read on the host, so a GPU is never waited for.

    Args:
        x: (batch, time, dim).
        slots: (batch, time), bool: where features go, row by row.
        features: (media, most, dim); those behind a medium's count are padding.
        counts: (media,), int64: features of each medium.

    Returns:
        `x` with the features in the slots.

    Raises:
        RuntimeError: If slots and features are not as many, or a run of slots begins in the middle of a medium.
    """
    number = slots.flatten().cumsum(0) - 1  # of each slot
    ends = counts.cumsum(0)
    owner = torch.searchsorted(ends, number.clamp(min=0), right=True).clamp(max=len(counts) - 1)
    nth = number - (ends - counts)[owner]
    begins = slots & ~nn.functional.pad(slots, (1, 0))[:, :-1]
    _check(slots.sum() == ends[-1], "there are more or fewer placeholders than features")
    _check(~(begins.flatten() & (nth != 0)).any(), "placeholders are not cut as the media are: counts differ")
    chosen = (owner * features.shape[1] + nth).clamp(0, features.shape[0] * features.shape[1] - 1)
    placed = features.flatten(0, 1).index_select(0, chosen).view_as(x)
    return torch.where(slots[..., None], placed.to(x.dtype), x)


def _check(holds: Tensor, message: str) -> None:
    """Raises a RuntimeError where something does not hold; on a GPU when the GPU comes there, without waiting."""
    torch._assert_async(holds, message)  # pyright: ignore[reportPrivateImportUsage]
