"""Conversations: questions about the world's pictures and speech, and their answers, on disk.

`conversations/<split>.jsonl` are the conversations. They use the pictures in `images` and the audio in `speech`; what
they need beside these lies in `conversations/<split>/`, with its checksums in `conversations/<split>.sha256`.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import soundfile
from PIL import Image
from tqdm import tqdm

from omni.data.world import asking, images
from omni.data.world.asking import Exchange
from omni.data.world.captions import dense_caption
from omni.data.world.disk import refuse_foreign, replacing
from omni.data.world.drawing import draw
from omni.data.world.questions import ASKERS, PRACTISED
from omni.data.world.scene import HELD_OUT, Scene, pick, sample_scene, scene_at
from omni.data.world.speech import NARRATION, SAMPLE_RATE, SPEAKERS, Utterance, context, samples, sayable, spoken
from omni.data.world.workers import cpus, in_order
from omni.errors import UserError

SPLITS = ("train", "val")
CHUNK = 32  # conversations that a process makes at a time
WORTHWHILE = 1500  # conversations that one process makes while another starts and imports PyTorch
_QUESTIONS = 10  # about a picture: what a small model learns of looking goes by the questions it has answered
_DENSE = 0.3  # share of training's pictures that are described thing by thing; without any it learns to guess
_ASIDE = 2  # questions in writing, behind one that is asked aloud
_WRITTEN = 0.7  # share of training's voices that are written down
_FEW = 4  # most things in a picture that is talked about: a small model learns to look where there are few
_CLAIMED = 0.6  # share of training's pictures of which something is said that may be so or not; twice, as often
_KNOWN = 6  # questions in one conversation that need no picture
_SHARES = (("look", 0.50), ("listen", 0.16), ("transcribe", 0.08), ("text", 0.12), ("both", 0.07), ("command", 0.07))
_ASKED = (*ASKERS, "listen", "both", "command", "text", "transcribe", "composition")  # in turn, of validation
_ALOUD = 0.1  # share of training's answers of some tasks that are also said, in the narrator's voice
_SAID = ("spoken", "command", "text")  # these tasks
_TRIES = 200  # draws until a world counts as too small to hold what is looked for
_OWN = re.compile(r"world-\w+-\d{6,}(-answer)?\.(png|wav)|\.world-.*\.part")


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
class Talk:
    """A conversation, and what is drawn or said for it alone.

    Attributes:
        task: what it teaches or asks for.
        messages: as the chat APIs have them.
        picture: drawn for it.
        said: said for it.
        answered: its first answer, where that is said too.
    """

    task: str
    messages: list[dict[str, Any]]
    picture: Image.Image | None = None
    said: Utterance | None = None
    answered: Utterance | None = None


def talk(job: Job) -> Talk:
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


def _aloud(job: Job, made: Talk) -> Talk:
    """The same, some of training's with the first answer said by the narrator."""
    rng = Random(f"{job.seed}/{job.split}/{job.index}/aloud")
    if job.split != "train" or made.task not in _SAID or rng.random() >= _ALOUD:
        return made
    question, answer, *others = made.messages
    said = Utterance(f"{job.id}-answer", answer["content"], SPEAKERS["narrator"][0], *NARRATION)
    audio = {**_audio(f"{job.split}/{said.id}.wav"), "speaker": said.speaker}
    spoken_answer = {**answer, "content": [_text(said.text), audio]}
    return replace(made, messages=[question, spoken_answer, *others], answered=said)


def _look(job: Job, rng: Random) -> Talk:
    """Several questions about a picture, and often all that is in it."""
    picture, scene = _picture(job, rng)
    exchanges = asking.about(scene, rng, _QUESTIONS, PRACTISED)
    for _ in range(2):
        if rng.random() < _CLAIMED:
            exchanges.insert(int(rng.random() * len(exchanges)), asking.claimed(scene, rng, _picture(job, rng)[1]))
    if rng.random() < _DENSE:
        exchanges.insert(0, asking.described(scene, rng))
    first, *others = exchanges
    return Talk("look", _turn([picture, _text(first.text)], first.answer) + _turns(others))


def _ask(job: Job, rng: Random, kind: str) -> Talk:
    """One question of one kind about a picture."""
    for _ in range(_TRIES):
        picture, scene = _picture(job, rng)
        question = ASKERS[kind](scene, rng)
        if question is not None:
            return Talk(kind.replace("/", "-"), _turn([picture, _text(question.text)], question.answer))
    return _ask(job, rng, "count")  # which can be asked of every scene


def _listen(job: Job, rng: Random) -> Talk:
    """A spoken question about a picture; in training, others in writing after it."""
    while True:
        picture, scene = _picture(job, rng)
        found = asking.about(scene, rng, 1)
        if found and sayable(found[0].text, job.split):
            break
    parts = _shuffled(rng, [picture, _own(job, "audio")])
    said = spoken(job.id, found[0].text, job.split, rng)
    messages = _turn(parts, found[0].answer) + _heard(job, rng, said)
    if job.split == "train":
        messages += _turns(asking.about(scene, rng, _ASIDE, PRACTISED))
    return Talk("spoken", messages, said=said)


def _transcribe(job: Job, rng: Random) -> Talk:
    """What is said, in writing."""
    said, _, _ = context(job.seed, job.split, int(rng.random() * job.utterances))
    parts = [_audio(f"../speech/{job.split}/{said.id}.wav"), _text(pick(rng, asking.TRANSCRIBE))]
    return Talk("transcription", _turn(parts, said.text))


def _both(job: Job, rng: Random) -> Talk:
    """Whether what is said is so in a picture; in training also in another one."""
    while True:
        picture, scene = _picture(job, rng)
        second, other = _picture(job, rng)
        words, true = asking.claim(scene, rng, other)
        if sayable(words, job.split):
            break
    parts = [picture, _own(job, "audio"), _text(pick(rng, asking.JUDGE))]
    messages = _turn(parts, "yes" if true else "no")
    if job.split == "train" and not true:  # it was taken from there
        messages += _turn([second, _text("And in this picture?")], "yes")
    said = spoken(job.id, words, job.split, rng)
    return Talk("both", messages + _heard(job, rng, said), said=said)


def _command(job: Job, rng: Random) -> Talk:
    """Something that a voice asks for, without a picture."""
    while True:
        exchange = asking.command(rng, "command")
        if sayable(exchange.text, job.split):
            break
    parts = [_own(job, "audio"), _text(pick(rng, asking.OBEY))]
    said = spoken(job.id, exchange.text, job.split, rng)
    return Talk("command", _turn(parts, exchange.answer) + _heard(job, rng, said), said=said)


def _read(job: Job, rng: Random) -> Talk:
    """Something that is written: a question of general knowledge, or about a picture that is described."""
    for _ in range(_TRIES if rng.random() < 0.5 else 0):
        scene = scene_at(job.seed, job.split, int(rng.random() * job.pictures))
        found = asking.about(scene, rng, _QUESTIONS if job.split == "train" else 1)
        if found and len(scene.things) <= _FEW:
            first, *others = found
            messages = _turn(f"{' '.join(dense_caption(scene, rng))} {first.text}", first.answer)
            return Talk("text", messages + _turns(others))
    first, *others = [asking.command(rng, "text") for _ in range(_KNOWN if job.split == "train" else 1)]
    return Talk("text", _turn(first.text, first.answer) + _turns(others))


def _composition(job: Job, rng: Random) -> Talk:
    """The colour or the shape of something of a pair that training never shows, alone in a picture."""
    scene = sample_scene(rng, most=1, pairs=sorted(HELD_OUT))
    exchange = asking.unfamiliar(scene, rng)
    messages = _turn([_own(job, "image"), _text(exchange.text)], exchange.answer)
    return Talk(exchange.task, messages, picture=_drawn(scene, rng))


_MAKERS: dict[str, Callable[[Job, Random], Talk]] = {
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
    """What the voice said, in writing: training's often ask for it once more."""
    wanted = job.split == "train" and rng.random() < _WRITTEN
    return _turn(pick(rng, asking.TRANSCRIBE), said.text) if wanted else []


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _audio(file: str) -> dict[str, str]:
    return {"type": "audio", "audio": file}


def _own(job: Job, kind: str) -> dict[str, str]:
    suffix = "png" if kind == "image" else "wav"
    return {"type": kind, kind: f"{job.split}/{job.id}.{suffix}"}


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


def write_conversations(
    folder: Path,
    *,
    seed: int,
    sizes: dict[str, int],
    pictures: dict[str, int],
    utterances: dict[str, int],
    processes: int | None = None,
) -> None:
    """Write the conversations of a world; pictures and audio of theirs that are there already stay as they are.

    Args:
        folder: where they go, beside the folders of pictures and speech; ask `refuse` about it before.
        seed: of the world.
        sizes: conversations of each split; a split of none gets no file.
        pictures: pictures of each split.
        utterances: recordings of each split.
        processes: how many to use; by default one for each CPU, or fewer for little work.

    Raises:
        OSError: they cannot be written.
        UserError: eSpeak NG is missing, or a process was ended from outside.
    """
    jobs = [
        Job(folder, seed, split, index, pictures[split], utterances[split])
        for split, size in sizes.items()
        for index in range(size)
    ]
    for split in SPLITS:
        for suffix in ("jsonl", "sha256"):
            (folder / f"{split}.{suffix}").unlink(missing_ok=True)
    for split in sizes:
        (folder / split).mkdir(parents=True, exist_ok=True)
    if processes is None:
        processes = max(1, min(cpus(), len(jobs) // WORTHWHILE))
    rows: dict[str, list[bytes]] = {split: [] for split in sizes}
    sums: dict[str, dict[str, str]] = {split: {} for split in sizes}
    with tqdm(total=len(jobs), desc="conversations", unit=" rows", leave=False, disable=None) as progress:
        for job, (row, files) in zip(jobs, in_order(make, jobs, processes, CHUNK), strict=True):
            rows[job.split].append(row)
            sums[job.split] |= files
            progress.update()
    for split in SPLITS:
        _sweep(folder, split, set(sums.get(split, ())))
    for split, files in sums.items():
        with replacing(folder / f"{split}.sha256") as file:
            file.writelines(f"{checksum}  {name}\n".encode() for name, checksum in files.items())
        with replacing(folder / f"{split}.jsonl") as file:
            file.writelines(rows[split])


def make(job: Job) -> tuple[bytes, dict[str, str]]:
    """One conversation: its line, and the SHA-256 of the files that are made for it."""
    made, files = talk(job), {}
    if made.picture is not None:
        packed = io.BytesIO()
        made.picture.save(packed, "PNG", compress_level=6)
        files[f"{job.split}/{job.id}.png"] = packed.getvalue()
    for name, said in ((job.id, made.said), (f"{job.id}-answer", made.answered)):
        if said is not None:
            buffer = io.BytesIO()
            soundfile.write(buffer, samples(said), SAMPLE_RATE, format="WAV", subtype="PCM_16")
            files[f"{job.split}/{name}.wav"] = buffer.getvalue()
    for name, data in files.items():
        path = job.folder / name
        if not path.is_file() or path.read_bytes() != data:
            with replacing(path) as file:
                file.write(data)
    row = {"id": job.id, "task": made.task, "messages": made.messages}
    line = f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    return line, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def refuse(folder: Path) -> None:
    """Keep what somebody else wrote.

    Raises:
        UserError: a list of conversations or a folder of their files holds what is not the world's.
    """
    for split in SPLITS:
        refuse_foreign(folder / f"{split}.jsonl")
        for path in sorted((folder / split).iterdir()) if (folder / split).is_dir() else ():
            if not _OWN.fullmatch(path.name):
                raise UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")


def remove(folder: Path) -> None:
    """Take away all conversations that were written here, and the folder unless something else is in it."""
    for split in SPLITS:
        for suffix in ("jsonl", "sha256"):
            (folder / f"{split}.{suffix}").unlink(missing_ok=True)
        _sweep(folder, split, set())
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sweep(folder: Path, split: str, kept: set[str]) -> None:
    """Remove a split's files but those to be kept, and then an empty folder."""
    if not (folder / split).is_dir():
        return
    for path in (folder / split).iterdir():
        if _OWN.fullmatch(path.name) and f"{split}/{path.name}" not in kept:
            path.unlink()
    if not any((folder / split).iterdir()):
        (folder / split).rmdir()
