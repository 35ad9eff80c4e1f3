"""`omni data prepare`: manifests of speech corpora, and conversations of sets of questions."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from omni.data.conversations.question_sets import QUESTION_SETS
from omni.data.speech.corpora import LAYOUTS
from omni.data.speech.manifests import Utterance, Utterances
from omni.data.speech.rows import chosen_by_hash
from omni.errors import UserError
from omni.files import atomic_write
from omni.media.audio import audio_info
from omni.media.container import AudioError
from omni.text.ctc_vocabulary import ENGLISH, RARE, characters_of
from omni.text.normalization import TextNormalization

_SHOWN = 3  # rows that are named for each reason
_NO_TEXT = "no text"  # of recordings that nobody has transcribed


class _Entry(NamedTuple):
    """A row of a manifest."""

    utterance: Utterance
    duration: float

    @property
    def stem(self) -> str:
        return Path(self.utterance.audio).stem


def prepare(
    kind: Literal[
        "librispeech",
        "ljspeech",
        "an4",
        "fsdd",
        "mls",
        "fleurs",
        "css10",
        "folder",
        "easy-vqa",
        "nlvr",
        "flickr8k",
        "gsm8k",
    ],
    folder: Path,
    out: Path | None = None,
    *,
    val_fraction: float = 0.1,
    val_speakers: list[str] | None = None,
) -> None:
    """Write manifests for a speech corpus, or conversations of a set of questions; the corpus itself does not change.

    Each split gets `SPLIT.jsonl` with one row per utterance: `audio` (relative to the manifest), `text`, `speaker`,
    `duration` in seconds, `id`. Rows without text, malformed rows, and audio with an unreadable header, are skipped and
    reported; after one of the last two the exit code is 2. Manifests of an earlier run are replaced when all new ones
    are complete. `omni data check` reads all audio completely.

    Corpora with splits keep them: LibriSpeech (one per folder), AN4 (`test`; its training speakers are split into
    `train` and `val`), Free Spoken Digits (`train`, `test` of indices 0-4, `all`), Multilingual LibriSpeech and FLEURS
    (`train`, `dev`, `test`). LJSpeech is split by chapter, CSS10 by book and a folder by speaker, into `train` and
    `val`; with a single one it is written as `all`.

    Questions become conversations: of easy-VQA several about an image in each training row and one in each row of the
    other splits, its training images split into `train` and `val`; of NLVR whether a statement about an image is true;
    of Flickr8k the captions as descriptions; of GSM8K the question and the worked answer. NLVR and GSM8K are split by a
    hash where there is one split alone, Flickr8k by its official lists.

    Example:
        omni data prepare an4 an4 --out data/an4

    Args:
        kind: librispeech, ljspeech, an4, fsdd (Free Spoken Digit Dataset), mls (Multilingual LibriSpeech), fleurs,
            css10, easy-vqa, nlvr, flickr8k, gsm8k, or folder: any tree of audio files with a .txt of the same name
            beside each, and a folder for each speaker.
        folder: The corpus.
        out: Folder for the manifests; by default data/KIND.
        val_fraction: Least fraction of rows for validation, for a corpus without a split for it: between 0 and 1.
        val_speakers: Validation speakers of kind `folder`; by default chosen by a hash of their names.

    Raises:
        UserError: If the folder does not hold such a corpus, or an argument is out of range.
    """
    folder, out = folder.expanduser(), out.expanduser() if out else Path("data") / kind
    if not 0 < val_fraction < 1:
        raise UserError(f"--val_fraction is {val_fraction}: it must lie between 0 and 1")
    if val_speakers and kind != "folder":
        raise UserError(f"--val_speakers is for kind folder: {kind} has its own splits, or one speaker")
    if kind in QUESTION_SETS:
        _prepare_questions(kind, folder, out, val_fraction)
        return
    skipped: dict[str, list[str]] = {}  # rows by reason
    splits = {split: _usable(source, split, skipped) for split, source in _open(kind, folder).items()}
    if not any(splits.values()):
        reason, rows = next(iter(skipped.items()), ("no rows", [str(folder)]))
        raise UserError(f"{folder}: nothing of it can be used; the first problem, {rows[0]}: {reason}")
    if splits.keys() == {"all"}:
        splits = _split(kind, splits["all"], val_fraction, val_speakers)
    elif kind == "an4" and splits.get("train"):  # its official test split must not choose a checkpoint
        parts = _split(kind, splits.pop("train"), val_fraction, None)
        splits = {"train": parts.get("train", parts.get("all", [])), "val": parts.get("val", []), **splits}
    splits = {split: entries for split, entries in splits.items() if entries}
    _write(out, {split: _rows(out, kind, folder, entries) for split, entries in splits.items()})
    for split, entries in splits.items():
        print(f"{out / split}.jsonl: {_summary(entries)}")
    _report_characters(splits)
    for reason, rows in skipped.items():
        rows = sorted(set(rows))  # `all` and another split may both name a row
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        print(f"skipped, {reason}: {len(rows)} ({', '.join(rows[:_SHOWN])}{more})")
    if skipped.keys() - {_NO_TEXT}:
        raise SystemExit(2)


def _report_characters(splits: Mapping[str, Sequence[_Entry]]) -> None:
    """Prints the options for a corpus whose text has other characters than English."""
    name = next((name for name in splits if name.startswith("train")), next(iter(splits)))
    texts = (entry.utterance.text for entry in splits[name])
    characters = characters_of(texts, TextNormalization(), least_share=RARE)
    if set(characters) - set(ENGLISH):
        print(
            f"{len(characters)} characters: train a recogniser with --data.init_args.characters auto "
            f"--model.init_args.audio_encoder.init_args.vocab_size {len(characters) + 1}"
        )


def _prepare_questions(kind: str, folder: Path, out: Path, val_fraction: float) -> None:
    splits = QUESTION_SETS[kind](folder, out, val_fraction)
    errors = [error for split in splits for error in split.errors]
    if not any(split.rows for split in splits):
        raise errors[0] if errors else UserError(f"{folder}: has no questions")
    splits = [split for split in splits if split.rows]
    _write(out, {split.name: split.rows for split in splits})
    for split in splits:
        print(f"{out / split.name}.jsonl: {split.summary}")
    for error in errors[:_SHOWN]:
        print(f"omni: {error}", file=sys.stderr)
    if errors:
        if len(errors) > _SHOWN:
            print(f"omni: and {len(errors) - _SHOWN} more rows that cannot be used", file=sys.stderr)
        raise SystemExit(2)


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
    for row in tqdm(list(source.rows_or_errors()), desc=f"measuring {split}", leave=False, disable=None):
        if isinstance(row, UserError):
            skipped.setdefault("malformed", []).append(str(row))
            continue
        if not row.text.strip():
            skipped.setdefault(_NO_TEXT, []).append(row.where)
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
    what = {"ljspeech": "chapter", "css10": "book"}.get(kind, "speaker")
    groups = [_group(kind, entry) for entry in entries]
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


def _group(kind: str, entry: _Entry) -> str | None:
    """What a row is split by: the chapter or book of one speaker's corpus, the speaker of others."""
    if kind == "ljspeech":
        return entry.stem.split("-")[0]
    return Path(entry.utterance.audio).parent.name if kind == "css10" else entry.utterance.speaker


def _rows(out: Path, kind: str, folder: Path, entries: Sequence[_Entry]) -> Iterator[dict[str, Any]]:
    """The rows of a manifest."""
    top, home = str(folder.resolve()), str(out.resolve())
    for row, duration in entries:
        inside = Path(row.audio).relative_to(top)
        yield {
            "audio": _from(home, row.audio),
            "text": row.text.strip(),
            **({} if row.speaker is None else {"speaker": row.speaker}),
            "duration": round(duration, 4),
            "id": inside.with_suffix("").as_posix() if kind == "folder" else inside.stem,
        }


def _write(out: Path, splits: Mapping[str, Iterable[dict[str, Any]]]) -> None:
    """Writes `SPLIT.jsonl` for each split; earlier files are replaced when all of them are complete."""
    with ExitStack() as files:
        for split, rows in splits.items():
            file = files.enter_context(atomic_write(out / f"{split}.jsonl"))
            for row in rows:
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


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
