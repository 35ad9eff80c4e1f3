"""Reasoning: sentences that give the steps and the conclusion."""

from collections import Counter
from random import Random

from omni.synthetic.language import (
    NUMBERS,
    OPPOSITES,
    RELATION_WORDS,
    be,
    counted,
    kind,
    listed,
    noun,
    predicate,
    refer,
    sample_named_relation,
    sentence,
)
from omni.synthetic.scene import AXES, RELATIONS, Group, Scene, pick, related, shuffled
from omni.synthetic.statements import Statement


def parts(scene: Scene, rng: Random, group: Group | None = None) -> str | None:
    """Adds up a group: "There are two red circles and one blue circle, so there are three circles."."""
    if group is None:
        group = kind(pick(rng, scene.items), [axis for axis in AXES if rng.random() < 0.4])
    for axis in shuffled(rng, [axis for axis in AXES if getattr(group, axis) is None]):
        shared = [name for name in AXES if getattr(group, name) is not None]
        numbers = Counter(kind(item, [*shared, axis]) for item in scene.members(group))
        if 2 <= len(numbers) <= 3:
            break
    else:
        return None
    words = listed([counted(part, number) for part, number in numbers.items()])
    whole = counted(group, numbers.total())
    first = be(next(iter(numbers.values())))
    return pick(
        rng, (f"There {first} {words}, so there are {whole}.", f"There {first} {words}. Together that makes {whole}.")
    )


def remainder(scene: Scene, rng: Random) -> str | None:
    """Subtracts: "Of the five circles, two are red, so three are not."."""
    axis, item = pick(rng, AXES), pick(rng, scene.items)
    group = kind(item, [name for name in AXES if name != axis and rng.random() < 0.4])
    whole, value = scene.count(group), getattr(item, axis)
    part = sum(getattr(member, axis) == value for member in scene.members(group))
    if part == whole:
        return None
    left = whole - part
    some = f"{NUMBERS[part]} {be(part)} {predicate(axis, value, part)}"
    return f"Of the {NUMBERS[whole]} {noun(group, 2)}, {some}, so {NUMBERS[left]} {be(left)} not."


def count_out(scene: Scene, rng: Random, group: Group | None = None) -> str | None:
    """Counts one by one: "Count the circles: one, two, three. There are three circles."."""
    group = group or kind(pick(rng, scene.items), [axis for axis in AXES if rng.random() < 0.4])
    number = scene.count(group)
    if number < 2:
        return None
    start = pick(rng, ("Count the", "Let us count the", "Let me count the"))
    steps = ", ".join(NUMBERS[1 : number + 1])
    return f"{start} {noun(group, 2)}: {steps}. There are {counted(group, number)}."


def inverse(scene: Scene, rng: Random) -> str | None:
    """Inverts a relation: "The star is above the circle, so the circle is below the star."."""
    found = sample_named_relation(scene, rng)
    if found is None:
        return None
    how, a, b, _ = found
    words, turned = pick(rng, tuple(zip(RELATION_WORDS[how], RELATION_WORDS[OPPOSITES[how]], strict=True)))
    return sentence(f"{a} is {words} {b}, so {b} is {turned} {a}.")


def by_place(scene: Scene, rng: Random) -> str | None:
    """Derives a relation from places: "The star is in row one and the circle in ..., so the star is above ..."."""
    found = sample_named_relation(scene, rng)
    if found is None or found.places is None:
        return None
    how, a, b, _ = found
    first, second = found.places
    words = pick(rng, RELATION_WORDS[how])
    return sentence(f"{a} is in {first} and {b} is in {second}, so {a} is {words} {b}.")


def chain(scene: Scene, rng: Random) -> str | None:
    """Chains two relations: "a is above b, and b is above c, so a is above c."."""
    how = pick(rng, tuple(OPPOSITES))
    axis = RELATIONS[how]
    items = sorted(shuffled(rng, scene.items, 3), key=lambda item: getattr(item, axis))
    if how in ("right", "below"):
        items.reverse()
    if len(items) < 3 or not all(related(how, *pair) for pair in (items[:2], items[1:])):
        return None
    a, b, c = (refer(scene, item, rng) for item in items)
    words = pick(rng, RELATION_WORDS[how])
    return sentence(f"{a} is {words} {b}, and {b} is {words} {c}, so {a} is {words} {c}.")


REASONING: tuple[Statement, ...] = (parts, parts, remainder, count_out, inverse, by_place, chain)
