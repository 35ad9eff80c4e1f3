"""Random changes of training images, a whole batch at a time."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resize

from omni.errors import UserError
from omni.media.images import to_pixels

_GROUP = 8  # images with the same RandAugment: 5 × as fast as one by one, and a batch still has many groups


@final
@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """Random changes of training images.

    Args:
        min_crop_area: Smallest share of the image's area that is kept, 0–1; 1 keeps all of it.
        shift: Largest shift in pixels, vertically and horizontally; uncovered pixels are black.
        flip: Share of the images that are mirrored.
        randaugment: Number of random changes of colour and geometry (arXiv:1909.13719); 0 for none.
        magnitude: Strength of these changes, 0–30.
        mixup: Parameter of the beta distribution of the weights that two images are averaged with (arXiv:1710.09412);
            0 for none.
        cutmix: The same for the area of a pasted rectangle of another image (arXiv:1905.04899). With both, one is
            chosen at random for each batch.
    """

    min_crop_area: float = 1.0
    shift: int = 0
    flip: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        most = {"min_crop_area": 1, "flip": 1, "magnitude": 30}
        for name, value in vars(self).items():
            if name in most and not 0 <= value <= most[name]:
                raise UserError(f"data.augmentation.{name} is {value}: it must lie between 0 and {most[name]}")
            if value < 0:
                raise UserError(f"data.augmentation.{name} is {value}: it must be 0 or more")
        if self.min_crop_area == 0:
            raise UserError("data.augmentation.min_crop_area is 0: it must be more")

    @cached_property
    def _randaugment(self) -> v2.RandAugment:
        return v2.RandAugment(self.randaugment, self.magnitude, fill=[128])

    @property
    def mixes(self) -> bool:
        """Whether an image may be a mixture of two."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Changes a batch, with PyTorch's global random generator.

        Args:
            images: (batch, 1 or 3, side, side), uint8.
            labels: (batch, classes), shares of each class.
            size: Side of the output, at most that of the input.

        Returns:
            Pixels (batch, 3, size, size) from 0 to 1, and labels.
        """
        images = self._place(images, size)
        mirrored = (torch.rand(len(images)) < self.flip).tolist()
        if any(mirrored):  # `torch.where` takes ten times as long
            sides = zip(images, mirrored, strict=True)
            images = torch.stack([image.flip(-1) if mirror else image for image, mirror in sides])
        if self.randaugment:
            colour = images.expand(-1, 3, -1, -1).split(_GROUP)
            images = torch.cat([self._randaugment(group) for group in colour])
        return self._mix(to_pixels(images), labels)

    def _place(self, images: Tensor, size: int) -> Tensor:
        """Crops or shifts."""
        count, side = len(images), images.shape[-1]
        if self.min_crop_area < 1:
            area = self.min_crop_area + (1 - self.min_crop_area) * torch.rand(count)
            stretch = torch.exp(torch.empty(count).uniform_(-0.2877, 0.2877) / 2)  # aspect ratios of 3:4 to 4:3
            sides = torch.stack((area.sqrt() / stretch, area.sqrt() * stretch), 1).clamp(max=1) * side
            sides = sides.round().clamp(min=1)
            corners = (torch.rand(count, 2) * (side - sides + 1)).floor()
            boxes = torch.cat((corners, sides), 1).int().tolist()
            # One by one: 4 × as fast as `grid_sample` on the batch at 224 pixels, and without its aliasing. With the
            # colours of a pixel side by side half as fast again.
            crops = (
                image[:, top : top + height, left : left + width].permute(1, 2, 0).contiguous().permute(2, 0, 1)
                for image, (top, left, height, width) in zip(images, boxes, strict=True)
            )
            return torch.stack([resize(crop, [size, size], antialias=True) for crop in crops])
        images = F.pad(images, (self.shift,) * 4) if self.shift else images
        room = images.shape[-1] - size
        if not room:
            return images
        places = torch.randint(room + 1, (count, 2)).tolist()
        return torch.stack(
            [image[:, top : top + size, left : left + size] for image, (top, left) in zip(images, places, strict=True)]
        )

    def _mix(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes each image with its neighbour in the batch."""
        if not self.mixes:
            return pixels, labels
        cut = self.cutmix > 0 and (self.mixup == 0 or bool(torch.rand(()) < 0.5))
        parameter = torch.tensor(float(self.cutmix if cut else self.mixup))
        share = torch.distributions.Beta(parameter, parameter).sample()
        other = pixels.roll(1, 0)
        if cut:
            box = _boxes((1 - share)[None], pixels.shape[-1])
            pixels, share = torch.where(box[:, None], other, pixels), 1 - box.float().mean()
        else:
            pixels = share * pixels + (1 - share) * other
        mixed = share * labels + (1 - share) * labels.roll(1, 0)
        unknown = (labels < 0) | (labels.roll(1, 0) < 0)
        return pixels, torch.where(unknown, torch.full_like(labels, -1), mixed)


def _boxes(areas: Tensor, size: int) -> Tensor:
    """Rectangles of given shares of the area at random places, cut at the border: (boxes, size, size), bool."""
    sides = (areas.sqrt() * size)[:, None]
    at = torch.arange(size) + 0.5
    (tops, lefts), half = torch.rand(2, len(areas), 1) * size, sides / 2
    return ((at - tops).abs() < half)[:, :, None] & ((at - lefts).abs() < half)[:, None, :]
