"""Images as tensors, and preprocessing to one size, for training and inference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from omni.media.image_file import read_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = 0.5  # pixels of a blank image, the control for whether a model uses images

Fit = Literal["crop", "pad", "stretch"]


def read_image(source: str | Path | bytes, *, name: str | None = None) -> Tensor:
    """Reads the first frame of an image, rotated by its EXIF orientation, transparency on white.

    Args:
        source: A file, or its bytes.
        name: Name for errors; the file name by default.

    Returns:
        (3, height, width), uint8: red, green, blue; not contiguous.

    Raises:
        ImageError: If it is missing, not an image, damaged or truncated, or has too many pixels.
    """
    # A view of (height, width, 3): resizing is twice as fast in this order.
    return torch.from_numpy(np.array(read_rgb(source, name=name))).permute(2, 0, 1)


@dataclass(frozen=True)
class Preprocessing:
    """Resizes images to a square.

    Args:
        size: Side of the square in pixels.
        fit: For images that are not square: `crop` to the centre, `pad` with black, or `stretch`.
    """

    size: int
    fit: Fit = "crop"

    def __call__(self, image: Tensor) -> Tensor:
        """Maps an image (3, height, width) of uint8 to (3, size, size)."""
        height, width = image.shape[-2:]
        if self.fit == "crop" and height != width:
            image = transforms.center_crop(image, [min(height, width)] * 2)  # before resizing: a strip stays small
        elif self.fit == "pad" and height != width:
            sides = [max(1, round(side * self.size / max(height, width))) for side in (height, width)]
            image = transforms.center_crop(self._resize(image, sides), [self.size] * 2)  # pads smaller images
        return self._resize(image, [self.size] * 2)

    def _resize(self, image: Tensor, sides: list[int]) -> Tensor:
        return image if list(image.shape[-2:]) == sides else transforms.resize(image, sides, antialias=True)


def to_pixels(images: Tensor) -> Tensor:
    """Maps grey or RGB images (batch, 1 or 3, height, width) of uint8 to (batch, 3, height, width) from 0 to 1."""
    return images.to(torch.float32, copy=True).div_(255).expand(-1, 3, -1, -1)


def shifted_views(images: Tensor, shift: int) -> list[Tensor]:
    """Images and their mirror images, each as it is and moved right, left, down and up.

    Args:
        images: (batch, channels, height, width).
        shift: Pixels that they are moved by; what is uncovered is black.

    Returns:
        Ten tensors of that shape, the images themselves first.
    """
    moves = ((0, 0), (shift, 0), (-shift, 0), (0, shift), (0, -shift))
    return [F.pad(side, (right, -right, down, -down)) for side in (images, images.flip(-1)) for right, down in moves]
