"""Conversations from sets of questions: easy-VQA, NLVR, Flickr8k's captions and GSM8K."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omni.data.conversations.visual_questions import SplitQuestions, read_questions
from omni.data.images.opening import open_images
from omni.data.images.sources import Location
from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.loading.jsonl import jsonl_rows
from omni.errors import UserError

DESCRIBE = ("Describe the image.", "What is in the picture?", "Write a caption for this image.")
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
_CALCULATION = re.compile(r"<<[^>]*>>")  # notes for a calculator in GSM8K's answers


def read_nlvr(folder: Path, out: Path, val_fraction: float) -> list[SplitQuestions]:
    """Statements about synthetic images, and whether they are true (NLVR; Suhr et al., 2017).

    A split is `SPLIT/SPLIT.json`, an object a line, and `SPLIT/images/DIRECTORY/SPLIT-IDENTIFIER-NUMBER.png`, the same
    picture with its boxes in several orders: each file is a row. A single split is divided by the first part of the
    identifier, so that all statements of a group are on one side.

    Args:
        folder: The folder of the splits, or a split.
        out: The folder that names of images are relative to.
        val_fraction: Share for validation of a single split.

    Raises:
        UserError: If the folder holds no splits.
    """
    files = [path for path in (*folder.glob("*/*.json"), *folder.glob("*.json")) if path.stem == path.parent.name]
    if not files:
        raise UserError(f"{folder} is not a corpus of kind nlvr: looked for SPLIT/SPLIT.json and SPLIT/images")
    splits = []
    for file in sorted(files):
        rows: list[dict[str, Any]] = []
        errors: list[UserError] = []
        for where, row in jsonl_rows(file):
            try:
                rows += _statement(file, where, row, out)
            except UserError as error:
                errors.append(error)
        splits.append(SplitQuestions(file.stem, rows, errors))
    return _divided(splits, val_fraction, lambda row: row["id"].split("-")[1])


def read_flickr8k(folder: Path, out: Path, val_fraction: float) -> list[SplitQuestions]:
    """Captions as descriptions: one row a caption in `train`, the first caption of each image in the other splits.

    Args:
        folder: The one with `captions.txt`, `Images` and the official lists `Flickr_8k.*Images.txt`.
        out: The folder that names of images are relative to.
        val_fraction: Not used: the lists are the splits.

    Raises:
        UserError: If a file is missing or malformed.
    """
    if not (folder / "captions.txt").is_file():
        raise UserError(
            f"{folder} is not a corpus of kind flickr8k: looked for captions.txt, Images and {_LISTS['train']}"
        )
    splits = []
    for split, names in _LISTS.items():
        if not (folder / names).is_file():
            continue
        rows: list[dict[str, Any]] = []
        source = open_images(f"{folder / 'captions.txt'}@{names}", split, Location())
        for image in source.rows(RowErrors(split, BadRowPolicy())):
            assert isinstance(image.image, Path)
            for number, caption in enumerate(image.captions if split == "train" else image.captions[:1]):
                asked = [_image(image.image, out), {"type": "text", "text": DESCRIBE[number % len(DESCRIBE)]}]
                rows.append(_row(f"{split}-{image.image.stem}-{number}", "caption", asked, caption.strip(" .") + "."))
        splits.append(SplitQuestions(split, rows, []))
    if not splits:
        raise UserError(f"{folder}: has none of {', '.join(_LISTS.values())}: get the official lists")
    return splits


def read_gsm8k(folder: Path, out: Path, val_fraction: float) -> list[SplitQuestions]:
    """Questions of school mathematics with worked answers (GSM8K; Cobbe et al., 2021): `SPLIT.jsonl`.

    Args:
        folder: The folder of the files.
        out: Not used: there are no media.
        val_fraction: Share for validation of a single file, by a hash of the question.

    Raises:
        UserError: If the folder holds no such file.
    """
    splits = []
    for file in sorted(folder.glob("*.jsonl")):
        rows: list[dict[str, Any]] = []
        errors: list[UserError] = []
        for number, (where, row) in enumerate(jsonl_rows(file)):
            match row:
                case UserError():
                    errors.append(row)
                case {"question": str(question), "answer": str(answer)}:
                    answer = _CALCULATION.sub("", answer).replace("#### ", "The answer is ")
                    rows.append(_row(f"{file.stem}-{number}", "mathematics", question, f"{answer}."))
                case _:
                    errors.append(UserError(f"{where}: no `question` and `answer`: correct or remove the row"))
        splits.append(SplitQuestions(file.stem, rows, errors))
    if not splits:
        raise UserError(f"{folder} is not a corpus of kind gsm8k: looked for train.jsonl with `question` and `answer`")
    return _divided(splits, val_fraction, lambda row: row["messages"][0]["content"])


# kind -> function of the folder, the folder of the conversations, and the share for validation of a single split
QUESTION_SETS: Mapping[str, Callable[[Path, Path, float], list[SplitQuestions]]] = {
    "easy-vqa": read_questions,
    "nlvr": read_nlvr,
    "flickr8k": read_flickr8k,
    "gsm8k": read_gsm8k,
}


def _statement(file: Path, where: str, row: Any, out: Path) -> Iterator[dict[str, Any]]:
    """The rows of a statement, one for each file of its picture."""
    if isinstance(row, UserError):
        raise row
    match row:
        case {"sentence": str(sentence), "label": ("true" | "false") as label, "identifier": str(identifier)}:
            pass
        case _:
            raise UserError(
                f"{where}: no `sentence`, `identifier` and `label` (true or false): correct or remove the row"
            )
    folder = file.parent / "images" / str(row.get("directory", ""))
    images = sorted(folder.glob(f"{file.stem}-{identifier}-*.png"))
    if not images:
        raise UserError(f"{where}: {folder}/{file.stem}-{identifier}-*.png does not exist: get the images")
    for image in images:
        asked = [_image(image, out), {"type": "text", "text": f"True or false: {sentence.strip()}"}]
        yield _row(image.stem, "statement", asked, label.capitalize() + ".")


def _divided(
    splits: list[SplitQuestions], fraction: float, group: Callable[[dict[str, Any]], str]
) -> list[SplitQuestions]:
    """A single split as `train` and `val`, by a hash of each row's group; several splits as they are."""
    if len(splits) != 1:
        return splits
    sides: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for row in splits[0].rows:
        digest = hashlib.blake2b(group(row).encode(), digest_size=8).digest()
        sides["val" if int.from_bytes(digest) / 2**64 < fraction else "train"].append(row)
    return [SplitQuestions(name, rows, splits[0].errors if name == "train" else []) for name, rows in sides.items()]


def _image(file: Path, out: Path) -> dict[str, str]:
    return {"type": "image", "image": os.path.relpath(file.resolve(), out.resolve())}


def _row(name: str, task: str, question: Any, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "task": task, "messages": messages}
