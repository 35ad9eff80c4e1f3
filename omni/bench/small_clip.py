"""A small CLIP, the peer of `omni bench retrieval`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from omni.batch import ImageBatch
from omni.losses import contrastive_loss
from omni.text.tokenizer import PAD

_WIDTHS = (32, 64, 128, 256)  # channels of the ResNet's four blocks
IMAGE_DIM = _WIDTHS[-1]
_MAX_SCALE = 100.0  # as in CLIP


class SmallClip(nn.Module):
    """CLIP (arXiv:2103.00020) at a small size: a ResNet of four basic blocks and a causal text Transformer.

    Args:
        vocab_size: Number of tokens.
        max_tokens: Longest text.
        dim: Width of the Transformer and of the shared space.
        num_layers: Blocks of the Transformer.
    """

    def __init__(self, vocab_size: int, max_tokens: int, *, dim: int = 128, num_layers: int = 2) -> None:
        super().__init__()
        self.image_encoder = small_resnet()
        self.image_projection = nn.Linear(IMAGE_DIM, dim, bias=False)
        self.tokens, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(max_tokens, dim)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        block = nn.TransformerEncoderLayer(
            dim, dim // 64, 4 * dim, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(block, num_layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False)
        self.text_projection = nn.Linear(dim, dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_images(self, images: Tensor) -> Tensor:
        """Maps (batch, 3, height, width), pixels from 0 to 1, to unit vectors (batch, dim)."""
        return F.normalize(self.image_projection(self.image_encoder(images)), dim=-1)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Maps (batch, time), padded with `PAD`, to unit vectors (batch, dim): the state at the last token."""
        time = tokens.shape[1]
        future = torch.ones(time, time, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = self.transformer(self.tokens(tokens) + self.positions.weight[:time], mask=future, is_causal=True)
        last = (tokens != PAD).sum(1) - 1
        return F.normalize(self.text_projection(hidden[torch.arange(len(tokens)), last]), dim=-1)

    def loss(self, batch: ImageBatch) -> Tensor:
        """The mean contrastive loss of the first caption of each image."""
        assert batch.captions is not None
        assert batch.caption_ids is not None
        scores = self.embed_images(batch.images) @ self.embed_texts(batch.captions[:, 0]).T
        scores = scores * self.log_scale.exp().clamp(max=_MAX_SCALE)
        return contrastive_loss(scores, batch.caption_ids[:, 0], kind="softmax") / len(batch.images)


def small_resnet() -> nn.Sequential:
    """A ResNet (arXiv:1512.03385) for small images: (batch, 3, height, width), pixels from 0 to 1, to (batch, 256).

    The stem is a convolution of 3 × 3 without stride, as is usual at 32 × 32 pixels.
    """
    blocks, before = [], _WIDTHS[0]
    for width in _WIDTHS:
        stride = 1 if width == before else 2
        shortcut = None
        if width != before:
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
        blocks.append(BasicBlock(before, width, stride, shortcut))
        before = width
    stem = (nn.BatchNorm2d(3), nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(_WIDTHS[0]))
    return nn.Sequential(*stem, nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
