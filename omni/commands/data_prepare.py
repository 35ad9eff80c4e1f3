"""`omni data prepare`: manifests of speech corpora, and conversations of easy-VQA."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from omni.data.conversations.visual_questions import prepare_questions
from omni.data.speech.corpora import LAYOUTS
from omni.data.speech.manifests import Utterance, Utterances
from omni.data.speech.rows import chosen_by_hash
from omni.errors import UserError
from omni.files import atomic_write
from omni.media.audio import audio_info
from omni.media.container import AudioError

_SHOWN = 3  # rows that are named for each reason


class _Entry(NamedTuple):
    """A row of a manifest."""

    utterance: Utterance
    duration: float

    @property
    def stem(self) -> str:
        return Path(self.utterance.audio).stem


def prepare(
    kind: Literal["librispeech", "ljspeech", "an4", "fsdd", "folder", "easy-vqa"],
    folder: Path,
    out: Path | None = None,
    *,
    val_fraction: float = 0.1,
    val_speakers: list[str] | None = None,
) -> None:
    """Write manifests for a speech corpus, or conversations for easy-VQA; the corpus itself does not change.

    Each split gets `SPLIT.jsonl` with one row per utterance: `audio` (relative to the manifest), `text`, `speaker`,
    `duration` in seconds, `id`. Rows without text, and audio with an unreadable header, are skipped and reported;
    `omni data check` reads all audio completely. Corpora with splits keep them: LibriSpeech (one per folder), AN4
    (`train`, `test`), Free Spoken Digits (`train`, `test` of indices 0-4, `all`). LJSpeech is split by chapter and a
    folder by speaker, into `train` and `val`; with a single chapter or speaker it is written as `all`.

    easy-VQA, questions about images, becomes conversations: several questions about an image in each training row, one
    question in each row of the other splits.

    Args:
        kind: librispeech, ljspeech, an4, fsdd (Free Spoken Digit Dataset), easy-vqa, or folder: any tree of audio files
            with a .txt of the same name beside each, and a folder for each speaker.
        folder: The corpus.
        out: Folder for the manifests; by default data/KIND.
        val_fraction: Least fraction of rows for validation, for a corpus without splits: between 0 and 1.
        val_speakers: Validation speakers of kind `folder`; by default chosen by a hash of their names.

    Raises:
        UserError: If the folder does not hold such a corpus, or an argument is out of range.
    """
    folder, out = folder.expanduser(), out.expanduser() if out else Path("data") / kind
    if not 0 < val_fraction < 1:
        raise UserError(f"--val_fraction is {val_fraction}: it must lie between 0 and 1")
    if val_speakers and kind != "folder":
        raise UserError(f"--val_speakers is for kind folder: {kind} has its own splits, or one speaker")
    if kind == "easy-vqa":
        for path, summary in prepare_questions(folder, out):
            print(f"{path}: {summary}")
        return
    skipped: dict[str, list[str]] = {}  # rows by reason
    splits = {split: _usable(source, split, skipped) for split, source in _open(kind, folder).items()}
    if not any(splits.values()):
        reason, rows = next(iter(skipped.items()), ("no rows", [str(folder)]))
        raise UserError(f"{folder}: nothing of it can be used; the first problem, {rows[0]}: {reason}")
    if splits.keys() == {"all"}:
        splits = _split(kind, splits["all"], val_fraction, val_speakers)
    for split, entries in splits.items():
        if entries:
            _write(out / f"{split}.jsonl", kind, folder, entries)
            print(f"{out / split}.jsonl: {_summary(entries)}")
    for reason, rows in skipped.items():
        rows = sorted(set(rows))  # `all` and another split may both name a row
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        print(f"skipped, {reason}: {len(rows)} ({', '.join(rows[:_SHOWN])}{more})")


def _open(kind: str, folder: Path) -> Mapping[str, Utterances]:
    find, looked_for = LAYOUTS[kind]
    if not folder.is_dir():
        raise UserError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: give a folder")
    if not (sources := find(folder.resolve())):
        raise UserError(f"{folder} is not a corpus of kind {kind}: looked for {looked_for}")
    return sources


def _usable(source: Utterances, split: str, skipped: dict[str, list[str]]) -> list[_Entry]:
    """The rows with text and readable audio; the others are added to `skipped`."""
    entries = []
    for row in tqdm(list(source.rows()), desc=f"measuring {split}", leave=False, disable=None):
        if not row.text.strip():
            skipped.setdefault("no text", []).append(row.where)
            continue
        try:
            entries.append(_Entry(row, audio_info(row.audio).duration))
        except AudioError as error:
            skipped.setdefault(f"audio {error.fault}", []).append(row.audio)
    return entries


def _split(
    kind: str, entries: list[_Entry], fraction: float, speakers: Sequence[str] | None
) -> dict[str, list[_Entry]]:
    """Training and validation by chapter or speaker; `all` if there is only one."""
    what = "chapter" if kind == "ljspeech" else "speaker"
    groups = [entry.stem.split("-")[0] if kind == "ljspeech" else entry.utterance.speaker for entry in entries]
    counts = Counter(map(str, groups))
    if speakers is not None:
        if unknown := set(speakers) - counts.keys():
            raise UserError(
                f"--val_speakers: there is no speaker {min(unknown)!r}; there are: {', '.join(sorted(counts))}"
            )
        chosen = set(speakers)
        if not counts.keys() - chosen:
            raise UserError("--val_speakers names all speakers: leave some for training")
    elif None in groups or len(counts) < 2:
        print(f"not split: {'its speakers are unknown' if None in groups else f'it has only one {what}'}")
        return {"all": entries}
    else:
        chosen = set(chosen_by_hash(counts, fraction))
    print(f"validation by {what}: {', '.join(sorted(chosen))}")
    splits: dict[str, list[_Entry]] = {"train": [], "val": []}
    for entry, group in zip(entries, groups, strict=True):
        splits["val" if str(group) in chosen else "train"].append(entry)
    return splits


def _write(path: Path, kind: str, folder: Path, entries: Sequence[_Entry]) -> None:
    """Writes a manifest atomically."""
    top, home = str(folder.resolve()), str(path.parent.resolve())
    with atomic_write(path) as file:
        for row, duration in entries:
            inside = Path(row.audio).relative_to(top)
            content = {
                "audio": _from(home, row.audio),
                "text": row.text.strip(),
                **({} if row.speaker is None else {"speaker": row.speaker}),
                "duration": round(duration, 4),
                "id": inside.with_suffix("").as_posix() if kind == "folder" else inside.stem,
            }
            file.write((json.dumps(content, ensure_ascii=False) + "\n").encode())


def _from(home: str, audio: str) -> str:
    """The audio's path relative to the manifest's folder; absolute if they share only the root."""
    try:
        common = os.path.commonpath([home, audio])
    except ValueError:  # two drives
        return audio
    return audio if common == os.path.dirname(common) else os.path.relpath(audio, home)


def _summary(entries: Sequence[_Entry]) -> str:
    hours = sum(entry.duration for entry in entries) / 3600
    speakers = len({entry.utterance.speaker for entry in entries} - {None})
    counted = f", {speakers} speaker{'s' if speakers > 1 else ''}" if speakers else ""
    return f"{len(entries):,} utterances, {hours:.2f} hours{counted}"
