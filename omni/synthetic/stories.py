"""Stories: a scene that changes step by step, and what is true after each step."""

from collections.abc import Callable
from random import Random

from omni.synthetic import statements
from omni.synthetic.language import described, kind, place, refer
from omni.synthetic.scene import COLOURS, MAX_ITEMS, PAIRS, SIZES, Item, Scene, pick, shuffled

PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo")

# The sentence about a change, the scene after it, and the changed item (None if it was removed).
Change = tuple[str, Scene, Item | None]


def move(scene: Scene, rng: Random, who: str) -> Change | None:
    """Moves an item to an empty cell."""
    item, cell = pick(rng, scene.items), pick(rng, scene.empty_cells())
    name = refer(scene, item, rng)
    after = scene.changed(item, row=cell[0], column=cell[1])
    return f"{who} {pick(rng, ('moves', 'takes'))} {name} to {place(cell, rng)}.", after, _at(after, cell)


def add(scene: Scene, rng: Random, who: str) -> Change | None:
    """Adds an item."""
    if len(scene.items) == MAX_ITEMS:
        return None
    colour, shape = pick(rng, PAIRS)
    item = Item(pick(rng, SIZES), colour, shape, *pick(rng, scene.empty_cells()))
    form = pick(rng, ("{who} adds {item} in {place}.", "{who} puts {item} in {place}."))
    text = form.format(who=who, item=described(item), place=place(item.cell, rng))
    return text, Scene((*scene.items, item)), item


def remove(scene: Scene, rng: Random, who: str) -> Change | None:
    """Removes an item."""
    if len(scene.items) == 1:
        return None
    item = pick(rng, scene.items)
    return f"{who} {pick(rng, ('takes away', 'removes'))} {refer(scene, item, rng)}.", scene.without(item), None


def paint(scene: Scene, rng: Random, who: str) -> Change | None:
    """Changes the colour of an item."""
    item = pick(rng, scene.items)
    colours = [colour for colour in COLOURS if colour != item.colour and (colour, item.shape) in PAIRS]
    colour = pick(rng, colours)
    after = scene.changed(item, colour=colour)
    return f"{who} paints {refer(scene, item, rng)} {colour}.", after, _at(after, item.cell)


def resize(scene: Scene, rng: Random, who: str) -> Change | None:
    """Changes the size of an item."""
    item = pick(rng, scene.items)
    size = SIZES[1 - SIZES.index(item.size)]
    after = scene.changed(item, size=size)
    return f"{who} makes {refer(scene, item, rng)} {size}.", after, _at(after, item.cell)


def swap(scene: Scene, rng: Random, who: str) -> Change | None:
    """Swaps two different items."""
    one, other = shuffled(rng, scene.items, 2) if len(scene.items) > 1 else (None, None)
    if one is None or other is None or kind(one) == kind(other):
        return None
    text = f"{who} swaps {refer(scene, one, rng)} and {refer(scene, other, rng)}."
    rest = scene.without(one).without(other).items
    moved = Item(one.size, one.colour, one.shape, other.row, other.column)
    return text, Scene((*rest, moved, Item(other.size, other.colour, other.shape, one.row, one.column))), moved


CHANGES: tuple[Callable[[Scene, Random, str], Change | None], ...] = (move, move, add, remove, paint, resize, swap)


def _at(scene: Scene, cell: tuple[int, int]) -> Item:
    return next(item for item in scene.items if item.cell == cell)


def change(scene: Scene, rng: Random) -> Change:
    """Changes a scene into another one of the same split, so that no training story contains a validation scene.

    Args:
        scene: The scene before.
        rng: Chooses the change.

    Returns:
        The sentence about the change, the scene after it, and the changed item (None if it was removed).
    """
    who = "Someone" if rng.random() < 0.3 else pick(rng, PEOPLE)
    while True:
        found = pick(rng, CHANGES)(scene, rng, who)
        if found is not None and found[1].split() == scene.split():
            return found


def consequence(scene: Scene, rng: Random, item: Item | None) -> str:
    """A true sentence about the scene after a change, about the changed item if it still exists."""
    if item is None:
        text = pick(rng, (statements.total, statements.count, statements.line))(scene, rng)
    else:
        axes = pick(rng, (("colour",), ("shape",), ("size",), ("colour", "shape")))
        about = pick(rng, ("count", "count", "relation", "relation", "total"))
        text = statements.relation(scene, rng, item) if about == "relation" else None
        text = text or (
            statements.total(scene, rng) if about == "total" else statements.count(scene, rng, kind(item, axes))
        )
    return f"Now {text if text.startswith('I ') else text[0].lower() + text[1:]}"
