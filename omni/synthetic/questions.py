"""Questions about a scene, with answers in a word, in a sentence, and with the steps to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from omni.synthetic import reasoning
from omni.synthetic.language import (
    NUMBERS,
    OPPOSITES,
    RELATION_WORDS,
    be,
    counted,
    inline_place,
    kind,
    noun,
    predicate,
    refer,
    sample_group,
    sample_named_relation,
    sample_rivals,
    sentence,
)
from omni.synthetic.scene import AXES, RELATIONS, SIZES, VALUES, Group, Scene, pick, shuffled


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene, and its answer.

    Attributes:
        kind: One of `KINDS`.
        text: The question.
        answer: The reference for scoring: one or a few lower-case words.
        reply: The answer as a sentence.
        steps: The answer after the reasoning; the same as `reply` if there is nothing to reason.
    """

    kind: str
    text: str
    answer: str
    reply: str
    steps: str


def count_question(scene: Scene, rng: Random) -> Question:
    """The number of members of a group; the answer is a number word."""
    group = Group() if rng.random() < 0.1 else sample_group(scene, rng)
    number, words = scene.count(group), noun(group, 2)
    text = pick(
        rng,
        (
            f"How many {words} are there?",
            f"How many {words} can you see?",
            f"How many {words} are in the picture?",
            f"What is the number of {words}?",
        ),
    )
    reply = f"There {be(number)} {counted(group, number)}."
    why = reasoning.parts(scene, rng, group) if rng.random() < 0.5 else None
    return Question("count", text, NUMBERS[number], reply, why or reasoning.count_out(scene, rng, group) or reply)


def colour_question(scene: Scene, rng: Random) -> Question:
    """The colour of an item."""
    item = pick(rng, scene.items)
    name = refer(scene, item, rng, hidden="colour")
    text = pick(rng, (f"What colour is {name}?", f"Which colour does {name} have?", f"What is the colour of {name}?"))
    reply = sentence(f"{name} is {item.colour}.")
    return Question("colour", text, item.colour, reply, reply)


def shape_question(scene: Scene, rng: Random) -> Question:
    """The shape of an item."""
    item = pick(rng, scene.items)
    if rng.random() < 0.4:
        where = inline_place(item.cell)
        text, reply = f"Which shape is in {where}?", f"There is {predicate('shape', item.shape, 1)} in {where}."
    else:
        name = refer(scene, item, rng, hidden="shape")
        text = pick(rng, (f"What is {name}?", f"What kind of shape is {name}?"))
        reply = sentence(f"{name} is {predicate('shape', item.shape, 1)}.")
    return Question("shape", text, item.shape, reply, reply)


def relation_question(scene: Scene, rng: Random) -> Question | None:
    """The side of another item that an item is on; the answer is one of `RELATIONS`."""
    found = sample_named_relation(scene, rng)
    if found is None:
        return None
    how, a, b, places = found
    first, second = shuffled(rng, (how, OPPOSITES[how]))
    if RELATIONS[how] == "column":
        texts = (f"Is {a} {first} or {second} of {b}?", f"Is {a} to the {first} or to the {second} of {b}?")
    else:
        texts = (f"Is {a} {first} or {second} {b}?", f"Where is {a}, {first} or {second} {b}?")
    reply = sentence(f"{a} is {pick(rng, RELATION_WORDS[how])} {b}.")
    steps = reply
    if places is not None:
        steps = sentence(f"{a} is in {places[0]} and {b} is in {places[1]}, so {reply[0].lower()}{reply[1:]}")
    return Question("relation", pick(rng, texts), how, reply, steps)


def yes_no_question(scene: Scene, rng: Random) -> Question | None:
    """Whether something is true: existence, an attribute, a relation, or an attribute of a whole group."""
    return pick(rng, (_exists_question, _attribute_question, _related_question, _all_question))(scene, rng)


def _yes_no(true: bool, text: str, truth: str) -> Question:
    answer = "yes" if true else "no"
    reply = f"{sentence(answer)}, {truth[0].lower()}{truth[1:]}"
    return Question("yes/no", text, answer, reply, reply)


def _exists_question(scene: Scene, rng: Random) -> Question | None:
    if rng.random() < 0.5:
        group = kind(pick(rng, scene.items), pick(rng, (("colour",), ("shape",), ("colour", "shape"), AXES)))
    else:
        group = Group(pick(rng, (None, *SIZES)), pick(rng, VALUES["colour"]), pick(rng, VALUES["shape"]))
    if not scene.mentionable(group):
        return None
    number = scene.count(group)
    text = pick(rng, (f"Are there any {noun(group, 2)}?", f"Can you see any {noun(group, 2)}?"))
    return _yes_no(number > 0, text, f"there {be(number)} {counted(group, number)}.")


def _attribute_question(scene: Scene, rng: Random) -> Question | None:
    item, axis = pick(rng, scene.items), pick(rng, AXES)
    name, true = refer(scene, item, rng, hidden=axis), getattr(item, axis)
    value = true if rng.random() < 0.5 else pick(rng, [value for value in VALUES[axis] if value != true])
    if not scene.mentionable(Group(**{"colour": item.colour, "shape": item.shape, axis: value})):
        return None
    text = f"Is {name} {predicate(axis, value, 1)}?"
    return _yes_no(value == true, text, f"{name} is {predicate(axis, true, 1)}.")


def _related_question(scene: Scene, rng: Random) -> Question | None:
    found = sample_named_relation(scene, rng)
    if found is None:
        return None
    how, a, b, _ = found
    claimed = pick(rng, (how, OPPOSITES[how]))
    text = f"Is {a} {pick(rng, RELATION_WORDS[claimed])} {b}?"
    return _yes_no(claimed == how, text, f"{a} is {pick(rng, RELATION_WORDS[how])} {b}.")


def _all_question(scene: Scene, rng: Random) -> Question | None:
    axis, item = pick(rng, AXES), pick(rng, scene.items)
    group = kind(item, pick(rng, [(name,) for name in AXES if name != axis]))
    members, value = scene.members(group), getattr(item, axis)
    if len(members) < 2:
        return None
    fits = sum(getattr(member, axis) == value for member in members)
    whole, several = noun(group, 2), predicate(axis, value, 2)
    truth = f"all the {whole} are {several}."
    if fits < len(members):
        truth = (
            f"only {NUMBERS[fits]} of the {NUMBERS[len(members)]} {whole} {be(fits)} {predicate(axis, value, fits)}."
        )
    return _yes_no(fits == len(members), f"Are all the {whole} {several}?", truth)


def compare_question(scene: Scene, rng: Random) -> Question | None:
    """The larger of two groups; the answer is its plural, or "neither"."""
    rivals = sample_rivals(scene, rng)
    if rivals is None:
        return None
    one, other = shuffled(rng, rivals)
    a, b = noun(one, 2), noun(other, 2)
    first, second = scene.count(one), scene.count(other)
    text = pick(rng, (f"Are there more {a} or more {b}?", f"Which are there more of, {a} or {b}?"))
    if first == second:
        return Question("compare", text, "neither", f"There are as many {a} as {b}.", f"There are as many {a} as {b}.")
    more, less = (a, b) if first > second else (b, a)
    reply = f"There are more {more} than {less}."
    steps = f"There {be(first)} {counted(one, first)} and {counted(other, second)}, so t{reply[1:]}"
    return Question("compare", text, more, reply, steps)


def place_question(scene: Scene, rng: Random) -> Question | None:
    """The row or the column of an item that is named without its place; the answer is a number word."""
    item = pick(rng, scene.items)
    name = refer(scene, item, rng)
    if " in " in name:
        return None
    axis = pick(rng, ("row", "column"))
    number = NUMBERS[getattr(item, axis) + 1]
    reply = sentence(f"{name} is in {axis} {number}.")
    return Question("place", f"In which {axis} is {name}?", number, reply, reply)


QUESTION_MAKERS: dict[str, Callable[[Scene, Random], Question | None]] = {
    "count": count_question,
    "colour": colour_question,
    "shape": shape_question,
    "relation": relation_question,
    "yes/no": yes_no_question,
    "compare": compare_question,
}
KINDS = tuple(QUESTION_MAKERS)
# Places and relations come more often: a model that cannot locate an item cannot relate it to another, which is learned
# last.
TRAINING_KINDS = (*KINDS, "place", "place", "relation")
_ALL_MAKERS = {**QUESTION_MAKERS, "place": place_question}


def questions(scene: Scene, rng: Random, number: int, kinds: Sequence[str] = KINDS) -> list[Question]:
    """Several different questions about a scene.

    Args:
        scene: The scene.
        rng: Chooses kinds, subjects and wordings.
        number: Number of questions.
        kinds: Kinds of questions, in turn: six questions are of six kinds if the scene allows it.

    Returns:
        Up to `number` questions, no two with the same text.
    """
    found: dict[str, Question] = {}
    left: list[str] = []
    for _ in range(8 * number):  # a poor scene runs out of new questions
        if len(found) == number:
            break
        left = left or shuffled(rng, kinds)
        question = _ALL_MAKERS[left.pop()](scene, rng)
        if question is not None:
            found.setdefault(question.text, question)
    return list(found.values())
