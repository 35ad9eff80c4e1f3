"""English words for groups, items, places and numbers."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from omni.synthetic.scene import AXES, GRID, RELATIONS, VALUES, Group, Item, Scene, pick, related, shuffled

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATION_WORDS = {
    "left": ("to the left of", "on the left of"),
    "right": ("to the right of", "on the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
CORNERS = {
    (0, 0): "the top left corner",
    (0, GRID - 1): "the top right corner",
    (GRID - 1, 0): "the bottom left corner",
    (GRID - 1, GRID - 1): "the bottom right corner",
}
MASKS = (  # every choice of attributes to name an item by, the broadest first
    ("size",),
    ("colour",),
    ("shape",),
    ("size", "colour"),
    ("size", "shape"),
    ("colour", "shape"),
    ("size", "colour", "shape"),
)


def sentence(text: str) -> str:
    """The text with an initial capital."""
    return text[0].upper() + text[1:]


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def article(words: str) -> str:
    """The words with "a" or "an"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def be(number: int) -> str:
    """ "is" for one, "are" for zero and for several."""
    return "is" if number == 1 else "are"


def plural(shape: str) -> str:
    """The plural of a shape."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def noun(group: Group, number: int) -> str:
    """The noun of one or several members of a group: "small red cross", "blue shapes"."""
    shape = group.shape or "shape"
    words = [word for word in (group.size, group.colour) if word]
    return " ".join([*words, shape if number == 1 else plural(shape)])


def counted(group: Group, number: int) -> str:
    """ "no red circles", "one red circle", "two red circles"."""
    return f"{NUMBERS[number] if number else 'no'} {noun(group, number)}"


def predicate(axis: str, value: str, number: int) -> str:
    """The predicate of one or several items: "red", "a circle", "circles"."""
    if axis != "shape":
        return value
    return article(value) if number == 1 else plural(value)


def kind(item: Item, axes: Sequence[str] = AXES) -> Group:
    """The group of all items that share the named attributes with one."""
    return Group(
        item.size if "size" in axes else None,
        item.colour if "colour" in axes else None,
        item.shape if "shape" in axes else None,
    )


def described(item: Item) -> str:
    """ "a small red cross"."""
    return article(noun(kind(item), 1))


def place(cell: tuple[int, int], rng: Random | None = None) -> str:
    """The place of a cell: "row two, column three"; with `rng`, corners may be named."""
    if cell in CORNERS and rng is not None and rng.random() < 0.5:
        return CORNERS[cell]
    return f"row {NUMBERS[cell[0] + 1]}, column {NUMBERS[cell[1] + 1]}"


def inline_place(cell: tuple[int, int]) -> str:
    """The place of a cell without a comma, for the middle of a sentence."""
    return CORNERS.get(cell, f"column {NUMBERS[cell[1] + 1]} of row {NUMBERS[cell[0] + 1]}")


def refer(scene: Scene, item: Item, rng: Random, hidden: str = "") -> str:
    """A name that fits one item of the scene and no other.

    Args:
        scene: The scene.
        item: The item.
        rng: Chooses among the names that fit.
        hidden: An attribute that the name must not contain, because it is the answer.

    Returns:
        "the red cross"; if attributes are not enough, "the small cross in column two of row one".
    """
    for mask in shuffled(rng, MASKS):
        if hidden not in mask and scene.count(group := kind(item, mask)) == 1:
            return f"the {noun(group, 1)}"
    group = kind(item, [axis for axis in AXES if axis != hidden])
    return f"the {noun(group, 1)} in {inline_place(item.cell)}"


def sample_group(scene: Scene, rng: Random) -> Group:
    """A group to count: mostly one with members, sometimes one that may have none."""
    mask = pick(rng, MASKS if rng.random() < 0.5 else MASKS[:3])
    if rng.random() < 0.75:
        return kind(pick(rng, scene.items), mask)
    while not scene.mentionable(group := Group(**{axis: pick(rng, VALUES[axis]) for axis in mask})):
        pass
    return group


def sample_rivals(scene: Scene, rng: Random) -> tuple[Group, Group] | None:
    """Two groups that differ in one attribute ("red circles", "blue circles"); the first has members."""
    item, axis = pick(rng, scene.items), pick(rng, AXES)
    shared = [other for other in AXES if other != axis and rng.random() < 0.3]
    one = kind(item, [*shared, axis])
    seen = [getattr(other, axis) for other in scene.items] if rng.random() < 0.8 else VALUES[axis]
    values = [value for value in seen if value != getattr(item, axis)]
    if not values:
        return None
    other = Group(**{**{name: getattr(item, name) for name in shared}, axis: pick(rng, values)})
    return (one, other) if scene.mentionable(other) else None


def sample_relation(scene: Scene, rng: Random, one: Item | None = None) -> tuple[Item, str, Item] | None:
    """An item (or the given one), its relation to another, and the other; None if there is no other."""
    if len(scene.items) < 2:
        return None
    one = one or pick(rng, scene.items)
    other = pick(rng, [item for item in scene.items if item.cell != one.cell])
    true = [relation for relation in OPPOSITES if related(relation, one, other)]
    return one, pick(rng, true), other


class NamedRelation(NamedTuple):
    """How one item stands to another.

    Attributes:
        how: One of `RELATIONS`.
        one: A name of the one.
        other: A name of the other.
        places: The rows or columns of both, if their names contain no place.
    """

    how: str
    one: str
    other: str
    places: tuple[str, str] | None


def sample_named_relation(scene: Scene, rng: Random) -> NamedRelation | None:
    """The relation of two random items; None if there is only one."""
    found = sample_relation(scene, rng)
    if found is None:
        return None
    one, how, other = found
    names = refer(scene, one, rng), refer(scene, other, rng)
    axis = RELATIONS[how]
    first, second = (f"{axis} {NUMBERS[getattr(item, axis) + 1]}" for item in (one, other))
    return NamedRelation(how, *names, None if " in " in "".join(names) else (first, second))
