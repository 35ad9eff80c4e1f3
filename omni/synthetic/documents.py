"""Documents: the text of one scene, from a few sentences to about 150 words."""

import re
from collections.abc import Sequence
from random import Random

from omni.synthetic.captions import caption, dense_caption
from omni.synthetic.facts import FACTS
from omni.synthetic.knowledge import sample_question
from omni.synthetic.questions import Question, questions
from omni.synthetic.reasoning import REASONING, parts
from omni.synthetic.scene import Scene, pick, shuffled
from omni.synthetic.statements import STATEMENTS, Statement, commonest, comparison, count, share
from omni.synthetic.stories import PEOPLE, change, consequence

REQUESTS = ("What can you see?", "Please describe the picture.")
_KNOWLEDGE_SHARE = 0.3  # share of exams that need no scene
_QUIZ_QUESTIONS = 7  # questions of an exam
FEW = 6  # things that a document can place one by one and still have room for a story or a dialogue
_BREAK = re.compile(r'(?<=[.?!])"?\s+|^[A-Z]\w+: ', re.MULTILINE)


def sentences(text: str) -> list[str]:
    """The sentences of a document, without the names of who speaks them."""
    return [part for part in _BREAK.split(text) if part]


def _several(scene: Scene, rng: Random, makers: Sequence[Statement], number: int) -> list[str]:
    """Up to `number` different sentences; a poor scene has fewer."""
    found: dict[str, None] = {}  # a set that keeps its order
    for _ in range(4 * number):
        if len(found) == number:
            break
        text = pick(rng, makers)(scene, rng)
        if text is not None:
            found.setdefault(text)
    return list(found)


def _room(scene: Scene, rng: Random) -> int:
    """How many more sentences to say: few about a poor scene, and few where the caption is long."""
    number = len(scene.items)
    return 2 + int(rng.random() * min(1 + number, 6 - number // 2))


def _opening(scene: Scene, rng: Random) -> list[str]:
    """What the rest of the document can be known from; of a full scene, sometimes only the gist."""
    dense = dense_caption(scene, rng) if len(scene.items) <= FEW or rng.random() < 0.4 else []
    return [caption(scene, rng), *dense] if not dense or rng.random() < 0.3 else dense


def description(scene: Scene, rng: Random) -> str:
    """What a scene holds, and what is so in it."""
    opening = _opening(scene, rng)
    return " ".join(opening + _several(scene, rng, STATEMENTS + REASONING, _room(scene, rng)))


def comparisons(scene: Scene, rng: Random) -> str:
    """How the groups of a scene compare in number."""
    makers = (comparison, comparison, comparison, share, count, commonest, parts)
    return " ".join(_opening(scene, rng) + _several(scene, rng, makers, _room(scene, rng)))


def lesson(scene: Scene, rng: Random) -> str:
    """Facts about shapes and numbers, with the scene as the example."""
    facts = _several(scene, rng, FACTS, _room(scene, rng))
    return " ".join([*facts, caption(scene, rng), *_several(scene, rng, REASONING, 2)])


def story(scene: Scene, rng: Random) -> str:
    """A scene that is changed step by step."""
    told = _opening(scene, rng)
    for _ in range(_room(scene, rng) - 1):
        text, scene, item = change(scene, rng)
        told += [text, consequence(scene, rng, item)]
    ending = caption(scene)
    return " ".join([*told, f"In the end, {ending[0].lower()}{ending[1:]}"])


def _answer(question: Question, rng: Random) -> str:
    if rng.random() < 0.2:
        return f"{question.answer.capitalize()}."
    return question.reply if rng.random() < 0.5 else question.steps


def dialogue(scene: Scene, rng: Random) -> str:
    """Two people talk about a scene: one asks, the other answers."""
    questioner, responder = shuffled(rng, PEOPLE, 2)
    turns = questions(scene, rng, _room(scene, rng))
    opening = " ".join(_opening(scene, rng))
    if rng.random() < 0.6:
        lines = [f"{questioner}: {pick(rng, REQUESTS)}", f"{responder}: {opening}"]
        for question in turns:
            lines += [f"{questioner}: {question.text}", f"{responder}: {_answer(question, rng)}"]
        return "\n".join(lines)
    told = [f"{questioner} and {responder} look at a picture.", opening]
    told += [f'{questioner} asks, "{turn.text}" {responder} answers, "{_answer(turn, rng)}"' for turn in turns]
    return " ".join(told)


def quiz(scene: Scene, rng: Random) -> str:
    """One asks and the other answers in a word or two: what is true of every scene, or what is so in this one."""
    questioner, responder = shuffled(rng, PEOPLE, 2)
    lines = []
    if rng.random() < _KNOWLEDGE_SHARE:
        asked = [sample_question(rng) for _ in range(_QUIZ_QUESTIONS)]
    else:
        lines += [f"{questioner}: {pick(rng, REQUESTS)}", f"{responder}: {' '.join(dense_caption(scene, rng))}"]
        asked = [(one.text, one.answer) for one in questions(scene, rng, _QUIZ_QUESTIONS)]
    for question, answer in asked:
        lines += [f"{questioner}: {question}", f"{responder}: {answer}"]
    return "\n".join(lines)


MONOLOGUES = (description, description, comparisons, lesson)
DOCUMENTS = (*MONOLOGUES, story, story, dialogue, dialogue, quiz, quiz, quiz)


def document(scene: Scene, rng: Random) -> str:
    """Write about a scene: a description, a comparison, a lesson, a story, a dialogue or an exam.

    Args:
        scene: what is written about; every sentence is true of it, or of what a story makes of it.
        rng: chooses the kind of text, what is said, and the wordings.

    Returns:
        One paragraph, or one line a turn for some dialogues.
    """
    return pick(rng, DOCUMENTS if len(scene.items) <= FEW else MONOLOGUES)(scene, rng)
