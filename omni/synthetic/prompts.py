"""Prompts of conversations about the world, worded so that the answer follows from them to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from omni.synthetic.captions import dense_caption
from omni.synthetic.language import be, counted, sample_group
from omni.synthetic.questions import KINDS, colour_question, questions, shape_question
from omni.synthetic.scene import Scene, pick

DESCRIBE = (
    "Describe every shape in the picture.",
    "Where is what in the picture?",
    "Tell me all that you see, one by one.",
)
TRANSCRIBE = ("Write down what is said.", "What does the voice say?", "Please write down the words that you hear.")
VERIFY = ("Is that true?", "Is it so in the picture?", "Does the voice tell the truth about the picture?")
RESPOND = ("Answer the voice.", "Do as the voice says.", "What is the answer?")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and its only answer.

    Attributes:
        task: Name of the task.
        text: The prompt.
        answer: The reference that an answer is compared with.
    """

    task: str
    text: str
    answer: str


def scene_questions(scene: Scene, rng: Random, number: int, kinds: Sequence[str] = KINDS) -> list[Exchange]:
    """Questions about a scene, of different kinds, each with an answer of one or two words."""
    return [Exchange(task_name(one.kind), one.text, one.answer) for one in questions(scene, rng, number, kinds)]


def dense_description(scene: Scene, rng: Random) -> Exchange:
    """Every item with its size, colour, shape and place, in reading order."""
    return Exchange("caption", pick(rng, DESCRIBE), " ".join(dense_caption(scene)))


def held_out_question(scene: Scene, rng: Random) -> Exchange:
    """The colour or the shape of the only item of a scene, a pair that training never shows."""
    question = pick(rng, (colour_question, shape_question))(scene, rng)
    return Exchange("composition", question.text, question.answer)


def sample_claim(scene: Scene, rng: Random, other: Scene) -> tuple[str, bool]:
    """A claim that is true of a scene, or only of another scene: the sentence, and whether it is true of the first."""
    honest = rng.random() < 0.5
    while True:
        source = scene if honest else other
        group = sample_group(source, rng)
        number = source.count(group)
        if scene.mentionable(group) and (scene.count(group) == number) == honest:
            return f"There {be(number)} {counted(group, number)}.", honest
        if rng.random() < 0.05:  # the other scene may be very similar
            honest = True


def claim_question(scene: Scene, rng: Random, other: Scene) -> Exchange:
    """A written claim and the question whether it is true."""
    claim, true = sample_claim(scene, rng, other)
    return Exchange("claim", f"{claim} {pick(rng, VERIFY[:2])}", "yes" if true else "no")


def task_name(kind: str) -> str:
    """The task of a kind of question."""
    return kind.replace("/", "-")
