"""Sources of speech in the layouts of well-known corpora."""

import os
import re
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

from omni.data.speech.manifests import Utterance, Utterances
from omni.errors import UserError
from omni.media.container import AUDIO_SUFFIXES

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FSDD_TEST = range(5)  # indices of the test recordings of each digit and speaker, as its authors define them


class _Corpus(Utterances, ABC):
    """Abstract: a folder of speech.

    Args:
        folder: The folder.
        split: The split that is read of it; all if it has none.
    """

    def __init__(self, folder: Path, split: str = "all"):
        self.name = str(folder) if split == "all" else f"{folder}, {split}"
        self.folder, self.split = folder, split


@final
class LibriSpeech(_Corpus):
    """The layout of LibriSpeech: `speaker/chapter/*.trans.txt` beside the audio (Panayotov et al., ICASSP 2015).

    Args:
        folder: Any parent folder of the transcripts.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        for transcript in sorted(self.folder.rglob("*.trans.txt")):
            try:
                lines = numbered_lines(transcript)
            except UserError as error:
                yield error
                continue
            for number, line in lines:
                key, _, text = line.strip().partition(" ")
                audio = _with_some_suffix(transcript.parent / key, (".flac", ".wav", ".ogg", ".opus", ".mp3"))
                yield Utterance(str(audio), text, key.split("-")[0], None, f"{transcript}: row {number}")


@final
class LJSpeech(_Corpus):
    """The layout of LJSpeech: `metadata.csv` with `id|text|normalised text`, and `wavs/`.

    Args:
        folder: The one with `metadata.csv`.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        metadata = self.folder / "metadata.csv"
        for number, line in numbered_lines(metadata):
            columns = line.split("|")
            where = f"{metadata}: row {number}"
            if len(columns) < 2:
                yield UserError(f"{where}: not `id|text|normalised text`: correct or remove the row")
                continue
            audio = _with_some_suffix(self.folder / "wavs" / columns[0], (".wav", ".flac", ".ogg", ".opus", ".mp3"))
            yield Utterance(str(audio), columns[2] if len(columns) > 2 else columns[1], "LJ", None, where)


@final
class AN4(_Corpus):
    """One split of CMU's AN4 (Acero, 1990): `etc/an4_SPLIT.fileids` and `.transcription`, and `wav/`.

    Args:
        folder: The one with `etc`.
        split: `train` or `test`.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        files = self.folder / "etc" / f"an4_{self.split}.fileids"
        transcripts = files.with_suffix(".transcription")
        texts = {}
        for number, line in numbered_lines(transcripts):
            match = re.fullmatch(r"(.*)\((\S+)\)\s*", line)
            if match is None:
                yield UserError(f"{transcripts}: row {number}: not `WORDS (id)`: correct or remove the row")
            else:
                texts[match[2]] = re.sub(r"</?s>|<sil>", " ", match[1])
        for number, line in numbered_lines(files):
            stem = self.folder / "wav" / line.strip()
            audio = _with_some_suffix(stem, (".sph", ".wav", ".flac", ".ogg", ".mp3"))
            text = " ".join(texts.get(stem.name, "").split())
            yield Utterance(str(audio), text, stem.parent.name, None, f"{files}: row {number}")


@final
class FreeSpokenDigits(_Corpus):
    """One split of the Free Spoken Digit Dataset: `recordings/DIGIT_SPEAKER_INDEX.wav`.

    Args:
        folder: The parent of `recordings`, or this folder itself.
        split: `train`, `test` (indices 0–4) or `all`.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        found = []
        for file in _audio_files(self.folder):
            if match := re.fullmatch(r"(\d)_(.+)_(\d+)", file.stem):
                found.append((match[2], int(match[1]), int(match[3]), file))
            elif self.split == "all":
                found.append((file.stem, -1, -1, file))
        for speaker, digit, index, file in sorted(found):
            split = "test" if index in _FSDD_TEST else "train"
            if self.split in (split, "all"):
                yield Utterance(str(file), _DIGITS[digit] if digit >= 0 else "", speaker, None, str(file))


@final
class MLS(_Corpus):
    """One split of Multilingual LibriSpeech (arXiv:2012.03411): `transcripts.txt`, and `audio/SPEAKER/BOOK/`.

    Args:
        folder: The one with `transcripts.txt`.
        split: `train`, `dev` or `test`.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        transcripts = self.folder / "transcripts.txt"
        for number, line in numbered_lines(transcripts):
            where = f"{transcripts}: row {number}"
            key, tab, text = line.strip("\r").partition("\t")
            parts = key.strip().split("_")
            if not tab or len(parts) != 3 or not all(parts):
                yield UserError(f"{where}: not `SPEAKER_BOOK_NUMBER, tab, text`: correct or remove the row")
                continue
            stem = self.folder / "audio" / parts[0] / parts[1] / key.strip()
            audio = _with_some_suffix(stem, (".flac", ".opus", ".wav", ".ogg", ".mp3"))
            yield Utterance(str(audio), text, parts[0], None, where)


@final
class Fleurs(_Corpus):
    """One split of FLEURS (arXiv:2205.12446): `SPLIT.tsv`, and `audio/SPLIT/`. Its speakers are unknown.

    Args:
        folder: The one of a language, such as `de_de`, with `train.tsv`.
        split: `train`, `dev` or `test`.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        table = self.folder / f"{self.split}.tsv"
        audio = next(
            (path for path in (self.folder / "audio" / self.split, self.folder / self.split) if path.is_dir()), None
        )
        for number, line in numbered_lines(table):
            columns = line.strip("\r").split("\t")
            where = f"{table}: row {number}"
            if len(columns) < 4 or not columns[1].strip():
                yield UserError(
                    f"{where}: not `id, file, text, normalised text, ...` with tabs: correct or remove the row"
                )
                continue
            file = (audio or self.folder / "audio" / self.split) / Path(columns[1].strip()).name
            yield Utterance(str(file), columns[2], None, None, where)


@final
class CSS10(_Corpus):
    """The layout of CSS10 (arXiv:1903.11269): `transcript.txt` with `BOOK/FILE.wav|text|normalised text|seconds`.

    Args:
        folder: The one of a language, with `transcript.txt`. It has one speaker, who reads one or several books.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        transcript = self.folder / "transcript.txt"
        for number, line in numbered_lines(transcript):
            columns = line.strip("\r").split("|")
            where = f"{transcript}: row {number}"
            path = Path(os.path.normpath(self.folder / columns[0].strip()))  # links may lead elsewhere
            if len(columns) < 3 or not path.is_relative_to(self.folder):
                yield UserError(f"{where}: not `BOOK/FILE.wav|text|normalised text|seconds`: correct or remove the row")
                continue
            yield Utterance(str(path), columns[2] if columns[2].strip() else columns[1], "CSS10", None, where)


@final
class AudioFolder(_Corpus):
    """A tree of audio files, each with a `.txt` of the same name beside it, and a folder for each speaker.

    Args:
        folder: The root of the tree. Files directly in it have no speaker.
    """

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        for file in _audio_files(self.folder):
            transcript = next(filter(Path.is_file, map(file.with_suffix, (".txt", ".TXT"))), file.with_suffix(".txt"))
            try:
                text = " ".join(line for _, line in numbered_lines(transcript)) if transcript.is_file() else ""
            except UserError as error:
                yield error
                continue
            speaker = file.parent.name if file.parent != self.folder else None
            yield Utterance(str(file), " ".join(text.split()), speaker, None, str(file))


def librispeech_splits(folder: Path) -> Mapping[str, Utterances]:
    """A source for each split (`train-clean-5`, `dev-clean`) in a folder, which may be a split itself.

    Raises:
        UserError: If two splits have the same name.
    """
    parents = {transcript.parents[2] for transcript in folder.rglob("*.trans.txt")}
    # The folder may also be the one of a speaker or of a chapter.
    found = sorted({split if split.is_relative_to(folder) else folder for split in parents})
    splits: dict[str, Utterances] = {}
    for split in found:
        if split.name in splits:
            raise UserError(
                f"{folder}: two splits have the name {split.name}: prepare them one by one, with different --out"
            )
        splits[split.name] = LibriSpeech(split)
    return splits


def an4_splits(folder: Path) -> Mapping[str, Utterances]:
    """A source for each split of AN4 that exists."""
    etc = folder / "etc"
    return {
        split: AN4(folder, split)
        for split in ("train", "test")
        if all((etc / f"an4_{split}.{ending}").is_file() for ending in ("fileids", "transcription"))
    }


def fsdd_splits(folder: Path) -> Mapping[str, Utterances]:
    """`train`, `test` and `all` of the Free Spoken Digits."""
    recordings = folder / "recordings" if (folder / "recordings").is_dir() else folder
    if not any(re.fullmatch(r"\d_.+_\d+", file.stem) for file in _audio_files(recordings)):
        return {}
    return {split: FreeSpokenDigits(recordings, split) for split in ("train", "test", "all")}


def ljspeech_splits(folder: Path) -> Mapping[str, Utterances]:
    """All of LJSpeech."""
    whole = (folder / "metadata.csv").is_file() and (folder / "wavs").is_dir()
    return {"all": LJSpeech(folder)} if whole else {}


def mls_splits(folder: Path) -> Mapping[str, Utterances]:
    """`train`, `dev` and `test` of Multilingual LibriSpeech, in the folder of a language or of one split."""
    if (folder / "transcripts.txt").is_file():
        return {folder.name: MLS(folder, folder.name)}
    return {
        split: MLS(folder / split, split)
        for split in ("train", "dev", "test")
        if (folder / split / "transcripts.txt").is_file()
    }


def fleurs_splits(folder: Path) -> Mapping[str, Utterances]:
    """`train`, `dev` and `test` of a language of FLEURS."""
    return {split: Fleurs(folder, split) for split in ("train", "dev", "test") if (folder / f"{split}.tsv").is_file()}


def css10_splits(folder: Path) -> Mapping[str, Utterances]:
    """All of a language of CSS10."""
    return {"all": CSS10(folder)} if (folder / "transcript.txt").is_file() else {}


def folder_splits(folder: Path) -> Mapping[str, Utterances]:
    """All files of a tree."""
    return {"all": AudioFolder(folder)} if next(iter(_audio_files(folder)), None) else {}


# kind -> function that finds its splits, and the files it looks for
LAYOUTS: dict[str, tuple[Callable[[Path], Mapping[str, Utterances]], str]] = {
    "librispeech": (librispeech_splits, "SPLIT/SPEAKER/CHAPTER/*.trans.txt"),
    "ljspeech": (ljspeech_splits, "metadata.csv and wavs/"),
    "an4": (an4_splits, "etc/an4_train.fileids, etc/an4_train.transcription and the same of an4_test"),
    "fsdd": (fsdd_splits, "recordings/DIGIT_SPEAKER_INDEX.wav, such as 7_jackson_12.wav"),
    "mls": (mls_splits, "SPLIT/transcripts.txt and SPLIT/audio/SPEAKER/BOOK/, with the splits train, dev and test"),
    "fleurs": (fleurs_splits, "SPLIT.tsv and audio/SPLIT/, with the splits train, dev and test"),
    "css10": (css10_splits, "transcript.txt and a folder of WAV files for each book"),
    "folder": (folder_splits, f"audio ({', '.join(AUDIO_SUFFIXES)}) with a .txt of the same name beside it"),
}


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers.

    Raises:
        UserError: If it is not UTF-8 or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start}): convert the file to UTF-8") from None
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _audio_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(file for file in folder.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES))


def _with_some_suffix(stem: Path, suffixes: Sequence[str]) -> Path:
    """The first file of that name; or the name with the first suffix if no file exists."""
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    return next((path for path in paths if path.is_file()), paths[0])
