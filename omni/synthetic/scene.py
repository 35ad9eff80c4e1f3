"""Scenes: coloured shapes of two sizes on a grid, drawn at random.

All random choices go through `pick` and `shuffled`, which only use `Random.random`: its sequence is guaranteed to stay
the same between versions of Python.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

T = TypeVar("T")

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = ("small", "large")
RELATIONS = {"left": "column", "right": "column", "above": "row", "below": "row"}  # by the axis that they compare
AXES = ("size", "colour", "shape")
VALUES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
GRID = 4  # number of rows and of columns
CELLS = tuple((row, column) for row in range(GRID) for column in range(GRID))
MAX_ITEMS = 9  # in a scene: number words go up to nine

# Every colour and every shape once. Neither training nor validation text contains these pairs, so a model that names
# one in an image has composed the two words itself.
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("green", "square"),
        ("blue", "triangle"),
        ("yellow", "heart"),
        ("purple", "cross"),
        ("orange", "circle"),
    }
)
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT)


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, uniformly."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: Random, options: Sequence[T], number: int | None = None) -> list[T]:
    """The options in random order, or the first `number` of them (Fisher-Yates)."""
    items = list(options)
    size = len(items)
    number = size if number is None else min(number, size)
    for first in range(number):
        other = first + int(rng.random() * (size - first))
        items[first], items[other] = items[other], items[first]
    return items[:number]


@dataclass(frozen=True, slots=True)
class Item:
    """One coloured shape.

    Attributes:
        size: One of `SIZES`.
        colour: One of `COLOURS`.
        shape: One of `SHAPES`.
        row: 0 is the top row.
        column: 0 is the leftmost column.
    """

    size: str
    colour: str
    shape: str
    row: int
    column: int

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column."""
        return self.row, self.column


@dataclass(frozen=True, slots=True)
class Group:
    """A group of items with common attributes; an attribute that is None may have any value.

    Attributes:
        size: One of `SIZES`, or None.
        colour: One of `COLOURS`, or None.
        shape: One of `SHAPES`, or None.
    """

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def holds(self, item: Item) -> bool:
        """Whether an item belongs to the group."""
        return (
            (self.shape is None or self.shape == item.shape)
            and (self.colour is None or self.colour == item.colour)
            and (self.size is None or self.size == item.size)
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Items on a grid of `GRID` rows and columns, at most one in a cell.

    Attributes:
        items: Sorted in reading order.

    Raises:
        ValueError: If two items share a cell, or one is outside the grid.
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(sorted(self.items, key=lambda item: item.cell)))
        cells = {item.cell for item in self.items}
        if len(cells) < len(self.items) or not cells.issubset(CELLS):
            raise ValueError(f"items must stand in different cells of a {GRID}x{GRID} grid: {self.items}")

    def members(self, group: Group) -> list[Item]:
        """The items of a group, in reading order."""
        return [item for item in self.items if group.holds(item)]

    def count(self, group: Group) -> int:
        """Number of items in a group."""
        return len(self.members(group))

    def mentionable(self, group: Group) -> bool:
        """Whether text about this scene may name the group: held-out pairs are named only if they occur."""
        return (group.colour, group.shape) not in HELD_OUT or self.count(group) > 0

    def changed(self, item: Item, **attributes: str | int) -> "Scene":
        """The scene with other attributes of one item."""
        return Scene((*self.without(item).items, replace(item, **attributes)))

    def without(self, item: Item) -> "Scene":
        """The scene without one item."""
        return Scene(tuple(other for other in self.items if other != item))

    def empty_cells(self) -> list[tuple[int, int]]:
        """Cells without an item, in reading order."""
        taken = {item.cell for item in self.items}
        return [cell for cell in CELLS if cell not in taken]

    def split(self) -> str:
        """`train` or `val`, by a hash of the scene: it is in the same split in every data set and modality."""
        text = ";".join(f"{t.size} {t.colour} {t.shape} {t.row} {t.column}" for t in self.items)
        return "val" if hashlib.sha256(text.encode()).digest()[0] < 26 else "train"  # 26 of 256: a tenth


def related(relation: str, one: Item, other: Item) -> bool:
    """Whether `one` is left of, right of, above or below `other`, at any distance."""
    first, second = (getattr(item, RELATIONS[relation]) for item in (one, other))
    return first < second if relation in ("left", "above") else first > second


def sample_scene(rng: Random, *, most: int = MAX_ITEMS, pairs: Sequence[tuple[str, str]] = PAIRS) -> Scene:
    """Samples a scene.

    Half of the scenes use few colours and shapes, so that groups have several members.

    Args:
        rng: The source of randomness.
        most: Largest number of items, 1 to `MAX_ITEMS`.
        pairs: The (colour, shape) pairs that may occur; by default all except the held-out ones.

    Returns:
        A scene of 1 to `most` items.
    """
    number = 1 + int(rng.random() * most)
    if rng.random() < 0.5:
        colours = shuffled(rng, COLOURS, pick(rng, (2, 3)))
        shapes = shuffled(rng, SHAPES, pick(rng, (2, 3)))
        pairs = [pair for pair in pairs if pair[0] in colours and pair[1] in shapes] or pairs
    items = []
    for row, column in shuffled(rng, CELLS, number):
        colour, shape = pick(rng, pairs)
        items.append(Item(pick(rng, SIZES), colour, shape, row, column))
    return Scene(tuple(items))


def row_id(split: str, index: int) -> str:
    """The id of a row of the world, unique in its folder: `world-train-000000`."""
    return f"world-{split}-{index:06d}"


def scene_at(seed: int, split: str, index: int) -> Scene:
    """The scene of one row of the world, independent of the other rows.

    Args:
        seed: Seed of the world.
        split: `train` or `val`; scenes of the other split are skipped.
        index: Number of the row in its split.
    """
    rng = Random(f"{seed}/{split}/{index}/scene")
    while (scene := sample_scene(rng)).split() != split:
        pass
    return scene
