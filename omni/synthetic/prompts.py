"""Asking: what conversations about the world ask for, in words that the answer follows from, to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from omni.synthetic.captions import dense_caption
from omni.synthetic.language import be, counted, sample_group
from omni.synthetic.questions import KINDS, ask_colour, ask_shape, questions
from omni.synthetic.scene import Scene, pick

DESCRIBE = (
    "Describe every shape in the picture.",
    "Where is what in the picture?",
    "Tell me all that you see, one by one.",
)
TRANSCRIBE = ("Write down what is said.", "What does the voice say?", "Please write down the words that you hear.")
JUDGE = ("Is that true?", "Is it so in the picture?", "Does the voice tell the truth about the picture?")
OBEY = ("Answer the voice.", "Do as the voice says.", "What is the answer?")


@dataclass(frozen=True, slots=True)
class Exchange:
    """Something that is asked, and the one answer to it.

    Attributes:
        task: what it is about.
        text: the question.
        answer: what an answer is compared with.
    """

    task: str
    text: str
    answer: str


def about(scene: Scene, rng: Random, number: int, kinds: Sequence[str] = KINDS) -> list[Exchange]:
    """Questions about a picture, of different kinds, each answered in a word or two."""
    return [Exchange(_task(one.kind), one.text, one.answer) for one in questions(scene, rng, number, kinds)]


def described(scene: Scene, rng: Random) -> Exchange:
    """Every thing with its size, colour, shape and place, in reading order."""
    return Exchange("caption", pick(rng, DESCRIBE), " ".join(dense_caption(scene)))


def unfamiliar(scene: Scene, rng: Random) -> Exchange:
    """The colour or the shape of a scene's only thing, which is of a pair that training never shows."""
    question = pick(rng, (ask_colour, ask_shape))(scene, rng)
    return Exchange("composition", question.text, question.answer)


def claim(scene: Scene, rng: Random, other: Scene) -> tuple[str, bool]:
    """Something said of a picture that is so in it, or in another picture only: the words, and whether it is so."""
    honest = rng.random() < 0.5
    while True:
        told = scene if honest else other
        group = sample_group(told, rng)
        number = told.count(group)
        if scene.mentionable(group) and (scene.count(group) == number) == honest:
            return f"There {be(number)} {counted(group, number)}.", honest
        if rng.random() < 0.05:  # the other scene may be much like this one
            honest = True


def claimed(scene: Scene, rng: Random, other: Scene) -> Exchange:
    """The same in writing, to be judged."""
    words, true = claim(scene, rng, other)
    return Exchange("claim", f"{words} {pick(rng, JUDGE[:2])}", "yes" if true else "no")


def _task(kind: str) -> str:
    return kind.replace("/", "-")
