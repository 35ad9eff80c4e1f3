"""Images: read from any file that Pillow knows, brought to one size. Training and serving see through the same code."""

import io
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from omni.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_PIXELS = 120_000_000  # more than any telephone's camera takes, and 0.5 GB in memory

Fit = Literal["crop", "pad", "stretch"]

# What Pillow's readers raise at damaged files, beside OSError.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error)
_OPENING = threading.Lock()  # around a change of the process's warning filters


def read_image(source: str | Path | bytes, *, name: str | None = None) -> Tensor:
    """Reads an image as a person sees it: turned as its EXIF says, transparency on white, the first frame of several.

    Args:
        source: A file, or its bytes.
        name: What to call it in messages; the file's name if not given.

    Returns:
        (3, height, width), uint8: red, green, blue.

    Raises:
        UserError: If there is no such file, it is no image, is damaged or cut off, or has too many pixels.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    try:
        with _open(source, name) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(_too_large(name, f"{image.width} × {image.height} pixels"))
            rgb = _to_rgb(ImageOps.exif_transpose(image), name)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(_too_large(name, "it does not fit into memory")) from error
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: a damaged image ({reason}): mend it or leave it out") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def read_bytes(path: str | Path, *, name: str | None = None) -> bytes:
    """A file's content.

    Raises:
        UserError: If there is no such file, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{name or path}: there is no such file") from error
    except OSError as error:
        raise UserError(f"{name or path}: cannot be read ({error.strerror or error})") from error


def _open(source: str | Path | bytes, name: str) -> Image.Image:
    """Reads the header."""
    content = source if isinstance(source, bytes) else read_bytes(source, name=name)
    if not content:
        raise UserError(f"{name}: an empty file, no image")
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(name, str(error).split(",")[0])) from error
    except UnidentifiedImageError as error:
        if b"<svg" in content[:4096].lower():
            raise UserError(f"{name}: SVG is a drawing, not pixels: save it as PNG") from error
        raise UserError(f"{name}: no image, whatever its name (it begins with {content[:8]!r})") from error


def _too_large(name: str, what: str) -> str:
    return f"{name}: too large, perhaps a decompression bomb ({what}): {MAX_PIXELS:,} pixels are read at most"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, or 32 bits that hold 16
        values = np.asarray(image).astype(np.int64)
        values = values // 256 if image.mode != "I" or values.max(initial=0) > 255 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UserError(f"{name}: floating-point pixels, of unknown range: save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """Brings images of all shapes to one square.

    Args:
        size: Side of the square in pixels.
        fit: What happens to an image that is no square: its middle is taken (`crop`), black is added (`pad`), or it is
            distorted (`stretch`).
    """

    size: int
    fit: Fit = "crop"

    def __call__(self, image: Tensor) -> Tensor:
        """Brings an image (3, height, width) of uint8 to (3, size, size)."""
        height, width = image.shape[-2:]
        if self.fit == "crop" and height != width:
            image = transforms.center_crop(image, [min(height, width)] * 2)  # first: a strip of pixels stays small
        elif self.fit == "pad" and height != width:
            sides = [max(1, round(side * self.size / max(height, width))) for side in (height, width)]
            image = transforms.center_crop(self._resize(image, sides), [self.size] * 2)  # which pads what is too small
        return self._resize(image, [self.size] * 2)

    def _resize(self, image: Tensor, sides: list[int]) -> Tensor:
        return image if list(image.shape[-2:]) == sides else transforms.resize(image, sides, antialias=True)


def to_pixels(images: Tensor) -> Tensor:
    """Grey or RGB images (batch, 1 or 3, height, width) of uint8 as the encoder takes them: (batch, 3, ...), 0 to 1."""
    return (images.float() / 255).expand(-1, 3, -1, -1)
