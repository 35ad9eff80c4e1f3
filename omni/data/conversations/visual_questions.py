"""Conversations from the questions about images of easy-VQA.

Each split is a folder with `images/NUMBER.png` and `questions.json`, rows of `[question, answer, image number]`.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omni.errors import UserError
from omni.files import write_text

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


def prepare_questions(folder: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """Writes `SPLIT.jsonl` for each split of the folder; the images stay where they are.

    A training conversation has up to five questions about an image, one of the other splits a single question.

    Yields:
        Each file written, and a summary of it.

    Raises:
        UserError: If the folder holds no splits, or one of them cannot be read.
    """
    splits = sorted(path.parent for path in folder.glob("*/questions.json"))
    if not splits:
        raise UserError(f"{folder} is not a corpus of kind easy-vqa: looked for SPLIT/questions.json and SPLIT/images")
    out.mkdir(parents=True, exist_ok=True)
    for split in splits:
        images = _read(split / "questions.json")
        rows = [row for number, questions in images.items() for row in _rows(split, number, questions, out)]
        path, questions = out / f"{split.name}.jsonl", sum(map(len, images.values()))
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        yield path, f"{len(rows):,} conversations, {questions:,} questions about {len(images):,} images"


def _read(path: Path) -> Mapping[int, list[Question]]:
    """The questions about each image."""
    images: dict[int, list[Question]] = defaultdict(list)
    try:
        for question, answer, image in json.loads(path.read_bytes()):
            images[int(image)].append(Question(str(question), str(answer)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a list of [question, answer, image number] ({error})") from error
    return images


def _rows(split: Path, number: int, questions: list[Question], out: Path) -> list[dict[str, Any]]:
    """The conversations about an image."""
    file = split.resolve() / "images" / f"{number}.png"
    if not file.is_file():
        raise UserError(f"{file}: does not exist, but {split / 'questions.json'} has questions about it")
    image = {"type": "image", "image": os.path.relpath(file, out.resolve())}
    size = EXCHANGES if split.name == "train" else 1
    rows = []
    for start in range(0, len(questions), size):
        messages: list[dict[str, Any]] = []
        for one in questions[start : start + size]:
            text = {"type": "text", "text": one.question}
            content = one.question if messages else [image, text]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": one.answer}]
        task = questions[start].task if size == 1 else "look"
        rows.append({"id": f"{split.name}-{number}-{start}", "task": task, "messages": messages})
    return rows
