"""Videos: evenly spaced frames of a clip, and their times."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from omni.errors import UserError
from omni.media.image_file import MAX_PIXELS, image_info, read_bytes
from omni.media.images import read_image

MAX_FRAMES = 8
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SECONDS = 0.1  # duration of a frame without one in its file, as in browsers


def read_video(source: str | Path, *, max_frames: int = MAX_FRAMES) -> tuple[list[Tensor], list[float]]:
    """Reads a clip: an animated image (GIF, WebP, PNG), or a folder of images in the order of names, one per second.

    Args:
        source: The file or the folder.
        max_frames: Most frames, evenly spaced, the first and the last included.

    Returns:
        Frames (3, height, width) of uint8, and the time of each in seconds.

    Raises:
        UserError: If it is neither, or cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise UserError(f"video {path} is a folder without images: put .png or .jpg frames there")
        chosen = evenly(len(files), max_frames)
        return [read_image(files[number]) for number in chosen], [float(number) for number in chosen]
    if not path.exists():
        raise UserError(f"video {path} does not exist: give an animated image, or a folder with its frames")
    try:
        info = image_info(path)
    except UserError as error:
        advice = f"extract its frames into a folder, as by `ffmpeg -i {path.name} -r 1 frames/%04d.png`"
        raise UserError(f"video {path} is not an animated image: {advice}") from error
    if info.width * info.height > MAX_PIXELS:
        read_image(path)  # raises the error
    try:
        return _animated(path, info.frames, max_frames)
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise UserError(f"video {path} is damaged ({error}): get it again") from error


def _animated(path: Path, number: int, max_frames: int) -> tuple[list[Tensor], list[float]]:
    times, seconds, frames = [], 0.0, []
    with Image.open(io.BytesIO(read_bytes(path))) as image:
        for frame in range(number):
            image.seek(frame)
            image.load()  # some formats have no duration before
            times.append(seconds)
            seconds += (image.info.get("duration") or 1000 * _SECONDS) / 1000
        chosen = evenly(number, max_frames)
        for frame in chosen:
            image.seek(frame)
            frames.append(_still(image, f"{path} frame {frame + 1}"))
    return frames, [times[frame] for frame in chosen]


def _still(image: Image.Image, name: str) -> Tensor:
    """A frame, converted like an image file."""
    content = io.BytesIO()
    image.convert("RGBA").save(content, "PNG", compress_level=1)
    return read_image(content.getvalue(), name=name)


def evenly(number: int, most: int) -> Sequence[int]:
    """Indices of at most `most` evenly spaced items of `number`."""
    return range(number) if number <= most else np.linspace(0, number - 1, most).round().astype(int).tolist()
