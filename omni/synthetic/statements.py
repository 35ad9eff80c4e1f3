"""Statements: one true sentence about a scene, or None if the scene allows none of that kind."""

from collections import Counter
from collections.abc import Callable
from random import Random

from omni.synthetic.language import (
    NUMBERS,
    RELATION_WORDS,
    be,
    counted,
    described,
    kind,
    listed,
    noun,
    place,
    predicate,
    refer,
    sample_group,
    sample_relation,
    sample_rivals,
    sentence,
)
from omni.synthetic.scene import AXES, GRID, VALUES, Group, Item, Scene, pick

Statement = Callable[[Scene, Random], str | None]


def count(scene: Scene, rng: Random, group: Group | None = None) -> str:
    """The number of members of a group: "There are two red circles."."""
    group = group or sample_group(scene, rng)
    number = scene.count(group)
    form = pick(
        rng,
        (
            "there {be} {words}.",
            "there {be} {words} in the picture.",
            "the picture shows {words}.",
            "the picture has {words}.",
            "I can see {words}.",
            "you can see {words}.",
            "{words} {be} in the picture.",
        ),
    )
    return sentence(form.format(be=be(number), words=counted(group, number)))


def total(scene: Scene, rng: Random) -> str:
    """The number of items."""
    return count(scene, rng, Group())


def position(scene: Scene, rng: Random, item: Item | None = None) -> str:
    """The place of an item: "The red star is in row two, column three."."""
    item = item or pick(rng, scene.items)
    name, where = described(item), place(item.cell, rng)
    if rng.random() < 0.4 and " in " not in (known := refer(scene, item, rng)):
        name = known
        form = pick(rng, ("{name} is in {where}.", "you can find {name} in {where}.", "{name} stands in {where}."))
    else:
        form = pick(rng, ("{name} is in {where}.", "there is {name} in {where}.", "in {where}, there is {name}."))
    return sentence(form.format(name=name, where=where))


def relation(scene: Scene, rng: Random, item: Item | None = None) -> str | None:
    """The relation of an item to another: "The red circle is above the blue star."."""
    found = sample_relation(scene, rng, item)
    if found is None:
        return None
    one, how, other = found
    words = pick(rng, RELATION_WORDS[how])
    return sentence(f"{refer(scene, one, rng)} is {words} {refer(scene, other, rng)}.")


def comparison(scene: Scene, rng: Random) -> str | None:
    """The larger of two groups: "There are more circles than squares."."""
    rivals = sample_rivals(scene, rng)
    return rivals and compare(scene, rng, *rivals)


def compare(scene: Scene, rng: Random, one: Group, other: Group) -> str:
    """The sizes of two groups, compared."""
    first, second = scene.count(one), scene.count(other)
    if first == second:
        form = pick(rng, ("There are as many {a} as {b}.", "There are just as many {b} as {a}."))
        return form.format(a=noun(one, 2), b=noun(other, 2))
    if first < second:
        one, other, first, second = other, one, second, first
    forms = ["There are more {a} than {b}.", "There are fewer {b} than {a}."]
    if second:
        forms += [
            "There {be} {many} and {few}, so there are more {a} than {b}.",
            "There {be} {many} and {few}, which is a difference of {gap}.",
        ]
    return pick(rng, forms).format(
        a=noun(one, 2),
        b=noun(other, 2),
        be=be(first),
        many=counted(one, first),
        few=counted(other, second),
        gap=NUMBERS[first - second],
    )


def share(scene: Scene, rng: Random) -> str | None:
    """The share of a group with an attribute: "All the circles are red.", "One of the four circles is red."."""
    axis = pick(rng, AXES)
    item = pick(rng, scene.items)
    group = kind(item, [other for other in AXES if other != axis and rng.random() < 0.4])
    members = scene.members(group)
    if len(members) < 2:
        return None
    value = getattr(item, axis) if rng.random() < 0.7 else pick(rng, VALUES[axis])
    if not scene.mentionable(Group(**{**{name: getattr(group, name) for name in AXES}, axis: value})):
        return None
    return _share_sentence(rng, group, axis, value, [getattr(member, axis) == value for member in members])


def _share_sentence(rng: Random, group: Group, axis: str, value: str, fits: list[bool]) -> str:
    """The share of a group that fits a predicate; `fits` has an entry for each of its two or more members."""
    whole, part = len(fits), sum(fits)
    one, several = predicate(axis, value, 1), predicate(axis, value, 2)
    if part == whole:
        forms = (f"All the {noun(group, 2)} are {several}.", f"Every {noun(group, 1)} is {one}.")
    elif part == 0:
        forms = (f"None of the {noun(group, 2)} is {one}.", f"No {noun(group, 1)} is {one}.")
    else:
        words = f"{NUMBERS[part]} of the {NUMBERS[whole]} {noun(group, 2)} {be(part)} {one if part == 1 else several}."
        forms = (sentence(words), f"Only {words}", f"Not every {noun(group, 1)} is {one}.")
    return pick(rng, forms)


def line(scene: Scene, rng: Random) -> str:
    """The content of a row or a column: "Row two is empty."."""
    axis, number = pick(rng, ("row", "column")), int(rng.random() * GRID)
    name = f"{axis} {NUMBERS[number + 1]}"
    items = [item for item in scene.items if getattr(item, axis) == number]
    if not items:
        return sentence(pick(rng, (f"{name} is empty.", f"there is nothing in {name}.")))
    words = counted(Group(), len(items))
    holds = f"{name} holds {listed([described(item) for item in items])}."
    return sentence(pick(rng, (holds, f"there {be(len(items))} {words} in {name}.", f"{name} has {words}.")))


def commonest(scene: Scene, rng: Random) -> str | None:
    """The most common colour or shape, if there is only one."""
    axis = pick(rng, ("colour", "shape"))
    ranking = Counter(getattr(item, axis) for item in scene.items).most_common(2)
    if ranking[0][1] < 2 or (len(ranking) == 2 and ranking[0][1] == ranking[1][1]):
        return None
    value = ranking[0][0]
    if axis == "colour":
        return pick(rng, (f"The most common colour is {value}.", f"{sentence(value)} is the most common colour."))
    return pick(rng, (f"The most common shape is the {value}.", f"The {value} is the most common shape."))


STATEMENTS: tuple[Statement, ...] = (count, total, position, relation, relation, comparison, share, line, commonest)
