"""Files: the world on disk, and the record that tells whether it is whole."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from tqdm import tqdm

from omni.data.world.documents import document, sentences
from omni.data.world.scene import scene_at
from omni.errors import UserError

GENERATOR = 1  # raise it when the same seed gives other files than before
RECORD = "world.json"


def text_row(seed: int, split: str, index: int) -> dict[str, str]:
    """One row of the world's text, the same whichever other rows are written.

    Args:
        seed: the seed of the whole data set.
        split: `train` or `val`.
        index: the row's number in its split.

    Returns:
        `text`, and an `id` that names split and number.
    """
    text = document(scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/text"))
    return {"text": text, "id": f"world-{split}-{index:06d}"}


def write(out: Path = Path("data/world"), *, documents: int = 20000, val_documents: int = 500, seed: int = 0) -> None:
    """Write the world, omni's embedded data set: English text about scenes of coloured shapes.

    The same seed gives the same bytes on every machine. Scenes of validation never occur in training, whatever the
    seeds. A world that is already there, whole and written with the same arguments, is kept.

    Args:
        out: folder to write into: `text/train.jsonl`, `text/val.jsonl`, and `world.json`, the record of both.
        documents: documents to train on, 1 or more; about 90 words each.
        val_documents: documents to validate on, 1 or more.
        seed: any whole number; another seed gives another world.

    Raises:
        UserError: a number is below 1, `out` cannot be written, or it holds files that are not the world's.
    """
    for name, number in (("documents", documents), ("val_documents", val_documents)):
        if number < 1:
            raise UserError(f"--{name} is {number}: give 1 or more")
    out = Path(out)
    asked = {"generator": GENERATOR, "seed": seed, "documents": documents, "val_documents": val_documents}
    try:
        record = _finished(out, asked)
        if record is not None:
            print(f"{out} is up to date: {_summary(record)}")
            return
        record = _write_all(out, asked)
    except OSError as error:
        raise UserError(f"cannot write the world to {out}: {error}; choose another --out") from error
    print(f"{out}: wrote {_summary(record)}")


def _summary(record: dict[str, Any]) -> str:
    return (
        f"{record['documents']} documents to train on and {record['val_documents']} to validate on, "
        f"{record['words']} words, {record['sentences']} different sentences"
    )


def _finished(out: Path, asked: dict[str, int]) -> dict[str, Any] | None:
    """The record of a whole world that was written with these arguments, or None."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        files = dict(record["files"])
        same = {name: record[name] for name in asked} == asked and {"words", "sentences"} <= record.keys()
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = set(files) == {"text/train.jsonl", "text/val.jsonl"} and all(
        (out / name).is_file() and _digest(out / name) == files[name] for name in files
    )
    return record if same and whole else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_all(out: Path, asked: dict[str, int]) -> dict[str, Any]:
    """Write both splits, then the record: without it, or with another's hashes, a world counts as unfinished."""
    (out / "text").mkdir(parents=True, exist_ok=True)
    sizes = {"train": asked["documents"], "val": asked["val_documents"]}
    paths = {split: out / "text" / f"{split}.jsonl" for split in sizes}
    for path in paths.values():
        _refuse_foreign(path)
    (out / RECORD).unlink(missing_ok=True)
    seen: set[str] = set()
    words, digests = 0, {}
    with tqdm(total=sum(sizes.values()), desc="world", unit=" documents", leave=False, disable=None) as progress:
        for split, path in paths.items():
            digest = hashlib.sha256()
            with _replacing(path) as file:
                for index in range(sizes[split]):
                    row = text_row(asked["seed"], split, index)
                    line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
                    file.write(line)
                    digest.update(line)
                    words += len(row["text"].split())
                    seen.update(sentences(row["text"]))
                    progress.update()
            digests[f"text/{path.name}"] = digest.hexdigest()
    record = {**asked, "words": words, "sentences": len(seen), "files": digests}
    with _replacing(out / RECORD) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
    return record


def _refuse_foreign(path: Path) -> None:
    """Keep what somebody else wrote: a file is overwritten only where its first row is the world's."""
    if not path.exists():
        return
    with path.open("rb") as file:
        first = file.readline()
    if b'"id": "world-' not in first:
        raise UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place once it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
