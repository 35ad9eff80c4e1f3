"""The sources of utterances that names in a configuration stand for."""

from collections.abc import Sequence
from pathlib import Path

from omni.data.loading.hub import HUB, Columns
from omni.data.speech.archives import TarUtterances, tar_files
from omni.data.speech.corpora import AudioFolder, LibriSpeech, ljspeech_splits
from omni.data.speech.kaldi import KaldiFolder
from omni.data.speech.manifests import (
    AUDIO_KEYS,
    MANIFEST_SUFFIXES,
    HubUtterances,
    SpeechManifest,
    Utterances,
    table_delimiter,
)
from omni.errors import UserError
from omni.media.container import AUDIO_SUFFIXES

_COMMON_VOICE_FILES = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}


def open_utterances(
    entries: Sequence[str],
    *,
    text_column: str = "text",
    cache_dir: Path = Path("data/cache"),
    split: str = "train",
    columns: Columns | None = None,
) -> list[Utterances]:
    """Finds the sources that a list of names stands for.

    Args:
        entries: Manifests (.jsonl, .csv, .tsv); folders of LibriSpeech, LJSpeech, Common Voice, Kaldi or ESPnet; tar
            files, or folders or patterns of them; `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        text_column: Column of the text in manifests and on the Hub.
        cache_dir: Folder of downloads from the Hub.
        split: `train`, `val` or `test`: the Hub's split where an entry names none.
        columns: Names of columns by data set of the Hub; see `HubSplit`.

    Raises:
        UserError: If a source does not exist or its format is not known.
    """
    return [_open(entry, split, text_column, cache_dir, columns or {}) for entry in entries]


def _open(entry: str, split: str, text_column: str, cache_dir: Path, columns: Columns) -> Utterances:
    if entry.startswith(HUB):
        return HubUtterances(entry, split, text_column=text_column, cache_dir=cache_dir, columns=columns)
    path = Path(entry).expanduser()
    if path.is_dir():
        return _open_folder(path, split, text_column)
    if path.suffix == ".tar":
        return TarUtterances(tar_files(entry), text_column=text_column)
    if not path.is_file():
        raise UserError(f"{entry}: does not exist: name a manifest, a folder of speech or hub:OWNER/NAME")
    if path.suffix not in MANIFEST_SUFFIXES:
        raise UserError(f"{entry}: a manifest of speech is a .jsonl, .csv or .tsv file (see `omni data prepare`)")
    return SpeechManifest(path, text_column=text_column)


def is_speech_folder(path: Path) -> bool:
    """Whether a folder has one of the layouts of speech that are read without a manifest."""
    if (path / "clips").is_dir() and any((path / name).is_file() for name in _COMMON_VOICE_FILES.values()):
        return True
    kaldi = (path / "wav.scp").is_file() and (path / "text").is_file()
    beside = any(file.suffix.lower() in AUDIO_SUFFIXES for file in path.iterdir())
    tar = next(path.glob("*.tar"), None) if not beside else None  # an archive of recordings is not one of utterances
    return any((kaldi, tar, ljspeech_splits(path), next(path.rglob("*.trans.txt"), None)))


def holds_audio(folder: Path) -> bool:
    """Whether there are files of audio in a folder or in its subfolders."""
    return any(file.suffix.lower() in AUDIO_SUFFIXES for file in folder.rglob("*"))


def open_recordings(path: Path, *, text_column: str = "text") -> Utterances:
    """The recordings of a folder of any layout; see `open_utterances` for those with one of their own.

    Args:
        path: A manifest; a corpus; a folder with a manifest; or one of audio files, each with or without a .txt of the
            same name beside it.
        text_column: Column of the text in manifests.

    Raises:
        UserError: If it does not exist, its format is not known, or it has several manifests.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder of recordings, or a manifest")
    if path.is_file() or is_speech_folder(path):
        return open_utterances([str(path)], text_column=text_column)[0]
    manifests = [file for file in sorted(path.iterdir()) if file.suffix in MANIFEST_SUFFIXES and _names_audio(file)]
    if len(manifests) > 1:
        names = ", ".join(file.name for file in manifests)
        raise UserError(f"{path} has {len(manifests)} manifests ({names}): give one of them instead of the folder")
    if manifests:
        return SpeechManifest(manifests[0], text_column=text_column)
    return AudioFolder(path.resolve())


def _names_audio(file: Path) -> bool:
    """Whether the first line of a file has a column of audio."""
    with file.open("rb") as content:
        first = content.readline(2**16)
    header = first.decode("utf-8-sig", "replace").strip()
    columns = {name.strip('"') for name in header.split(table_delimiter(header))}
    return any(key in columns or f'"{key}"' in header for key in AUDIO_KEYS)


def _open_folder(path: Path, split: str, text_column: str) -> Utterances:
    if (path / "wav.scp").is_file() and (path / "text").is_file():
        return KaldiFolder(path)
    if (path / "clips").is_dir() and (table := path / _COMMON_VOICE_FILES[split]).is_file():
        return SpeechManifest(table, text_column=text_column)
    if next(path.glob("*.tar"), None):
        return TarUtterances(tar_files(str(path)), text_column=text_column)
    if splits := ljspeech_splits(path):
        return splits["all"]
    if next(path.rglob("*.trans.txt"), None):
        return LibriSpeech(path)
    raise UserError(
        f"{path}: not a folder in the layout of LibriSpeech, LJSpeech, Common Voice ({_COMMON_VOICE_FILES[split]} and "
        "clips) or Kaldi (wav.scp and text): write a manifest with `omni data prepare`"
    )
