"""Images: read from any file that Pillow knows, brought to one size. Training and serving see through the same code."""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from omni.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = 0.5  # of all pixels of a blank image, the control of whether a model looks
MAX_PIXELS = 120_000_000  # more than any telephone's camera takes, and 0.5 GB in memory

Fit = Literal["crop", "pad", "stretch"]
ImageFault = Literal["missing", "empty", "unreadable", "damaged", "too large"]

# What Pillow's readers raise at damaged files, beside OSError.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")  # of files that once were images
_TURNS = {  # what makes an image upright, by the orientation that EXIF tells
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAWINGS = ("EPS", "WMF")  # which other programs would have to run for
_OPENING = threading.Lock()  # around a change of the process's warning filters


class ImageError(UserError):
    """An image that cannot be had.

    Args:
        fault: What is the matter with it, in a word or two.
        message: The line for the user.
    """

    def __init__(self, fault: ImageFault, message: str):
        super().__init__(message)
        self.fault: ImageFault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fault, str(self))


class ImageInfo(NamedTuple):
    """What an image file's header tells.

    Attributes:
        width: Pixels, before it is turned as its EXIF says.
        height: The same.
        format: As Pillow calls it: JPEG, PNG, GIF.
        mode: Pillow's name of how pixels are kept: RGB, L (grey), P (palette), CMYK, I;16.
        frames: Pictures in it, of which `read_image` reads the first.
    """

    width: int
    height: int
    format: str
    mode: str
    frames: int


def image_info(source: str | Path | bytes, *, name: str | None = None) -> ImageInfo:
    """What an image's header tells; its pixels are not read.

    Args:
        source: A file, or its bytes.
        name: What to call it in messages; the file's name if not given.

    Raises:
        ImageError: As of `read_image`, where the header shows it.
    """
    name = _name(source, name)
    with _damage(name), _open(source, name) as image:
        with _quiet():
            frames = getattr(image, "n_frames", 1)
        return ImageInfo(image.width, image.height, image.format or "", image.mode, frames)


def read_image(source: str | Path | bytes, *, name: str | None = None) -> Tensor:
    """Reads an image as a person sees it: turned as its EXIF says, transparency on white, the first frame of several.

    Args:
        source: A file, or its bytes.
        name: What to call it in messages; the file's name if not given.

    Returns:
        (3, height, width), uint8: red, green, blue.

    Raises:
        ImageError: If there is no such file, it is no image, is damaged or cut off, or has too many pixels.
    """
    name = _name(source, name)
    with _damage(name), _open(source, name) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(name, f"{image.width} × {image.height} pixels")
        with _quiet() if image.format == "TIFF" else nullcontext():  # whose reader turns it by itself, and complains
            image.load()
        with _quiet():
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        rgb = _to_rgb(image if turn is None else image.transpose(turn), name)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def read_bytes(path: str | Path, *, name: str | None = None) -> bytes:
    """A file's content.

    Raises:
        ImageError: If there is no such file, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError("missing", f"{name or path}: there is no such file") from error
    except OSError as error:
        raise ImageError("unreadable", f"{name or path}: cannot be read ({error.strerror or error})") from error


def _name(source: str | Path | bytes, name: str | None) -> str:
    return name or ("the image" if isinstance(source, bytes) else str(source))


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Says of a damaged file that it is one, whatever its reader raises."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise _too_large(name, "it does not fit into memory") from error
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError("damaged", f"{name}: a damaged image ({reason}): mend it or leave it out") from error


def _open(source: str | Path | bytes, name: str) -> Image.Image:
    """Reads the header."""
    content = source if isinstance(source, bytes) else read_bytes(source, name=name)
    if not content:
        raise ImageError("empty", f"{name}: an empty file, no image")
    try:
        with _quiet():
            image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+(?= pixels)", str(error))
        raise _too_large(name, f"{int(pixels[0]):,} pixels" if pixels else "more pixels than memory holds") from error
    except UnidentifiedImageError as error:
        if b"<svg" in content[:4096].lower():
            raise _drawing(name, "SVG") from error
        if content.startswith(_BEGINNINGS) or (content[:4], content[8:12]) == (b"RIFF", b"WEBP"):
            raise ImageError("damaged", f"{name}: a damaged image (its header): mend it or leave it out") from error
        begin = f"it begins with {content[:8]!r}"
        raise ImageError("unreadable", f"{name}: no image, whatever its name ({begin})") from error
    if image.format in _DRAWINGS:
        raise _drawing(name, image.format)
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """Swallows Pillow's warnings: of sizes that are checked here, and of metadata that nobody needs."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _drawing(name: str, kind: str) -> ImageError:
    return ImageError("unreadable", f"{name}: {kind} is a drawing, not pixels: save it as PNG")


def _too_large(name: str, what: str) -> ImageError:
    message = f"{name}: too large, perhaps a decompression bomb ({what}): {MAX_PIXELS:,} pixels are read at most"
    return ImageError("too large", message)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, or 32 bits that hold 16
        values = np.asarray(image).astype(np.int64)
        values = values // 256 if image.mode != "I" or values.max(initial=0) > 255 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        told = "floating-point pixels, of unknown range: save it with 8 or 16 bits"
        raise ImageError("unreadable", f"{name}: {told}")
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
