"""ONNX graphs of media as embeddings, and of a step of a Thinker that reads them among its tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from omni.errors import UserError
from omni.export.graphs import ANY, Graph
from omni.export.passed_state import PassedCache, no_entries
from omni.models.audio_encoder import AudioEncoder
from omni.models.omni import Omni, as_input
from omni.models.projector import MoEProjector
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.text.tokenizer import AUDIO, IMAGE


def audio_embeddings_graph(omni: Omni) -> Graph:
    """`mels` (audios, mel frames, num_mels) and `lengths` to `embeddings` (audios, tokens, dim) and `num_tokens`.

    Raises:
        UserError: If the model has no audio encoder of omni's, or its projector has experts.
    """
    encoder = omni.audio_encoder
    if not isinstance(encoder, AudioEncoder):
        raise UserError(f"{_other(encoder, 'audio encoder')}: omni's AudioEncoder is exported")
    _check_projector(omni.audio_projector)
    example = {"mels": torch.zeros(2, 200, encoder.num_mels), "lengths": torch.tensor([200, 100])}
    dynamic = {"mels": {0: ANY, 1: ANY}, "lengths": {0: ANY}}
    return Graph(_AudioEmbeddings(omni).eval(), example, dynamic, ("embeddings", "num_tokens"))


def image_embeddings_graph(omni: Omni) -> Graph:
    """`images` (images, 3, size, size), 0 to 1, to `embeddings` (images, tokens, dim).

    Raises:
        UserError: If the model has no vision encoder of omni's, or its projector has experts.
    """
    encoder = omni.vision_encoder
    if not isinstance(encoder, VisionEncoder):
        raise UserError(f"{_other(encoder, 'vision encoder')}: omni's VisionEncoder is exported")
    _check_projector(omni.vision_projector)
    example = {"images": torch.zeros(2, 3, encoder.image_size, encoder.image_size)}
    return Graph(_ImageEmbeddings(omni).eval(), example, {"images": {0: ANY}}, ("embeddings",))


def omni_thinker_graph(thinker: Thinker) -> Graph:
    """`tokens`, `media`, `positions` and `past` to `logits` (batch, 1, vocab) of the last token and `present`.

    Inputs:
        tokens: (batch, time), int64, with a placeholder for each embedding of an image or audio.
        media: (batch, time, dim): the embeddings, where their placeholders are; ignored elsewhere.
        past: As of `thinker_graph`.
        positions: (3, batch, time), fp32; see `omni.text.media_positions`. Only of a Thinker with three axes.

    Raises:
        UserError: If the Thinker has experts, or is a pretrained model.
    """
    check_thinker(thinker)
    tokens = torch.ones(2, 5, dtype=torch.long)
    example = {"tokens": tokens, "media": torch.zeros(2, 5, thinker.dim)}
    dynamic: dict[str, dict[int, Any]] = {name: {0: ANY, 1: ANY} for name in example}
    example["past"], dynamic["past"] = no_entries(thinker.transformer, 2, 7), {2: ANY, 4: ANY}
    if thinker.rope_axes == 3:
        example["positions"] = torch.arange(5).expand(3, 2, -1).float().contiguous()
        dynamic["positions"] = {1: ANY, 2: ANY}
    return Graph(_OmniThinker(thinker).eval(), example, dynamic, ("logits", "present"))


def conditioner_graph(thinker: Thinker) -> Graph:
    """`tokens` (batch, time) to `hidden` (batch, time, dim): what a Talker is conditioned on; padding at the end.

    Raises:
        UserError: As `omni_thinker_graph`.
    """
    check_thinker(thinker)
    example = {"tokens": torch.ones(2, 5, dtype=torch.long)}
    return Graph(_Conditioner(thinker).eval(), example, {"tokens": {0: ANY, 1: ANY}}, ("hidden",))


def check_thinker(thinker: nn.Module) -> None:
    """Raises a UserError if a Thinker cannot be exported."""
    if not isinstance(thinker, Thinker):
        raise UserError(f"the Thinker is a {type(thinker).__name__}: omni's Thinker is exported to ONNX")
    if thinker.mixture:
        raise UserError("the Thinker has experts, and ONNX has no grouped matrix product: export one without experts")


def _check_projector(projector: nn.Module | None) -> None:
    if isinstance(projector, MoEProjector):
        raise UserError("a MoEProjector has experts, and ONNX has no grouped matrix product: train another projector")


def _other(encoder: nn.Module | None, name: str) -> str:
    return f"there is no {name}" if encoder is None else f"the {name} is a {type(encoder).__name__}"


class _AudioEmbeddings(nn.Module):
    def __init__(self, omni: Omni) -> None:
        super().__init__()
        self.encoder, self.projector = omni.audio_encoder, omni.audio_projector

    def forward(self, mels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        assert self.encoder is not None
        assert self.projector is not None
        hidden, frames, _ = self.encoder(mels, lengths)
        return self.projector(as_input(hidden, self.projector), frames).tokens, self.projector.num_tokens(frames)


class _ImageEmbeddings(nn.Module):
    def __init__(self, omni: Omni) -> None:
        super().__init__()
        self.encoder, self.projector = omni.vision_encoder, omni.vision_projector

    def forward(self, images: Tensor) -> Tensor:
        assert self.encoder is not None
        assert self.projector is not None
        return self.projector(as_input(self.encoder.tokens(images), self.projector)).tokens


class _OmniThinker(nn.Module):
    def __init__(self, thinker: Thinker) -> None:
        super().__init__()
        self.thinker = thinker

    def forward(
        self, tokens: Tensor, media: Tensor, past: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        cache = PassedCache(past)
        slots = (tokens == IMAGE) | (tokens == AUDIO)
        x = torch.where(slots[..., None], media, self.thinker.embed(tokens))
        hidden = self.thinker.encode(embeddings=x, positions=positions, cache=cache).hidden
        return self.thinker.logits(hidden[:, -1:]), cache.present


class _Conditioner(nn.Module):
    def __init__(self, thinker: Thinker) -> None:
        super().__init__()
        self.thinker = thinker

    def forward(self, tokens: Tensor) -> Tensor:
        return self.thinker.encode(tokens, mask=tokens >= 0).hidden  # causal with a mask, also for a single token
