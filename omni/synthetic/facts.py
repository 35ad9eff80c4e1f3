"""Facts that are true of every scene: definitions of shapes, the order of numbers, opposites of words."""

from random import Random

from omni.synthetic.language import NUMBERS, article, listed, plural, sentence
from omni.synthetic.scene import COLOURS, SHAPES, SIZES, Scene, pick

SIDES = {  # parts that can be counted on a shape
    "square": ("four", "sides"),
    "triangle": ("three", "sides"),
    "star": ("five", "points"),
    "cross": ("four", "arms"),
}
DEFINITIONS = {
    "circle": ("A circle is round.", "A circle has no corners."),
    "square": ("A square has four sides of the same length.", "The four sides of a square have the same length."),
    "triangle": ("A triangle has three sides and three corners.", "A shape with three sides is a triangle."),
    "star": ("A star has five points.", "The points of a star look outwards."),
    "cross": ("A cross has four arms.", "The arms of a cross meet in the middle."),
    "heart": ("A heart has a point at the bottom.", "A heart is round at the top and pointed at the bottom."),
}
WORDS = (
    "Above is the opposite of below.",
    "Left is the opposite of right.",
    "Small is the opposite of large.",
    "The top row is row one.",
    "The leftmost column is column one.",
    "If one shape is above another, then the other is below it.",
    "If one shape is left of another, then the other is right of it.",
    "More is the opposite of fewer.",
)


def definition(scene: Scene, rng: Random) -> str:
    """The definition of one of the scene's shapes."""
    return pick(rng, DEFINITIONS[pick(rng, scene.items).shape])


def membership(scene: Scene, rng: Random) -> str:
    """The kind of a word: "Red is a colour."."""
    item = pick(rng, scene.items)
    return pick(
        rng,
        (
            f"{sentence(item.colour)} is a colour.",
            f"{sentence(item.size)} is a size.",
            f"{sentence(article(item.shape))} is a shape.",
            f"{sentence(item.colour)} is one of the colours {listed(COLOURS)}.",
            f"The shapes are {listed([plural(shape) for shape in SHAPES])}.",
            f"Every shape is {' or '.join(SIZES)}.",
        ),
    )


def number(scene: Scene, rng: Random) -> str:
    """Arithmetic on the number of items, or on two other numbers."""
    a = len(scene.items) if rng.random() < 0.4 else 1 + int(rng.random() * 9)
    b = int(rng.random() * (10 - a))
    one, other, both = NUMBERS[a], NUMBERS[b], NUMBERS[a + b]
    forms = [
        f"{one} plus {other} is {both}.",
        f"{both} minus {other} is {one}.",
        f"{one} and {other} make {both}.",
        f"{both} is {other} more than {one}." if b else f"{one} plus one is more than {one}.",
        f"{one} comes after {NUMBERS[a - 1]}.",
        f"one less than {one} is {NUMBERS[a - 1]}.",
    ]
    if a < 9:
        forms += [f"{one} is between {NUMBERS[a - 1]} and {NUMBERS[a + 1]}.", f"{one} is less than {NUMBERS[a + 1]}."]
    if a > 1:
        forms.append(f"counting to {one} goes {', '.join(NUMBERS[1 : a + 1])}.")
    return sentence(pick(rng, forms))


def word(scene: Scene, rng: Random) -> str:
    """An opposite, or another fact about words."""
    return pick(rng, WORDS)


def product(scene: Scene, rng: Random) -> str | None:
    """Counts the parts of several shapes: "There are two triangles, so together they have six sides."."""
    shape = pick(rng, scene.items).shape
    many = sum(item.shape == shape for item in scene.items)
    if shape not in SIDES or many < 2 or many * NUMBERS.index(SIDES[shape][0]) > 9:
        return None
    each, part = SIDES[shape]
    total = NUMBERS[many * NUMBERS.index(each)]
    name = f"{sentence(article(shape))} has {each} {part}."
    return f"{name} There are {NUMBERS[many]} {plural(shape)}, so together they have {total} {part}."


FACTS = (definition, definition, membership, number, number, word, product)
