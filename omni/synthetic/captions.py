"""Captions: a whole scene in one sentence, or item by item."""

from collections import Counter
from random import Random

from omni.synthetic.language import article, counted, described, kind, listed, noun, place, sentence
from omni.synthetic.scene import Scene, pick

CAPTIONS = ("the picture shows {words}.", "this is a picture of {words}.", "here you can see {words}.")
PLACE_FIRST = "in {place}, there is {item}."
PLACINGS = (
    "there is {item} in {place}.",
    "{item} is in {place}.",
    PLACE_FIRST,
    "I can see {item} in {place}.",
)


def caption(scene: Scene, rng: Random | None = None) -> str:
    """One sentence for the whole scene, as exact as four items allow.

    Args:
        scene: The scene.
        rng: Chooses the wording; without it, the first wording is used.

    Returns:
        "The picture shows two small red circles and a large blue star."; a fuller scene goes by colour or shape alone.
    """
    for axes in (("size", "colour", "shape"), ("colour", "shape"), ("shape",), ("colour",), ("size",)):
        groups = Counter(kind(item, axes) for item in scene.items)
        if len(groups) <= 4:
            break
    parts = [article(noun(group, 1)) if number == 1 else counted(group, number) for group, number in groups.items()]
    form = CAPTIONS[0] if rng is None else pick(rng, CAPTIONS)
    return sentence(form.format(words=listed(parts)))


def dense_caption(scene: Scene, rng: Random | None = None) -> list[str]:
    """Every item with size, colour, shape and place, in reading order.

    Args:
        scene: The scene.
        rng: Chooses one wording for the whole caption; without it, the place comes first and corners are not named.

    Returns:
        One sentence per item: "In row one, column two, there is a small red circle.".
    """
    form = PLACE_FIRST if rng is None else pick(rng, PLACINGS)
    return [sentence(form.format(item=described(item), place=place(item.cell, rng))) for item in scene.items]
