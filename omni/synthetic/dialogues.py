"""Talks: one conversation about the world at a time, and what is drawn and said for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from omni.synthetic import images, knowledge
from omni.synthetic import prompts as asking
from omni.synthetic.captions import dense_caption
from omni.synthetic.drawing import draw
from omni.synthetic.prompts import Exchange
from omni.synthetic.questions import ASKERS, PRACTISED
from omni.synthetic.scene import HELD_OUT, Scene, pick, sample_scene, scene_at
from omni.synthetic.speech import NARRATION, SPEAKERS, Utterance, sayable, spoken, utterance

_QUESTIONS = 10  # about a picture: what a small model learns of looking goes by the questions it has answered
_DENSE = 0.3  # share of training's pictures that are described thing by thing; without any it learns to guess
_SPOKEN = 3  # things that a voice asks or tells in one of training's conversations
_ASIDE = 2  # questions in writing, behind those that are asked aloud
_WRITTEN = 0.2  # share of training's questions, orders and claims by a voice that are written down, too
_FEW = 4  # most things in a picture that is talked about: a small model learns to look where there are few
_CLAIMED = 0.6  # share of training's pictures of which something is said that may be so or not; twice, as often
_KNOWN = 6  # questions in one conversation that need no picture
_SHARES = (("look", 0.52), ("listen", 0.15), ("transcribe", 0.07), ("text", 0.13), ("both", 0.08), ("command", 0.05))
_ASKED = (*ASKERS, "listen", "both", "command", "text", "transcribe", "composition")  # in turn, of validation
_ALOUD = 0.1  # share of training's answers of some tasks that are also said, in the narrator's voice
_SAID = ("spoken", "command", "text")  # these tasks
_TRIES = 200  # draws until a world counts as too small to hold what is looked for


@dataclass(frozen=True, slots=True)
class Job:
    """One conversation to make.

    Attributes:
        folder: where conversations go.
        seed: of the world.
        split: `train` or `val`.
        index: the conversation's number in its split.
        pictures: how many pictures the split has.
        utterances: how many recordings the split has.
    """

    folder: Path
    seed: int
    split: str
    index: int
    pictures: int
    utterances: int

    @property
    def id(self) -> str:
        """Names split and number."""
        return f"world-{self.split}-{self.index:06d}"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation, and what is drawn or said for it alone.

    Attributes:
        task: what it teaches or asks for.
        messages: as the chat APIs have them.
        picture: drawn for it.
        said: said for it, in turn.
        answered: its first answer, where that is said too.
    """

    task: str
    messages: list[dict[str, Any]]
    picture: Image.Image | None = None
    said: tuple[Utterance, ...] = ()
    answered: Utterance | None = None


def talk(job: Job) -> Dialogue:
    """One conversation, the same whichever others are written."""
    rng = Random(f"{job.seed}/{job.split}/{job.index}/conversation")
    if job.split == "val":
        kind = _ASKED[job.index % len(_ASKED)]
    else:
        draw_, kind = rng.random(), _SHARES[-1][0]
        for name, share in _SHARES:
            if draw_ < share:
                kind = name
                break
            draw_ -= share
    return _aloud(job, _ask(job, rng, kind) if kind in ASKERS else _MAKERS[kind](job, rng))


def _aloud(job: Job, made: Dialogue) -> Dialogue:
    """The same, some of training's with the first answer said by the narrator."""
    rng = Random(f"{job.seed}/{job.split}/{job.index}/aloud")
    if job.split != "train" or made.task not in _SAID or rng.random() >= _ALOUD:
        return made
    question, answer, *others = made.messages
    said = Utterance(f"{job.id}-answer", answer["content"], SPEAKERS["narrator"][0], *NARRATION)
    audio = {**_voice(job, said), "speaker": said.speaker}
    spoken_answer = {**answer, "content": [_text(said.text), audio]}
    return replace(made, messages=[question, spoken_answer, *others], answered=said)


def _look(job: Job, rng: Random) -> Dialogue:
    """Several questions about a picture, and often all that is in it."""
    picture, scene = _picture(job, rng)
    exchanges = asking.about(scene, rng, _QUESTIONS, PRACTISED)
    for _ in range(2):
        if rng.random() < _CLAIMED:
            exchanges.insert(int(rng.random() * len(exchanges)), asking.claimed(scene, rng, _picture(job, rng)[1]))
    if rng.random() < _DENSE:
        exchanges.insert(0, asking.described(scene, rng))
    first, *others = exchanges
    return Dialogue("look", _turn([picture, _text(first.text)], first.answer) + _turns(others))


def _ask(job: Job, rng: Random, kind: str) -> Dialogue:
    """One question of one kind about a picture."""
    for _ in range(_TRIES):
        picture, scene = _picture(job, rng)
        question = ASKERS[kind](scene, rng)
        if question is not None:
            return Dialogue(kind.replace("/", "-"), _turn([picture, _text(question.text)], question.answer))
    return _ask(job, rng, "count")  # which can be asked of every scene


def _listen(job: Job, rng: Random) -> Dialogue:
    """A spoken question about a picture; in training several, and others in writing after them."""
    while True:
        picture, scene = _picture(job, rng)
        found = [one for one in asking.about(scene, rng, _spoken_turns(job)) if sayable(one.text, job.split)]
        if found:
            break
    said = _said(job, rng, [one.text for one in found])
    messages = []
    for voice, one in zip(said, found, strict=True):
        parts = [_voice(job, voice)]
        messages += _turn(parts if messages else _shuffled(rng, [picture, *parts]), one.answer)
        messages += _heard(job, rng, voice)
    if job.split == "train":
        messages += _turns(asking.about(scene, rng, _ASIDE, PRACTISED))
    return Dialogue("spoken", messages, said=said)


def _transcribe(job: Job, rng: Random) -> Dialogue:
    """What is said, in writing; in training of several recordings."""
    messages = []
    for _ in range(_spoken_turns(job)):
        said = utterance(job.seed, job.split, int(rng.random() * job.utterances))
        parts = [_audio(f"../speech/{job.split}/{said.id}.wav"), _text(pick(rng, asking.TRANSCRIBE))]
        messages += _turn(parts, said.text)
    return Dialogue("transcription", messages)


def _both(job: Job, rng: Random) -> Dialogue:
    """Whether what is said is so in a picture; in training of several, and the last also in another picture."""
    picture, scene = _picture(job, rng)
    told: list[tuple[str, bool, dict[str, str]]] = []
    while len(told) < _spoken_turns(job):
        second, other = _picture(job, rng)
        words, true = asking.claim(scene, rng, other)
        if sayable(words, job.split):
            told.append((words, true, second))
        elif not told:  # there may be nothing of the split to be said about this one
            picture, scene = second, other
    said, messages = _said(job, rng, [words for words, _, _ in told]), []
    for voice, (_, true, _) in zip(said, told, strict=True):
        parts = [_voice(job, voice), _text(pick(rng, asking.JUDGE))]
        messages += _turn(parts if messages else [picture, *parts], "yes" if true else "no")
        messages += _heard(job, rng, voice)
    _, true, second = told[-1]
    if job.split == "train" and not true:  # it was taken from there
        messages += _turn([second, _text("And in this picture?")], "yes")
    return Dialogue("both", messages, said=said)


def _command(job: Job, rng: Random) -> Dialogue:
    """Something that a voice asks for, without a picture; in training several things."""
    asked: list[tuple[str, str]] = []
    while len(asked) < _spoken_turns(job):
        text, answer = knowledge.ask(rng)
        if sayable(text, job.split):
            asked.append((text, answer))
    said, messages = _said(job, rng, [text for text, _ in asked]), []
    for voice, (_, answer) in zip(said, asked, strict=True):
        messages += _turn([_voice(job, voice), _text(pick(rng, asking.OBEY))], answer) + _heard(job, rng, voice)
    return Dialogue("command", messages, said=said)


def _read(job: Job, rng: Random) -> Dialogue:
    """Something that is written: a question of general knowledge, or about a picture that is described."""
    for _ in range(_TRIES if rng.random() < 0.5 else 0):
        scene = scene_at(job.seed, job.split, int(rng.random() * job.pictures))
        found = asking.about(scene, rng, _QUESTIONS if job.split == "train" else 1)
        if found and len(scene.things) <= _FEW:
            first, *others = found
            messages = _turn(f"{' '.join(dense_caption(scene, rng))} {first.text}", first.answer)
            return Dialogue("text", messages + _turns(others))
    first, *others = [Exchange("text", *knowledge.ask(rng)) for _ in range(_KNOWN if job.split == "train" else 1)]
    return Dialogue("text", _turn(first.text, first.answer) + _turns(others))


def _composition(job: Job, rng: Random) -> Dialogue:
    """The colour or the shape of something of a pair that training never shows, alone in a picture."""
    scene = sample_scene(rng, most=1, pairs=sorted(HELD_OUT))
    exchange = asking.unfamiliar(scene, rng)
    picture = {"type": "image", "image": f"{job.split}/{job.id}.png"}
    messages = _turn([picture, _text(exchange.text)], exchange.answer)
    return Dialogue(exchange.task, messages, picture=_drawn(scene, rng))


_MAKERS: dict[str, Callable[[Job, Random], Dialogue]] = {
    "look": _look,
    "listen": _listen,
    "transcribe": _transcribe,
    "text": _read,
    "both": _both,
    "command": _command,
    "composition": _composition,
}


def _turn(asked: str | list[dict[str, str]], answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _turns(exchanges: list[Exchange]) -> list[dict[str, Any]]:
    return [message for one in exchanges for message in _turn(one.text, one.answer)]


def _heard(job: Job, rng: Random, said: Utterance) -> list[dict[str, Any]]:
    """What the voice said, in writing: training often asks for that, too."""
    wanted = job.split == "train" and rng.random() < _WRITTEN
    return _turn(pick(rng, asking.TRANSCRIBE), said.text) if wanted else []


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _audio(file: str) -> dict[str, str]:
    return {"type": "audio", "audio": file}


def _voice(job: Job, said: Utterance) -> dict[str, str]:
    return _audio(f"{job.split}/{said.id}.wav")


def _spoken_turns(job: Job) -> int:
    return _SPOKEN if job.split == "train" else 1


def _said(job: Job, rng: Random, texts: list[str]) -> tuple[Utterance, ...]:
    """Each said by a voice of its own."""
    return tuple(spoken(f"{job.id}-{number}", text, job.split, rng) for number, text in enumerate(texts, 1))


def _picture(job: Job, rng: Random) -> tuple[dict[str, str], Scene]:
    """One of the world's pictures of few things, and its scene; a world too small to have one gives any."""
    tries = 0
    while True:
        index, tries = int(rng.random() * job.pictures), tries + 1
        scene = scene_at(job.seed, job.split, index)
        if len(scene.things) <= _FEW or tries == _TRIES:
            break
    file = f"../images/{images.name(job.split, index)}"
    return {"type": "image", "image": file}, scene


def _drawn(scene: Scene, rng: Random) -> Image.Image:
    return Image.fromarray(draw(scene, rng))


def _shuffled(rng: Random, parts: list[dict[str, str]]) -> list[dict[str, str]]:
    return parts if rng.random() < 0.5 else parts[::-1]
