"""Manifests of corpora as they lie on disk: speech, and questions about images."""

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

_SHOWN = 3  # rows that are named of all that are left out for one reason


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
    """Write manifests for a corpus of speech, or conversations for one of questions; its files stay where they are.

    Each split gets `SPLIT.jsonl` with a row an utterance: `audio` (relative to the manifest), `text`, `speaker`,
    `duration` in seconds, `id`. Rows without text, and audio whose header cannot be read, are left out and named;
    `omni data check` reads all audio to its end. Splits are the corpus's own where it has some: LibriSpeech one a
    folder, AN4 `train` and `test`, Free Spoken Digits `train`, `test` (indices 0-4) and `all`. LJSpeech is split by
    chapter and a folder by speaker, into `train` and `val`, or written as `all` where it has but one.

    easy-VQA, questions about images, becomes conversations, `SPLIT.jsonl` for each of its own splits: several questions
    about an image in a row to train on, each question alone elsewhere.

    Args:
        kind: librispeech, ljspeech, an4, fsdd (Free Spoken Digit Dataset), or folder: any tree of audio files with a
            .txt of the same name beside each, in which every speaker has a folder; or easy-vqa.
        folder: Where the corpus lies.
        out: Folder for the manifests; data/KIND by default.
        val_fraction: Share of the rows to hold out at least, of a corpus without splits: 0 to 1.
        val_speakers: Speakers to hold out of a `folder`, rather than some chosen by a hash of their names.

    Raises:
        UserError: If the folder does not hold such a corpus, or an argument is out of range.
    """
    folder, out = Path(folder).expanduser(), Path(out).expanduser() if out else Path("data") / kind
    if not 0 < val_fraction < 1:
        raise UserError(f"--val_fraction is {val_fraction}: it must lie between 0 and 1")
    if val_speakers and kind != "folder":
        raise UserError(f"--val_speakers is for kind folder: {kind} has splits of its own, or one voice")
    if kind == "easy-vqa":
        prepare_questions(folder, out)
        return
    sources = _open(kind, folder)
    kept: dict[str, list[_Entry]] = {}
    left_out: dict[str, list[str]] = {}  # why -> which
    for split, source in sources.items():
        kept[split] = _usable(source, split, left_out)
    if not any(kept.values()):
        why, rows = next(iter(left_out.items()), ("no rows", [str(folder)]))
        raise UserError(f"{folder}: nothing of it can be used; the first, {rows[0]}: {why}")
    parts = _split(kind, kept["all"], val_fraction, val_speakers) if len(kept) == 1 and "all" in kept else kept
    for split, entries in parts.items():
        if entries:
            _write(out / f"{split}.jsonl", kind, folder, entries)
            print(f"{out / split}.jsonl: {_summary(entries)}")
    for why, rows in left_out.items():
        rows = sorted(set(rows))  # `all` and another split may name a row twice
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        print(f"left out, {why}: {len(rows)} ({', '.join(rows[:_SHOWN])}{more})")


def _open(kind: str, folder: Path) -> Mapping[str, Utterances]:
    find, looked_for = LAYOUTS[kind]
    if not folder.is_dir():
        reason = "is a file, and a folder is needed" if folder.exists() else "does not exist"
        raise UserError(f"{folder}: {reason}: name the folder of the corpus")
    if not (sources := find(folder.resolve())):
        raise UserError(f"{folder}: is no corpus of kind {kind}: looked for {looked_for}")
    return sources


def _usable(source: Utterances, split: str, left_out: dict[str, list[str]]) -> list[_Entry]:
    """The rows that have text and audio; the others are added to `left_out`."""
    entries = []
    for row in tqdm(list(source.rows()), desc=f"measuring {split}", leave=False, disable=None):
        if not row.text.strip():
            left_out.setdefault("no text", []).append(row.where)
            continue
        try:
            entries.append(_Entry(row, audio_info(row.audio).duration))
        except AudioError as error:
            left_out.setdefault(f"audio {error.fault}", []).append(row.audio)
    return entries


def _split(
    kind: str, entries: Sequence[_Entry], fraction: float, speakers: Sequence[str] | None
) -> Mapping[str, Sequence[_Entry]]:
    """Training and validation by chapter or speaker; all in one where there is only one of them."""
    what = "chapter" if kind == "ljspeech" else "speaker"
    groups = [entry.stem.split("-")[0] if kind == "ljspeech" else entry.utterance.speaker for entry in entries]
    counts = Counter(map(str, groups))
    if speakers is not None:
        if unknown := set(speakers) - counts.keys():
            raise UserError(
                f"--val_speakers: nobody is called {min(unknown)!r}; there are: {', '.join(sorted(counts))}"
            )
        chosen = set(speakers)
        if not counts.keys() - chosen:
            raise UserError("--val_speakers: all are held out, and nobody is left to train on")
    elif None in groups or len(counts) < 2:
        print(f"not split: {'its speakers are not told' if None in groups else f'it has one {what} only'}")
        return {"all": entries}
    else:
        chosen = set(chosen_by_hash(counts, fraction))
    held_out = [str(group) in chosen for group in groups]
    print(f"held out by {what}: {', '.join(sorted(chosen))}")
    return {
        "train": [entry for entry, held in zip(entries, held_out, strict=True) if not held],
        "val": [entry for entry, held in zip(entries, held_out, strict=True) if held],
    }


def _write(path: Path, kind: str, folder: Path, entries: Sequence[_Entry]) -> None:
    """Writes a manifest, whole or not at all."""
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
    """How the audio is called from the manifest's folder; by its full path where only the root is common to both."""
    try:
        common = os.path.commonpath([home, audio])
    except ValueError:  # two drives
        return audio
    return audio if common == os.path.dirname(common) else os.path.relpath(audio, home)


def _summary(entries: Sequence[_Entry]) -> str:
    hours = sum(entry.duration for entry in entries) / 3600
    speakers = len({entry.utterance.speaker for entry in entries} - {None})
    told = f", {speakers} speaker{'s' if speakers > 1 else ''}" if speakers else ""
    return f"{len(entries):,} utterances, {hours:.2f} hours{told}"
