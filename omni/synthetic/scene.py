"""Scenes: coloured shapes of two sizes on a grid, and the random draws behind them.

Everything random goes through `pick` and `shuffled`, which use `Random.random` alone: the one method whose sequence
Python promises to keep between versions.
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
RELATIONS = ("left", "right", "above", "below")
AXES = ("size", "colour", "shape")
VALUES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
GRID = 4  # rows, and columns
CELLS = tuple((row, column) for row in range(GRID) for column in range(GRID))
MOST = 9  # things in one scene: number words go up to nine

# Every colour and every shape once. No text of the world, in training or validation, holds or mentions these pairs,
# so a model that names one in a picture has put the two words together by itself.
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
    """One of the options, all equally likely."""
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
        size: one of `SIZES`.
        colour: one of `COLOURS`.
        shape: one of `SHAPES`.
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
    """What some things have in common: an attribute that is None may be anything.

    Attributes:
        size: one of `SIZES`, or None.
        colour: one of `COLOURS`, or None.
        shape: one of `SHAPES`, or None.
    """

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def holds(self, item: Item) -> bool:
        """Whether the thing belongs to the group."""
        return (
            (self.shape is None or self.shape == item.shape)
            and (self.colour is None or self.colour == item.colour)
            and (self.size is None or self.size == item.size)
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on a grid of `GRID` rows and columns, at most one in a cell.

    Attributes:
        things: in reading order, whatever order they were given in.

    Raises:
        ValueError: two things share a cell, or one lies outside the grid.
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(sorted(self.items, key=lambda item: item.cell)))
        cells = {item.cell for item in self.items}
        if len(cells) < len(self.items) or not cells.issubset(CELLS):
            raise ValueError(f"items must stand in different cells of a {GRID}x{GRID} grid: {self.items}")

    def members(self, group: Group) -> list[Item]:
        """The things that belong to the group, in reading order."""
        return [item for item in self.items if group.holds(item)]

    def count(self, group: Group) -> int:
        """How many things belong to the group."""
        return len(self.members(group))

    def mentionable(self, group: Group) -> bool:
        """Whether text about this scene may name the group: held-out pairs are named only where they are seen."""
        return (group.colour, group.shape) not in HELD_OUT or self.count(group) > 0

    def changed(self, item: Item, **attributes: str | int) -> "Scene":
        """The same scene with one thing's attributes replaced."""
        return Scene((*self.without(item).items, replace(item, **attributes)))

    def without(self, item: Item) -> "Scene":
        """The same scene with one thing taken away."""
        return Scene(tuple(other for other in self.items if other != item))

    def empty_cells(self) -> list[tuple[int, int]]:
        """Cells where nothing stands, in reading order."""
        taken = {item.cell for item in self.items}
        return [cell for cell in CELLS if cell not in taken]

    def split(self) -> str:
        """`train` or `val`, from the scene alone: one scene falls in the same split in every data set and modality."""
        text = ";".join(f"{t.size} {t.colour} {t.shape} {t.row} {t.column}" for t in self.items)
        return "val" if hashlib.sha256(text.encode()).digest()[0] < 26 else "train"  # 26 of 256: a tenth is for val


def related(relation: str, one: Item, other: Item) -> bool:
    """Whether `one` is left of, right of, above or below `other`, at any distance."""
    if relation in ("left", "right"):
        return one.column < other.column if relation == "left" else one.column > other.column
    return one.row < other.row if relation == "above" else one.row > other.row


def sample_scene(rng: Random, *, most: int = MOST, pairs: Sequence[tuple[str, str]] = PAIRS) -> Scene:
    """Draw a scene.

    Half of the scenes use few colours and shapes, so that there is something to count.

    Args:
        rng: where the randomness comes from.
        most: the largest number of things, 1 to `MOST`.
        pairs: the (colour, shape) pairs that may occur; by default all but the held-out ones.

    Returns:
        A scene of 1 to `most` things.
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
    """The scene of one row of the world, found without drawing the rows before it.

    Args:
        seed: the seed of the whole data set.
        split: `train` or `val`; scenes of the other split are passed over.
        index: the row's number in its split.

    Returns:
        The same scene for the same arguments, always.
    """
    rng = Random(f"{seed}/{split}/{index}/scene")
    while (scene := sample_scene(rng)).split() != split:
        pass
    return scene
