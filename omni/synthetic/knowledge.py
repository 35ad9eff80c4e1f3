"""Questions of general knowledge, which need no image, and their only answers."""

from collections.abc import Callable
from random import Random

from omni.synthetic.facts import SIDES
from omni.synthetic.language import NUMBERS
from omni.synthetic.scene import VALUES, pick, shuffled

_OPPOSITES = (("above", "below"), ("left", "right"), ("small", "large"), ("more", "fewer"))
_MOST = len(NUMBERS) - 1

# Many wordings, so that a model must recognise the words and cannot memorise whole sentences.
_OPPOSITE = (
    *("What is the opposite of {}?", "Say the opposite of {}.", "Which word is the opposite of {}?"),
    *("Tell me the opposite of {}.", "What do you call the opposite of {}?"),
)
_SUM = (
    *("What is {} plus {}?", "How much are {} and {}?", "Add {} and {}.", "What do {} and {} make?"),
    *("How much is {} plus {}?", "Please add {} and {}.", "How many are {} and {} together?"),
)
_DIFFERENCE = ("What is {} minus {}?", "How much is {} minus {}?", "What is {} less {}?")
_AFTER = (
    *("Which number comes after {}?", "What is one more than {}?", "Say the number after {}."),
    *("Which number is one more than {}?", "What comes after {}?"),
)
_BEFORE = (
    *("Which number comes before {}?", "What is one less than {}?", "Say the number before {}."),
    *("Which number is one less than {}?", "What comes before {}?"),
)
_BETWEEN = ("Which number is between {} and {}?", "Say the number between {} and {}.", "What is between {} and {}?")
_COUNT = ("Count from {} to {}.", "Please count from {} to {}.", "Say the numbers from {} to {}.")
_PARTS = (
    *("How many {parts} does a {shape} have?", "A {shape} has how many {parts}?"),
    *("Say how many {parts} a {shape} has.", "Tell me how many {parts} a {shape} has."),
)
_SHAPE = ("Which shape has {number} {parts}?", "What has {number} {parts}?", "Name the shape with {number} {parts}.")
_KIND = (
    *("Is {} a colour, a shape or a size?", "What is {}, a colour, a shape or a size?"),
    *("Is {} a size, a shape or a colour?", "Say whether {} is a colour, a shape or a size."),
)


def _opposite(rng: Random) -> tuple[str, str]:
    one, other = shuffled(rng, pick(rng, _OPPOSITES))
    return pick(rng, _OPPOSITE).format(one), other


def _sum(rng: Random) -> tuple[str, str]:
    total = 2 + int(rng.random() * (_MOST - 1))
    first = 1 + int(rng.random() * (total - 1))
    return pick(rng, _SUM).format(NUMBERS[first], NUMBERS[total - first]), NUMBERS[total]


def _difference(rng: Random) -> tuple[str, str]:
    first = 2 + int(rng.random() * (_MOST - 1))
    second = 1 + int(rng.random() * (first - 1))
    return pick(rng, _DIFFERENCE).format(NUMBERS[first], NUMBERS[second]), NUMBERS[first - second]


def _neighbour(rng: Random) -> tuple[str, str]:
    number = 1 + int(rng.random() * (_MOST - 1))
    before, word, after = NUMBERS[number - 1 : number + 2]
    return pick(
        rng,
        (
            (pick(rng, _AFTER).format(word), after),
            (pick(rng, _BEFORE).format(word), before),
            (pick(rng, _BETWEEN).format(before, after), word),
        ),
    )


def _count(rng: Random) -> tuple[str, str]:
    first = 1 if rng.random() < 0.5 else 1 + int(rng.random() * (_MOST - 1))
    last = first + 1 + int(rng.random() * (_MOST - first))
    return pick(rng, _COUNT).format(NUMBERS[first], NUMBERS[last]), " ".join(NUMBERS[first : last + 1])


def _parts(rng: Random) -> tuple[str, str]:
    shape = pick(rng, tuple(SIDES))
    number, parts = SIDES[shape]
    if rng.random() < 0.5:
        return pick(rng, _PARTS).format(parts=parts, shape=shape), number
    return pick(rng, _SHAPE).format(number=number, parts=parts), shape


def _kind(rng: Random) -> tuple[str, str]:
    kind = pick(rng, ("colour", "shape", "size"))
    return pick(rng, _KIND).format(pick(rng, VALUES[kind])), kind


_MAKERS: tuple[Callable[[Random], tuple[str, str]], ...] = (
    *(_opposite, _sum, _difference, _neighbour, _count, _parts, _kind),
)


def sample_question(rng: Random) -> tuple[str, str]:
    """A question or request, and its answer: one word, or a sequence of numbers."""
    return pick(rng, _MAKERS)(rng)
