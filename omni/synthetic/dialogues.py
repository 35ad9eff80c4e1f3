"""Dialogues: one conversation at a time, and the images and utterances that are made for it alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from PIL import Image

from omni.synthetic import knowledge, prompts
from omni.synthetic.captions import dense_caption
from omni.synthetic.drawing import draw
from omni.synthetic.images import image_file
from omni.synthetic.media_folder import Job
from omni.synthetic.prompts import Exchange, scene_questions
from omni.synthetic.questions import QUESTION_MAKERS, TRAINING_KINDS
from omni.synthetic.scene import HELD_OUT, Scene, pick, sample_scene, scene_at
from omni.synthetic.speech import NARRATION, SPEAKERS, Utterance, assign_voice, is_speakable, utterance_at

_QUESTIONS = 10  # about an image in training: what a small model learns to see depends on the questions it answers
_DENSE_SHARE = 0.3  # of training images that are described item by item; without any, the model learns to guess
_SPOKEN_TURNS = 3  # in a training conversation
_WRITTEN_QUESTIONS = 2  # after the spoken ones
_TRANSCRIPT_SHARE = 0.2  # of spoken training prompts that are followed by a request to write them down
_MAX_ITEMS = 4  # in an image that a conversation is about: a small model learns to look at images of few items
_CLAIM_SHARE = 0.6  # of training images with a claim to verify; drawn twice
_KNOWLEDGE_QUESTIONS = 6  # in a training conversation without an image
_SHARES = (("look", 0.52), ("listen", 0.15), ("transcribe", 0.07), ("text", 0.13), ("both", 0.08), ("command", 0.05))
_VAL_KINDS = (*QUESTION_MAKERS, "listen", "both", "command", "text", "transcribe", "composition")  # in turn
_SPOKEN_ANSWER_SHARE = 0.1  # of training dialogues of some tasks: their first answer has audio in the narrator's voice
_SPOKEN_ANSWER_TASKS = ("spoken", "command", "text")
_TRIES = 200  # draws before a world counts as too small to have what is searched


@dataclass(frozen=True, slots=True)
class ConversationJob(Job):
    """One conversation to make.

    Attributes:
        images: Number of images in the split.
        utterances: Number of recordings in the split.
    """

    images: int
    utterances: int

    @property
    def training(self) -> bool:
        """Whether the split is `train`."""
        return self.split == "train"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation, and the media made for it alone.

    Attributes:
        task: Name of the task.
        messages: As in chat APIs.
        image: Its own image.
        prompts: Its own spoken prompts, in order.
        answer: Its first answer, where that is spoken too.
    """

    task: str
    messages: list[dict[str, Any]]
    image: Image.Image | None = None
    prompts: tuple[Utterance, ...] = ()
    answer: Utterance | None = None

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """Its own recordings."""
        return self.prompts if self.answer is None else (*self.prompts, self.answer)


def make_dialogue(job: ConversationJob) -> Dialogue:
    """One conversation, independent of the others."""
    rng = Random(f"{job.seed}/{job.split}/{job.index}/conversation")
    if job.split == "val":
        kind = _VAL_KINDS[job.index % len(_VAL_KINDS)]
    else:
        position, kind = rng.random(), _SHARES[-1][0]
        for name, share in _SHARES:
            if position < share:
                kind = name
                break
            position -= share
    dialogue = _image_question(job, rng, kind) if kind in QUESTION_MAKERS else _MAKERS[kind](job, rng)
    return _with_spoken_answer(job, dialogue)


def _with_spoken_answer(job: ConversationJob, dialogue: Dialogue) -> Dialogue:
    """The dialogue; in a share of training with the first answer spoken by the narrator."""
    rng = Random(f"{job.seed}/{job.split}/{job.index}/aloud")
    if not job.training or dialogue.task not in _SPOKEN_ANSWER_TASKS or rng.random() >= _SPOKEN_ANSWER_SHARE:
        return dialogue
    question, answer, *others = dialogue.messages
    spoken = Utterance(f"{job.id}-answer", answer["content"], SPEAKERS["narrator"][0], *NARRATION)
    content = [_text(spoken.text), {**_recording(job, spoken), "speaker": spoken.speaker}]
    return replace(dialogue, messages=[question, {**answer, "content": content}, *others], answer=spoken)


def _look(job: ConversationJob, rng: Random) -> Dialogue:
    """Several questions and claims about an image, and often a description of everything in it."""
    image, scene = _sample_image(job, rng)
    exchanges = scene_questions(scene, rng, _QUESTIONS, TRAINING_KINDS)
    for _ in range(2):
        if rng.random() < _CLAIM_SHARE:
            position = int(rng.random() * len(exchanges))
            exchanges.insert(position, prompts.claim_question(scene, rng, _sample_image(job, rng)[1]))
    if rng.random() < _DENSE_SHARE:
        exchanges.insert(0, prompts.dense_description(scene, rng))
    first, *others = exchanges
    return Dialogue("look", _turn([image, _text(first.text)], first.answer) + _turns(others))


def _image_question(job: ConversationJob, rng: Random, kind: str) -> Dialogue:
    """One question of a kind about an image."""
    for _ in range(_TRIES):
        image, scene = _sample_image(job, rng)
        question = QUESTION_MAKERS[kind](scene, rng)
        if question is not None:
            return Dialogue(prompts.task_name(kind), _turn([image, _text(question.text)], question.answer))
    return _image_question(job, rng, "count")  # possible for every scene


def _listen(job: ConversationJob, rng: Random) -> Dialogue:
    """A spoken question about an image; in training several, followed by written ones."""
    while True:
        image, scene = _sample_image(job, rng)
        found = [one for one in scene_questions(scene, rng, _turns_of(job)) if is_speakable(one.text, job.split)]
        if found:
            break
    spoken = _speak(job, rng, [one.text for one in found])
    messages = []
    for utterance, one in zip(spoken, found, strict=True):
        parts = [_recording(job, utterance)]
        if not messages:
            parts = [image, *parts] if rng.random() < 0.5 else [*parts, image]
        messages += _turn(parts, one.answer) + _transcript(job, rng, utterance)
    if job.training:
        messages += _turns(scene_questions(scene, rng, _WRITTEN_QUESTIONS, TRAINING_KINDS))
    return Dialogue("spoken", messages, prompts=spoken)


def _transcribe(job: ConversationJob, rng: Random) -> Dialogue:
    """The transcript of a recording; in training of several."""
    messages = []
    for _ in range(_turns_of(job)):
        utterance = utterance_at(job.seed, job.split, int(rng.random() * job.utterances))
        audio = {"type": "audio", "audio": f"../speech/{job.split}/{utterance.id}.wav"}
        messages += _turn([audio, _text(pick(rng, prompts.TRANSCRIBE))], utterance.text)
    return Dialogue("transcription", messages)


def _both(job: ConversationJob, rng: Random) -> Dialogue:
    """Whether a spoken claim is true of an image; in training several, the last one also of another image."""
    image, scene = _sample_image(job, rng)
    claims: list[tuple[str, bool, dict[str, str]]] = []
    while len(claims) < _turns_of(job):
        second, other = _sample_image(job, rng)
        claim, true = prompts.sample_claim(scene, rng, other)
        if is_speakable(claim, job.split):
            claims.append((claim, true, second))
        elif not claims:  # the split may have no claim about this scene
            image, scene = second, other
    spoken, messages = _speak(job, rng, [claim for claim, _, _ in claims]), []
    for utterance, (_, true, _) in zip(spoken, claims, strict=True):
        parts = [_recording(job, utterance), _text(pick(rng, prompts.VERIFY))]
        messages += _turn(parts if messages else [image, *parts], "yes" if true else "no")
        messages += _transcript(job, rng, utterance)
    _, true, second = claims[-1]
    if job.training and not true:  # it was sampled from the second image
        messages += _turn([second, _text("And in this picture?")], "yes")
    return Dialogue("both", messages, prompts=spoken)


def _command(job: ConversationJob, rng: Random) -> Dialogue:
    """A spoken request without an image; in training several."""
    requests: list[tuple[str, str]] = []
    while len(requests) < _turns_of(job):
        text, answer = knowledge.sample_question(rng)
        if is_speakable(text, job.split):
            requests.append((text, answer))
    spoken, messages = _speak(job, rng, [text for text, _ in requests]), []
    for utterance, (_, answer) in zip(spoken, requests, strict=True):
        messages += _turn([_recording(job, utterance), _text(pick(rng, prompts.RESPOND))], answer)
        messages += _transcript(job, rng, utterance)
    return Dialogue("command", messages, prompts=spoken)


def _read(job: ConversationJob, rng: Random) -> Dialogue:
    """Written questions: of general knowledge, or about a scene that is described in words."""
    for _ in range(_TRIES if rng.random() < 0.5 else 0):
        scene = scene_at(job.seed, job.split, int(rng.random() * job.images))
        found = scene_questions(scene, rng, _QUESTIONS if job.training else 1)
        if found and len(scene.items) <= _MAX_ITEMS:
            first, *others = found
            messages = _turn(f"{' '.join(dense_caption(scene, rng))} {first.text}", first.answer)
            return Dialogue("text", messages + _turns(others))
    number = _KNOWLEDGE_QUESTIONS if job.training else 1
    return Dialogue("text", _turns([Exchange("text", *knowledge.sample_question(rng)) for _ in range(number)]))


def _composition(job: ConversationJob, rng: Random) -> Dialogue:
    """The colour or the shape of a pair that training never shows, alone in an image."""
    scene = sample_scene(rng, most=1, pairs=sorted(HELD_OUT))
    exchange = prompts.held_out_question(scene, rng)
    messages = _turn([_image(f"{job.split}/{job.id}.png"), _text(exchange.text)], exchange.answer)
    return Dialogue(exchange.task, messages, image=Image.fromarray(draw(scene, rng)))


_MAKERS: dict[str, Callable[[ConversationJob, Random], Dialogue]] = {
    "look": _look,
    "listen": _listen,
    "transcribe": _transcribe,
    "text": _read,
    "both": _both,
    "command": _command,
    "composition": _composition,
}


def _turn(prompt: str | list[dict[str, str]], answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _turns(exchanges: list[Exchange]) -> list[dict[str, Any]]:
    return [message for one in exchanges for message in _turn(one.text, one.answer)]


def _transcript(job: ConversationJob, rng: Random, utterance: Utterance) -> list[dict[str, Any]]:
    """A request for the transcript of an utterance, in a share of training; otherwise nothing."""
    wanted = job.training and rng.random() < _TRANSCRIPT_SHARE
    return _turn(pick(rng, prompts.TRANSCRIBE), utterance.text) if wanted else []


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _image(file: str) -> dict[str, str]:
    return {"type": "image", "image": file}


def _recording(job: ConversationJob, utterance: Utterance) -> dict[str, str]:
    return {"type": "audio", "audio": f"{job.split}/{utterance.id}.wav"}


def _turns_of(job: ConversationJob) -> int:
    """Number of spoken turns."""
    return _SPOKEN_TURNS if job.training else 1


def _speak(job: ConversationJob, rng: Random, texts: list[str]) -> tuple[Utterance, ...]:
    """Texts, each in a voice drawn for it."""
    return tuple(assign_voice(f"{job.id}-{number}", text, job.split, rng) for number, text in enumerate(texts, 1))


def _sample_image(job: ConversationJob, rng: Random) -> tuple[dict[str, str], Scene]:
    """One of the world's images with few items, or any image if a small world has none, and its scene."""
    tries = 0
    while True:
        index, tries = int(rng.random() * job.images), tries + 1
        scene = scene_at(job.seed, job.split, index)
        if len(scene.items) <= _MAX_ITEMS or tries == _TRIES:
            return _image(f"../images/{image_file(job.split, index)}"), scene
