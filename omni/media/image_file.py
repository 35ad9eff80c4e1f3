"""Image files of any format of Pillow, read as RGB, with clear errors for missing and damaged ones."""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from omni.errors import UserError, install_hint
from omni.media.faults import MediaError

MAX_PIXELS = 120_000_000  # more than the cameras of phones; 0.5 GB in memory

ImageFault = Literal["missing", "empty", "unreadable", "damaged", "too large"]

# Raised by Pillow for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, RuntimeError)
_DAMAGED += (struct.error, zlib.error)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")  # magic bytes of image files
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of HEIC files
_TURNS = {  # rotation or flip by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAWINGS = ("EPS", "WMF")  # rendered by external programs
_OPENING = threading.Lock()  # around a change of the process's warning filters


class ImageError(MediaError[ImageFault]):
    """An image that cannot be read."""


class ImageInfo(NamedTuple):
    """Header of an image file.

    Attributes:
        width: Pixels, before the rotation by EXIF.
        height: As `width`.
        format: Pillow's name of the format: JPEG, PNG, GIF.
        mode: Pillow's name of the pixel format: RGB, L (grey), P (palette), CMYK, I;16.
        frames: Number of frames; `read_rgb` reads the first.
    """

    width: int
    height: int
    format: str
    mode: str
    frames: int


def image_info(source: str | Path | bytes, *, name: str | None = None) -> ImageInfo:
    """Reads the header of an image.

    Args:
        source: A file, or its bytes.
        name: Name for errors; the file name by default.

    Raises:
        ImageError: As in `read_rgb`, by the header.
    """
    name = _name(source, name)
    with _damage(name), _open(source, name) as image:
        with _quiet():
            frames = getattr(image, "n_frames", 1)
        return ImageInfo(image.width, image.height, image.format or "", image.mode, frames)


def read_rgb(source: str | Path | bytes, *, name: str | None = None) -> Image.Image:
    """Reads the first frame of an image, rotated by its EXIF orientation, transparency on white.

    Args:
        source: A file, or its bytes.
        name: Name for errors; the file name by default.

    Raises:
        ImageError: If it is missing, not an image, damaged or truncated, or has too many pixels.
    """
    name = _name(source, name)
    with _damage(name), _open(source, name) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(name, f"{image.width} × {image.height} pixels")
        with _quiet() if image.format == "TIFF" else nullcontext():  # whose reader rotates it, and warns
            image.load()
        with _quiet():
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return _to_rgb(image if turn is None else image.transpose(turn), name)


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
    """Maps errors of Pillow to `ImageError`."""
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
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF:
            return _open_heif(content, name)
        if b"<svg" in content[:4096].lower():
            raise _drawing(name, "SVG") from error
        if content.startswith(_BEGINNINGS) or (content[:4], content[8:12]) == (b"RIFF", b"WEBP"):
            raise ImageError("damaged", f"{name}: a damaged image (its header): mend it or leave it out") from error
        begin = f"it begins with {content[:8]!r}"
        raise ImageError("unreadable", f"{name}: no image, whatever its name ({begin})") from error
    if image.format in _DRAWINGS:
        raise _drawing(name, image.format)
    return image


def _open_heif(content: bytes, name: str) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        convert = f"{install_hint('media')}, or convert it to JPEG"
        raise ImageError("unreadable", f"{name}: HEIC, which needs pillow-heif: {convert}") from error
    pillow_heif.register_heif_opener()
    try:
        with _quiet():
            return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ImageError("damaged", f"{name}: a damaged image (HEIC): mend it or leave it out") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignores Pillow's warnings: sizes are checked here, and metadata is not used."""
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
        reason = "floating-point pixels, of unknown range: save it with 8 or 16 bits"
        raise ImageError("unreadable", f"{name}: {reason}")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
