"""The world on disk: text, speech, images and conversations, and a record that proves it complete."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from omni.errors import UserError
from omni.files import atomic_write
from omni.synthetic import conversations, espeak, images, recordings
from omni.synthetic.documents import document, sentences
from omni.synthetic.languages.spoken import SpokenLanguage
from omni.synthetic.media_folder import MediaFolder, check_manifest_owner, sha256, write_manifest
from omni.synthetic.scene import row_id, scene_at

GENERATOR = 5  # increase it when the same seed gives other files than before
RECORD = "world.json"
_COUNTS = {"words", "sentences", "seconds"}  # of every record
_LANGUAGE = ("language", "narrator", "sentences_file")  # of the record of a world in another language than English


@dataclass(frozen=True, kw_only=True)
class WorldSizes:
    """Number of rows in each split.

    Attributes:
        documents: Training documents, 1 or more; about 90 words each.
        val_documents: Validation documents, 1 or more.
        utterances: Spoken training sentences, about 2 seconds and 70 kB each; 0 writes none.
        val_utterances: Spoken validation sentences; 0 writes none.
        narrations: Training sentences of the narrator, the voice that a Talker learns; 0 writes none.
        val_narrations: Validation sentences of the narrator; 0 writes none.
        pictures: Training images with captions and labels, about 1 kB each; 0 writes none.
        val_pictures: Validation images; 0 writes none.
        conversations: Training conversations, in English; by default as many as pictures, if there are utterances too.
        val_conversations: Validation conversations; by default as many as val_pictures, if there are val_utterances.
    """

    documents: int = 20000
    val_documents: int = 500
    utterances: int = 6000
    val_utterances: int = 300
    narrations: int = 2400
    val_narrations: int = 100
    pictures: int = 20000
    val_pictures: int = 1000
    conversations: int | None = None
    val_conversations: int | None = None

    def resolved(self, *, english: bool = True) -> dict[str, int]:
        """All sizes, with the defaults of conversations filled in.

        Args:
            english: Whether the world is in English; a world in another language has no conversations.

        Raises:
            UserError: If a size is too low, or there are conversations without pictures or utterances, or in another
                language than English.
        """
        sizes = asdict(self)
        for prefix in ("", "val_"):
            name = f"{prefix}conversations"
            pictures, utterances = sizes[f"{prefix}pictures"], sizes[f"{prefix}utterances"]
            if sizes[name] is None:
                sizes[name] = pictures if utterances > 0 and english else 0
            elif sizes[name] > 0 and not english:
                raise UserError(f"--{name} is {sizes[name]}: conversations are written only in English, leave it out")
            elif sizes[name] > 0 and not (pictures > 0 and utterances > 0):
                raise UserError(
                    f"--{name} is {sizes[name]}: they are about pictures and speech, so give --{prefix}pictures and "
                    f"--{prefix}utterances too"
                )
        for name, size in sizes.items():
            least = 1 if "documents" in name else 0
            if size < least:
                raise UserError(f"--{name} is {size}: give {least} or more")
        return sizes


_TEXT = {"train": "documents", "val": "val_documents"}  # split -> its size in `WorldSizes`
_MEDIA = {
    "speech": {
        "train": "utterances",
        "val": "val_utterances",
        "narrator": "narrations",
        "narrator_val": "val_narrations",
    },
    "images": {"train": "pictures", "val": "val_pictures"},
    "conversations": {"train": "conversations", "val": "val_conversations"},
}


def text_row(seed: int, split: str, index: int) -> dict[str, str]:
    """One document, independent of the other rows.

    Args:
        seed: Seed of the world.
        split: `train` or `val`.
        index: Number of the row in its split.

    Returns:
        `text` and `id`.
    """
    text = document(scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/text"))
    return {"text": text, "id": row_id(split, index)}


def write_world(
    out: Path, sizes: WorldSizes, *, seed: int = 0, language: SpokenLanguage | None = None
) -> tuple[dict[str, Any], bool]:
    """Writes a world, resumes an interrupted one, or keeps a complete one of the same arguments.

    Args:
        out: The folder.
        sizes: Number of rows in each split.
        seed: Any whole number.
        language: Language of text and speech; None for the English of the scenes.

    Returns:
        The record in `world.json`, and whether anything was written.

    Raises:
        UserError: If a size is too low, `out` cannot be written or holds files of another origin, or eSpeak NG is
            missing where there is speech.
    """
    arguments = {"generator": GENERATOR, "seed": seed, **sizes.resolved(english=language is None)}
    arguments |= {} if language is None else language.origin()
    try:
        record = _complete_record(out, arguments)
        return (record, False) if record is not None else (_write(out, arguments, language), True)
    except OSError as error:
        raise UserError(f"cannot write the world to {out}: {error}; choose another --out") from error


def _used(arguments: dict[str, Any], splits: dict[str, str]) -> dict[str, int]:
    """Number of rows in each split that has any."""
    return {split: arguments[name] for split, name in splits.items() if arguments[name]}


def _files(arguments: dict[str, Any]) -> list[str]:
    """Files whose checksums are in the record; their lists of checksums vouch for audio and images."""
    return [f"text/{split}.jsonl" for split in _used(arguments, _TEXT)] + [
        f"{folder}/{split}.{suffix}"
        for folder, splits in _MEDIA.items()
        for split in _used(arguments, splits)
        for suffix in ("jsonl", "sha256")
    ]


def _complete_record(out: Path, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a complete world of these arguments, or None."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        files = dict(record["files"])
        names = {*arguments, *_LANGUAGE}
        same = {name: record[name] for name in names & record.keys()} == arguments and record.keys() >= _COUNTS
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    intact = (
        same
        and set(files) == set(_files(arguments))
        and all((out / name).is_file() and sha256(out / name) == files[name] for name in files)
        and all(
            MediaFolder(out / folder, tuple(splits)).is_intact(split)
            for folder, splits in _MEDIA.items()
            for split in _used(arguments, splits)
        )
    )
    return record if intact else None


def _write(out: Path, arguments: dict[str, Any], language: SpokenLanguage | None) -> dict[str, Any]:
    """Writes everything, the record last: without it a world counts as incomplete."""
    seed, texts = arguments["seed"], _used(arguments, _TEXT)
    sizes = {folder: _used(arguments, splits) for folder, splits in _MEDIA.items()}
    folders = {folder: MediaFolder(out / folder, tuple(splits)) for folder, splits in _MEDIA.items()}
    for split in texts:
        check_manifest_owner(out / "text" / f"{split}.jsonl")
    for folder in folders.values():
        folder.check_owner()
    engine = espeak.version() if sizes["speech"] else None  # raises before anything is written
    (out / RECORD).unlink(missing_ok=True)
    counts = _write_text(out / "text", seed, texts, text_row if language is None else language.text_row)
    images.write_images(folders["images"], seed=seed, sizes=sizes["images"])
    seconds = recordings.write_recordings(
        folders["speech"], generator=GENERATOR, seed=seed, sizes=sizes["speech"], language=language
    )
    conversations.write_conversations(
        folders["conversations"],
        seed=seed,
        sizes=sizes["conversations"],
        images=sizes["images"],
        utterances=sizes["speech"],
    )
    files = {name: sha256(out / name) for name in _files(arguments)}
    record = {**arguments, **counts, "espeak": engine, "seconds": seconds, "files": files}
    with atomic_write(out / RECORD, sync=False) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())
    return record


def _write_text(
    folder: Path, seed: int, sizes: dict[str, int], make: Callable[[int, str, int], dict[str, str]]
) -> dict[str, int]:
    """Writes the documents of every split; returns the number of words and of different sentences."""
    seen: set[str] = set()
    words = 0
    for split, size in sizes.items():
        indices = tqdm(range(size), f"text, {split}", unit=" rows", leave=False, disable=None)
        rows = [make(seed, split, index) for index in indices]
        write_manifest(folder / f"{split}.jsonl", rows)
        words += sum(len(row["text"].split()) for row in rows)
        seen.update(sentence for row in rows for sentence in sentences(row["text"]))
    return {"words": words, "sentences": len(seen)}
