"""Files: the world on disk, text, speech, images and conversations, and the record that tells whether it is whole."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from omni.errors import UserError
from omni.files import atomic_write
from omni.synthetic import conversations as conversing
from omni.synthetic import espeak, images, recordings
from omni.synthetic.disk import digest, refuse_foreign, whole
from omni.synthetic.documents import document, sentences
from omni.synthetic.scene import scene_at

GENERATOR = 5  # raise it when the same seed gives other files than before: text, speech, images or conversations
RECORD = "world.json"
_LISTED = {  # what has files of its own, and their folder
    "utterances": "speech",
    "pictures": "images",
    "conversations": "conversations",
}
_SPLITS = {  # what tells how many rows each split has
    "documents": {"train": "documents", "val": "val_documents"},
    "utterances": {
        "train": "utterances",
        "val": "val_utterances",
        "narrator": "narrations",
        "narrator_val": "val_narrations",
    },
    "pictures": {"train": "pictures", "val": "val_pictures"},
    "conversations": {"train": "conversations", "val": "val_conversations"},
}


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


def write(
    out: Path = Path("data/world"),
    *,
    documents: int = 20000,
    val_documents: int = 500,
    utterances: int = 6000,
    val_utterances: int = 300,
    narrations: int = 2400,
    val_narrations: int = 100,
    pictures: int = 20000,
    val_pictures: int = 1000,
    conversations: int | None = None,
    val_conversations: int | None = None,
    seed: int = 0,
) -> None:
    """Write the world, omni's embedded data set: text about scenes of coloured shapes, speech, images, conversations.

    The same seed gives the same text and pixels on every machine, and the same speech from the same eSpeak NG. Scenes
    of validation never occur in training, whatever the seeds; nor do its spoken sentences and its voices. A world that
    is already there, whole and written with the same arguments, is kept; a run that was cut goes on where it was.

    Args:
        out: folder to write into: `text/train.jsonl` and `text/val.jsonl`; `speech/train.jsonl`, `speech/val.jsonl`,
            `speech/narrator.jsonl`, `speech/narrator_val.jsonl` and their audio, 16 kHz mono WAV; `images/train.jsonl`,
            `images/val.jsonl` and their pictures, PNG of 64 by 64 pixels; `conversations/train.jsonl` and
            `conversations/val.jsonl`, questions about them and answers; and `world.json`, the record of them all.
        documents: documents to train on, 1 or more; about 90 words each.
        val_documents: documents to validate on, 1 or more.
        utterances: spoken sentences to train on, about 2 seconds and 70 kB each; 0 for none.
        val_utterances: spoken sentences to validate on; 0 for none.
        narrations: sentences of the narrator, whose voice a Talker learns; 0 for none.
        val_narrations: sentences of the narrator to validate on; 0 for none.
        pictures: scenes drawn to train on, about 1 kB each, with captions and labels; 0 for none.
        val_pictures: scenes drawn to validate on; 0 for none.
        conversations: questions and answers to train on; by default as many as pictures, if there is speech too.
        val_conversations: questions and answers to validate on; by default the same of validation.
        seed: any whole number; another seed gives another world.

    Raises:
        UserError: a number is too low, `out` cannot be written, it holds files that are not the world's, or
            eSpeak NG is missing where there is something to say.
    """
    asked = {"documents": documents, "val_documents": val_documents}
    asked |= {"utterances": utterances, "val_utterances": val_utterances}
    asked |= {"narrations": narrations, "val_narrations": val_narrations}
    asked |= {"pictures": pictures, "val_pictures": val_pictures}
    asked["conversations"] = _talks(conversations, "", pictures, utterances)
    asked["val_conversations"] = _talks(val_conversations, "val_", val_pictures, val_utterances)
    for name, number in asked.items():
        least = 1 if "documents" in name else 0
        if number < least:
            raise UserError(f"--{name} is {number}: give {least} or more")
    out, asked = Path(out), {"generator": GENERATOR, "seed": seed, **asked}
    try:
        record = _finished(out, asked)
        if record is not None:
            print(f"{out} is up to date: {_summary(record)}")
            return
        record = _write_all(out, asked)
    except OSError as error:
        raise UserError(f"cannot write the world to {out}: {error}; choose another --out") from error
    print(f"{out}: wrote {_summary(record)}")


def _talks(number: int | None, prefix: str, pictures: int, utterances: int) -> int:
    """How many conversations to write: as told, or as many as pictures."""
    if number is None:
        return pictures if utterances > 0 else 0
    if number > 0 and not (pictures > 0 and utterances > 0):
        raise UserError(
            f"--{prefix}conversations is {number}: they are about pictures and speech, so give --{prefix}pictures and "
            f"--{prefix}utterances too"
        )
    return number


def _sizes(asked: dict[str, Any], kind: str) -> dict[str, int]:
    """Rows of each split that has any: of `documents`, `utterances`, `pictures` or `conversations`."""
    return {split: asked[name] for split, name in _SPLITS[kind].items() if asked[name]}


def _names(asked: dict[str, Any]) -> list[str]:
    """The files that the record vouches for; those of checksums vouch for audio and pictures."""
    texts = [f"text/{split}.jsonl" for split in _sizes(asked, "documents")]
    return texts + [
        f"{folder}/{split}.{suffix}"
        for kind, folder in _LISTED.items()
        for split in _sizes(asked, kind)
        for suffix in ("jsonl", "sha256")
    ]


def _summary(record: dict[str, Any]) -> str:
    hours = sum(record["seconds"].values()) / 3600
    spoken = (
        f"{record['utterances']} and {record['val_utterances']} utterances of many voices, {record['narrations']} and "
        f"{record['val_narrations']} of one, {hours:.1f} hours"
    )
    drawn = f"{record['pictures']} and {record['val_pictures']} pictures"
    talked = f"{record['conversations']} and {record['val_conversations']} conversations"
    return (
        f"{record['documents']} documents to train on and {record['val_documents']} to validate on, "
        f"{record['words']} words, {record['sentences']} different sentences; "
        f"{spoken if record['seconds'] else 'no utterances'}; {drawn}; {talked}"
    )


def _finished(out: Path, asked: dict[str, int]) -> dict[str, Any] | None:
    """The record of a whole world that was written with these arguments, or None."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        files = dict(record["files"])
        same = {name: record[name] for name in asked} == asked and {"words", "sentences", "seconds"} <= record.keys()
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    unhurt = (
        same
        and set(files) == set(_names(asked))
        and all((out / name).is_file() and digest(out / name) == files[name] for name in files)
        and all(
            whole(out / folder, split, None if kind == "conversations" else size)
            for kind, folder in _LISTED.items()
            for split, size in _sizes(asked, kind).items()
        )
    )
    return record if unhurt else None


def _write_all(out: Path, asked: dict[str, int]) -> dict[str, Any]:
    """Write text, images, speech, then the record: without it, or with other hashes, a world counts as unfinished."""
    texts, spoken, drawn, talked = (_sizes(asked, kind) for kind in ("documents", *_LISTED))
    speech, seconds = out / "speech", {}
    for split in texts:
        refuse_foreign(out / "text" / f"{split}.jsonl")
    recordings.refuse(speech)
    images.refuse(out / "images")
    conversing.refuse(out / "conversations")
    engine = espeak.version() if spoken else None  # it had better be missed now than after the text
    (out / "text").mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    counts = _write_text(out / "text", asked["seed"], texts)
    if drawn:
        images.write_images(out / "images", seed=asked["seed"], sizes=drawn)
    else:
        images.remove(out / "images")
    if spoken:
        seconds = recordings.record(speech, generator=GENERATOR, seed=asked["seed"], sizes=spoken)
    else:
        recordings.remove(speech)
    if talked:
        conversing.write_conversations(
            out / "conversations", seed=asked["seed"], sizes=talked, pictures=drawn, utterances=spoken
        )
    else:
        conversing.remove(out / "conversations")
    files = {name: digest(out / name) for name in _names(asked)}
    record = {**asked, **counts, "espeak": engine, "seconds": seconds, "files": files}
    with atomic_write(out / RECORD, sync=False) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
    return record


def _write_text(folder: Path, seed: int, sizes: dict[str, int]) -> dict[str, int]:
    """Write the documents of every split; how many words and different sentences they have."""
    seen: set[str] = set()
    words = 0
    with tqdm(total=sum(sizes.values()), desc="text", unit=" documents", leave=False, disable=None) as progress:
        for split, size in sizes.items():
            with atomic_write(folder / f"{split}.jsonl", sync=False) as file:
                for index in range(size):
                    row = text_row(seed, split, index)
                    file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                    words += len(row["text"].split())
                    seen.update(sentences(row["text"]))
                    progress.update()
    return {"words": words, "sentences": len(seen)}
