"""Videos as the models see them: a few frames of a clip, and their times."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from omni.errors import UserError
from omni.media.images import MAX_PIXELS, image_info, read_bytes, read_image

MOST_FRAMES = 8
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SECONDS = 0.1  # that a frame lasts whose file does not tell: what browsers do


def read_video(source: str | Path, *, most: int = MOST_FRAMES) -> tuple[list[Tensor], list[float]]:
    """Reads a clip: an animated image (GIF, WebP, PNG), or a folder of images, a second apart, in the order of names.

    Args:
        source: The file or the folder.
        most: Frames to take at most, evenly spaced, the first and the last among them.

    Returns:
        Frames (3, height, width) of uint8, and the time of each in seconds.

    Raises:
        UserError: If it is none of these, or cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise UserError(f"video {path} is a folder without images: put its frames there, as .png or .jpg")
        chosen = evenly(len(files), most)
        return [read_image(files[number]) for number in chosen], [float(number) for number in chosen]
    if not path.exists():
        raise UserError(f"video {path} does not exist: give an animated image, or a folder with its frames")
    try:
        info = image_info(path)
    except UserError as error:
        advice = f"extract its frames into a folder, as by `ffmpeg -i {path.name} -r 1 frames/%04d.png`"
        raise UserError(f"video {path} is no animated image: {advice}") from error
    if info.width * info.height > MAX_PIXELS:
        read_image(path)  # tells so
    try:
        return _animated(path, info.frames, most)
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise UserError(f"video {path} is damaged ({error}): get it again") from error


def _animated(path: Path, number: int, most: int) -> tuple[list[Tensor], list[float]]:
    times, seconds, frames = [], 0.0, []
    with Image.open(io.BytesIO(read_bytes(path))) as image:
        for frame in range(number):
            image.seek(frame)
            image.load()  # some kinds tell no duration before
            times.append(seconds)
            seconds += (image.info.get("duration") or 1000 * _SECONDS) / 1000
        chosen = evenly(number, most)
        for frame in chosen:
            image.seek(frame)
            frames.append(_still(image, f"{path} frame {frame + 1}"))
    return frames, [times[frame] for frame in chosen]


def _still(image: Image.Image, name: str) -> Tensor:
    """A frame, read as an image of its own is."""
    content = io.BytesIO()
    image.convert("RGBA").save(content, "PNG", compress_level=1)
    return read_image(content.getvalue(), name=name)


def evenly(number: int, most: int) -> Sequence[int]:
    """Which of so many to take, `most` of them at most."""
    return range(number) if number <= most else np.linspace(0, number - 1, most).round().astype(int).tolist()
