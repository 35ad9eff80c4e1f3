"""Conversations from the questions about images of easy-VQA; a share of its training images is held out.

Each split is a folder with `images/NUMBER.png` and `questions.json`, rows of `[question, answer, image number]`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omni.data.speech.rows import chosen_by_hash
from omni.errors import UserError

EXCHANGES = 5  # largest number of questions of a training conversation, whose context has the answers so far


class Question(NamedTuple):
    """A question about an image, and its answer."""

    question: str
    answer: str

    @property
    def task(self) -> str:
        """`yes-no`, `colour` or `shape`."""
        if self.answer in ("yes", "no"):
            return "yes-no"
        return "colour" if "color" in self.question else "shape"


class SplitQuestions(NamedTuple):
    """A split of a data set as conversations.

    Attributes:
        name: Its name.
        rows: The conversations, as rows of a `.jsonl` file.
        errors: Of questions that cannot be used.
    """

    name: str
    rows: list[dict[str, Any]]
    errors: list[UserError]

    @property
    def summary(self) -> str:
        messages = [message for row in self.rows for message in row["messages"]]
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        images = len({part["image"] for part in parts if part["type"] == "image"})
        about = f" about {images:,} images" if images else ""
        return f"{len(self.rows):,} conversations, {len(messages) // 2:,} questions{about}"


def read_questions(folder: Path, out: Path, val_fraction: float) -> list[SplitQuestions]:
    """The splits of a folder, and `val` of training images if it has none.

    A training conversation has up to five questions about an image, one of the other splits a single question.

    Args:
        folder: The data set.
        out: The folder that names of images are relative to.
        val_fraction: Least share of the training questions in `val`.

    Raises:
        UserError: If the folder holds no splits.
    """
    splits = sorted(path.parent for path in folder.glob("*/questions.json"))
    if not splits:
        raise UserError(f"{folder} is not a corpus of kind easy-vqa: looked for SPLIT/questions.json and SPLIT/images")
    official = any(split.name == "val" for split in splits)
    return [part for split in splits for part in _parts(split, out, 0.0 if official else val_fraction)]


def _parts(split: Path, out: Path, val_fraction: float) -> list[SplitQuestions]:
    """A split; the training split in two parts, with a share of its images in `val`."""
    images, errors = _read(split / "questions.json")
    counts = {str(number): len(questions) for number, questions in images.items()}
    held_out = set(chosen_by_hash(counts, val_fraction)) if split.name == "train" else set()
    parts = {name: SplitQuestions(name, [], []) for name in ((split.name, "val") if held_out else (split.name,))}
    parts[split.name].errors.extend(errors)
    for number, questions in images.items():
        part = parts["val" if str(number) in held_out else split.name]
        try:
            part.rows.extend(_rows(split, part.name, number, questions, out))
        except UserError as error:
            part.errors.append(error)
    return list(parts.values())


def _read(path: Path) -> tuple[Mapping[int, list[Question]], list[UserError]]:
    """The questions about each image, and the errors of rows that are none."""
    images: dict[int, list[Question]] = defaultdict(list)
    errors: list[UserError] = []
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return images, [UserError(f"{path}: cannot be read as JSON ({error}): get it again")]
    if not isinstance(content, list):
        return images, [UserError(f"{path}: not a list of [question, answer, image number]: get it again")]
    for number, row in enumerate(content, start=1):
        match row:
            case [str(question), str(answer), int(image)]:
                images[image].append(Question(question, answer))
            case _:
                errors.append(UserError(f"{path}: row {number}: not [question, answer, image number]"))
    return images, errors


def _rows(split: Path, name: str, number: int, questions: list[Question], out: Path) -> list[dict[str, Any]]:
    """The conversations about an image of a split, for the part of this name."""
    file = split.resolve() / "images" / f"{number}.png"
    if not file.is_file():
        raise UserError(f"{file}: does not exist, but {split / 'questions.json'} has questions about it")
    image = {"type": "image", "image": os.path.relpath(file, out.resolve())}
    size = EXCHANGES if name == "train" else 1
    rows = []
    for start in range(0, len(questions), size):
        messages: list[dict[str, Any]] = []
        for one in questions[start : start + size]:
            text = {"type": "text", "text": one.question}
            content = one.question if messages else [image, text]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": one.answer}]
        task = questions[start].task if size == 1 else "look"
        rows.append({"id": f"{name}-{number}-{start}", "task": task, "messages": messages})
    return rows
