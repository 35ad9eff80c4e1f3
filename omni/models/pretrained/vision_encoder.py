"""A pretrained vision encoder, in place of ours."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.models.interfaces import ImageEncoder
from omni.models.pretrained.loading import PretrainedPart, checkpoint_layers, load_other


class PretrainedVisionEncoder(PretrainedPart, ImageEncoder):
    """The vision tower of CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) or a similar model of `transformers`.

    It has the part of the interface of `omni.models.vision_encoder.VisionEncoder` that the Thinker needs: patch tokens
    of the last layer, without CLS token. Images are pixels from 0 to 1, which it normalises itself.

    Args:
        pool: Side of the square of patches that are averaged to one token.
        gradient_checkpointing: Whether activations of layers are recomputed in the backward pass.
        kwargs: See `PretrainedPart`; a folder also holds the image processor.
    """

    def __init__(self, *, pool: int = 1, gradient_checkpointing: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        processor = load_other("AutoImageProcessor", self.source, self.revision)
        whole: Any = self.load("AutoModel")
        self.model: Any = getattr(whole, "vision_model", whole)
        config = self.model.config
        if not (hasattr(config, "patch_size") and hasattr(config, "image_size")):
            raise ValueError(
                f"source {self.source}: is not a vision tower: its configuration has no patch_size and image_size"
            )
        self.image_size, self.grid = config.image_size, config.image_size // config.patch_size
        if pool < 1 or self.grid % pool:
            raise ValueError(f"pool must divide the {self.grid} patches of a side, not be {pool}")
        self.pool, self.token_dim = pool, config.hidden_size
        for name in ("mean", "std"):
            values = torch.tensor(getattr(processor, f"image_{name}")).float().view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self._record_fingerprint(self.model)
        self._omit_pretrained()
        if gradient_checkpointing:
            checkpoint_layers(self.model, self.source)

    mean: Tensor
    std: Tensor

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return self.grid // self.pool, self.grid // self.pool

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens of images (images, 3, height, width) for the Thinker: (images, tokens, dim), in reading order."""
        dtype = next(self.model.parameters()).dtype
        hidden = self.model(pixel_values=((images - self.mean) / self.std).to(dtype)).last_hidden_state
        patches = hidden[:, -(self.grid**2) :]  # after the CLS token, if any
        if self.pool == 1:
            return patches
        squares = F.avg_pool2d(patches.mT.unflatten(2, (self.grid, self.grid)), self.pool)
        return squares.flatten(2).mT

    forward = tokens
