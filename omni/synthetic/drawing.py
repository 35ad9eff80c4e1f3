"""Drawing: a scene as pixels, computed with NumPy alone so that they are the same on every machine."""

from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from omni.synthetic.scene import GRID, Item, Scene

SIZE = 64  # side of an image in pixels
RGB = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 215, 45),
    "purple": (150, 60, 190),
    "orange": (245, 132, 25),
}
_BACKGROUND = (240, 240, 240)
_RADIUS = {"small": 0.27, "large": 0.44}  # in cells
_SUPERSAMPLING = 4  # points across a pixel: coverage is the share of them inside the shape
_JITTER = 1  # largest offset of an item from the middle of its cell, in pixels
_TINT = 8  # largest change of each of red, green and blue: yellow stays 10° of hue away from orange
_LIGHT = 12  # largest change of all three together
_PENTAGRAM = (  # a star's points and notches, clockwise from the top
    *((0.0, -1.0), (0.247, -0.34), (0.951, -0.309), (0.4, 0.13), (0.588, 0.809)),
    *((0.0, 0.42), (-0.588, 0.809), (-0.4, 0.13), (-0.951, -0.309), (-0.247, -0.34)),
)
_TRIANGLE = ((0.0, -1.0), (1.0, 0.87), (-1.0, 0.87))


def draw(scene: Scene, rng: Random | None = None, *, size: int = SIZE) -> NDArray[np.uint8]:
    """Draws a scene.

    Args:
        scene: The scene; its grid fills the image.
        rng: Jitters places and colours; without it, they are exact.
        size: Side of the image in pixels, a multiple of `GRID`.

    Returns:
        (size, size, 3), RGB.
    """
    picture = np.broadcast_to(_tinted(_BACKGROUND, rng), (size, size, 3)).copy()
    cell = size // GRID
    for item in scene.items:
        colour = _tinted(RGB[item.colour], rng)
        top, left = _corner(item, cell, size, rng)
        inside = _coverage(item.shape, item.size, cell)[..., None]
        patch = picture[top : top + cell, left : left + cell]
        patch += inside * (colour - patch)
    return np.floor(picture + 0.5).astype(np.uint8)


def _corner(item: Item, cell: int, size: int, rng: Random | None) -> tuple[int, int]:
    """Top and left of an item's cell, jittered inside the image."""
    offsets = (0, 0) if rng is None else (_randint(rng, _JITTER), _randint(rng, _JITTER))
    return tuple(  # pyright: ignore[reportReturnType]
        min(max(0, place * cell + offset), size - cell) for place, offset in zip(item.cell, offsets, strict=True)
    )


def _tinted(colour: tuple[int, int, int], rng: Random | None) -> NDArray[np.float32]:
    """A colour with jittered brightness and hue."""
    light = 0 if rng is None else _randint(rng, _LIGHT)
    offsets = [0 if rng is None else light + _randint(rng, _TINT) for _ in colour]
    return np.clip(np.add(colour, offsets), 0, 255).astype(np.float32)


def _randint(rng: Random, most: int) -> int:
    """A random integer from `-most` to `most`."""
    return int(rng.random() * (2 * most + 1)) - most


@cache
def _coverage(shape: str, size: str, cell: int) -> NDArray[np.float32]:
    """The share of each pixel of a cell that a shape covers."""
    points = (np.arange(cell * _SUPERSAMPLING) + 0.5) / (cell * _SUPERSAMPLING) - 0.5
    x, y = np.meshgrid(points / _RADIUS[size], points / _RADIUS[size])
    inside = _inside(shape, x, y).astype(np.float32)
    return inside.reshape(cell, _SUPERSAMPLING, cell, _SUPERSAMPLING).mean((1, 3))


def _inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points are inside a shape of radius 1; y points down."""
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.88
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.32) & (np.maximum(abs(x), abs(y)) <= 1)
    if shape == "heart":
        x, y = 1.18 * x, 0.12 - 1.15 * y
        ball = x * x + y * y - 1
        return ball * ball * ball - x * x * y * y * y <= 0
    return _in_polygon(_TRIANGLE if shape == "triangle" else _PENTAGRAM, x, y)


def _in_polygon(
    corners: tuple[tuple[float, float], ...], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a ray from each point crosses the outline an odd number of times."""
    odd = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y1 != y2:
            odd ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return odd
