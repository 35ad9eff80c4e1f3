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
_KNOWLEDGE_SHARE = 0.3  # of quizzes that need no scene
_QUIZ_QUESTIONS = 7
FEW = 6  # items: a document that places all of them still has room for a story or a dialogue
_BREAK = re.compile(r'(?<=[.?!])"?\s+|^[A-Z]\w+: ', re.MULTILINE)


def sentences(text: str) -> list[str]:
    """The sentences of a document, without the names of speakers."""
    return [part for part in _BREAK.split(text) if part]


def _several(scene: Scene, rng: Random, makers: Sequence[Statement], number: int) -> list[str]:
    """Up to `number` different sentences; a small scene may allow fewer."""
    found: dict[str, None] = {}  # an ordered set
    for _ in range(4 * number):
        if len(found) == number:
            break
        text = pick(rng, makers)(scene, rng)
        if text is not None:
            found.setdefault(text)
    return list(found)


def _room(scene: Scene, rng: Random) -> int:
    """Number of sentences after the opening: few for a scene of few items, and few after a long caption."""
    number = len(scene.items)
    return 2 + int(rng.random() * min(1 + number, 6 - number // 2))


def _opening(scene: Scene, rng: Random) -> list[str]:
    """The description that the rest follows from; for a full scene sometimes only a caption."""
    dense = dense_caption(scene, rng) if len(scene.items) <= FEW or rng.random() < 0.4 else []
    return [caption(scene, rng), *dense] if not dense or rng.random() < 0.3 else dense


def description(scene: Scene, rng: Random) -> str:
    """The items of a scene, and statements about them."""
    opening = _opening(scene, rng)
    return " ".join(opening + _several(scene, rng, STATEMENTS + REASONING, _room(scene, rng)))


def comparisons(scene: Scene, rng: Random) -> str:
    """Comparisons of the sizes of groups."""
    makers = (comparison, comparison, comparison, share, count, commonest, parts)
    return " ".join(_opening(scene, rng) + _several(scene, rng, makers, _room(scene, rng)))


def lesson(scene: Scene, rng: Random) -> str:
    """Facts about shapes and numbers, with the scene as an example."""
    facts = _several(scene, rng, FACTS, _room(scene, rng))
    return " ".join([*facts, caption(scene, rng), *_several(scene, rng, REASONING, 2)])


def story(scene: Scene, rng: Random) -> str:
    """A scene that changes step by step."""
    texts = _opening(scene, rng)
    for _ in range(_room(scene, rng) - 1):
        text, scene, item = change(scene, rng)
        texts += [text, consequence(scene, rng, item)]
    ending = caption(scene)
    return " ".join([*texts, f"In the end, {ending[0].lower()}{ending[1:]}"])


def _answer(question: Question, rng: Random) -> str:
    if rng.random() < 0.2:
        return f"{question.answer.capitalize()}."
    return question.reply if rng.random() < 0.5 else question.steps


def dialogue(scene: Scene, rng: Random) -> str:
    """Questions and answers of two people about a scene."""
    questioner, responder = shuffled(rng, PEOPLE, 2)
    turns = questions(scene, rng, _room(scene, rng))
    opening = " ".join(_opening(scene, rng))
    if rng.random() < 0.6:
        lines = [f"{questioner}: {pick(rng, REQUESTS)}", f"{responder}: {opening}"]
        for question in turns:
            lines += [f"{questioner}: {question.text}", f"{responder}: {_answer(question, rng)}"]
        return "\n".join(lines)
    texts = [f"{questioner} and {responder} look at a picture.", opening]
    texts += [f'{questioner} asks, "{turn.text}" {responder} answers, "{_answer(turn, rng)}"' for turn in turns]
    return " ".join(texts)


def quiz(scene: Scene, rng: Random) -> str:
    """Questions of one person and short answers of another: general knowledge, or about the scene."""
    questioner, responder = shuffled(rng, PEOPLE, 2)
    lines = []
    if rng.random() < _KNOWLEDGE_SHARE:
        exchanges = [sample_question(rng) for _ in range(_QUIZ_QUESTIONS)]
    else:
        lines += [f"{questioner}: {pick(rng, REQUESTS)}", f"{responder}: {' '.join(dense_caption(scene, rng))}"]
        exchanges = [(one.text, one.answer) for one in questions(scene, rng, _QUIZ_QUESTIONS)]
    for question, answer in exchanges:
        lines += [f"{questioner}: {question}", f"{responder}: {answer}"]
    return "\n".join(lines)


MONOLOGUES = (description, description, comparisons, lesson)
DOCUMENTS = (*MONOLOGUES, story, story, dialogue, dialogue, quiz, quiz, quiz)


def document(scene: Scene, rng: Random) -> str:
    """Text about a scene: a description, a comparison, a lesson, a story, a dialogue or a quiz.

    Args:
        scene: The scene; every sentence is true of it, or of its changes in a story.
        rng: Chooses the kind of text, its content and its wording.

    Returns:
        One paragraph; in some dialogues, one line per turn.
    """
    return pick(rng, DOCUMENTS if len(scene.items) <= FEW else MONOLOGUES)(scene, rng)
