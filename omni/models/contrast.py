"""The contrastive head: images and texts in one embedding space."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.models.part import Part

_MAX_SCALE = 100.0  # as in CLIP


class ContrastHead(Part):
    """Projects images and texts to unit vectors, and scores pairs by their scaled and shifted product.

    Args:
        image_dim: Width of an image's vector.
        text_dim: Width of a text's vector.
        dim: Width of the shared space.
        loss: `sigmoid`, each pair on its own (SigLIP, arXiv:2303.15343), or `softmax`, over the batch (CLIP,
            arXiv:2103.00020).
        dropout: Dropout of both vectors in training.
    """

    def __init__(
        self,
        *,
        image_dim: int,
        text_dim: int,
        dim: int = 128,
        loss: Literal["sigmoid", "softmax"] = "sigmoid",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_dim, self.text_dim, self.dim = image_dim, text_dim, dim
        self.loss: Literal["sigmoid", "softmax"] = loss
        self.dropout = nn.Dropout(dropout)
        self.image = nn.Linear(image_dim, dim, bias=False)
        self.text = nn.Linear(text_dim, dim, bias=False)
        for projection in (self.image, self.text):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0 if loss == "sigmoid" else 1 / 0.07)))
        if loss == "sigmoid":  # most pairs are negatives: with -10 the first loss is small
            self.bias = nn.Parameter(torch.tensor(-10.0))
        else:  # a softmax does not depend on it
            self.register_buffer("bias", torch.tensor(0.0), persistent=False)

    bias: Tensor

    def embed_images(self, pooled: Tensor) -> Tensor:
        """Maps (images, image_dim) to unit vectors (images, dim), fp32."""
        return F.normalize(self.image(self.dropout(pooled)).float(), dim=-1)

    def embed_texts(self, pooled: Tensor) -> Tensor:
        """Maps (texts, text_dim) to unit vectors (texts, dim), fp32."""
        return F.normalize(self.text(self.dropout(pooled)).float(), dim=-1)

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores of all pairs of unit vectors: (images, texts)."""
        return images @ texts.T * self.log_scale.exp().clamp(max=_MAX_SCALE) + self.bias
