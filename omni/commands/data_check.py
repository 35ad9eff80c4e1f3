"""`omni data check`: finds what would hurt training, before training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any, Literal

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.checks.conversations import CONVERSATION_KINDS, ConversationCheck
from omni.data.checks.findings import Report
from omni.data.checks.images import IMAGE_KINDS, ImageCheck
from omni.data.checks.speech import SPEECH_KINDS, SpeechCheck, SpeechRules
from omni.data.checks.text import TEXT_KINDS, TextCheck
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.shapes import holds_conversations
from omni.data.images.opening import open_images
from omni.data.images.sources import SUFFIXES, Location
from omni.data.speech.manifests import AUDIO_KEYS, MANIFEST_SUFFIXES, table_delimiter
from omni.data.speech.opening import holds_audio, is_speech_folder, open_recordings, open_utterances
from omni.data.text.corpus import open_corpus
from omni.errors import UserError
from omni.text.ctc_vocabulary import ENGLISH, open_ctc_vocabulary
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import ByteTokenizer

_ENCODER = {"downsampling": 8, "subframes": 4}  # the audio encoder's defaults: 50 sub-frames a second
_SPLITS = {"data": "train", "val": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    """How speech would be trained on.

    Args:
        units: Units of transcripts: `characters`, a SentencePiece .model file, or a recogniser's checkpoint.
        characters: The characters, with `characters`.
        normalization: How transcripts are normalised.
        min_duration: Training skips shorter utterances, in seconds.
        max_duration: Training skips longer utterances, in seconds.
        downsampling: Mel frames per encoder frame; by default the checkpoint's, or 8.
        subframes: CTC outputs per encoder frame; by default the checkpoint's, or 4.
    """

    units: str = "characters"
    characters: str = ENGLISH
    normalization: TextNormalization = TextNormalization()  # noqa: RUF009  immutable
    min_duration: float = 0.1
    max_duration: float = 20.0
    downsampling: int | None = None
    subframes: int | None = None

    def rules(self) -> SpeechRules:
        """The rules that speech is checked against.

        Raises:
            UserError: If a value is out of range or the units cannot be read.
        """
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(
                f"--min_duration ({self.min_duration:g} s) must be less than --max_duration ({self.max_duration:g} s)"
            )
        for name, value in {"downsampling": self.downsampling, "subframes": self.subframes}.items():
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}: it must be 1 or more")
        encoder = _ENCODER
        if self.units.endswith(".ckpt") or Path(self.units).is_dir():
            checkpoint = Checkpoint(self.units)
            units = checkpoint.ctc_vocabulary
            encoder = encoder | checkpoint.content["parts"].get("audio_encoder", {}).get("init_args", {})
        else:
            units = open_ctc_vocabulary(self.units, characters=self.characters, normalization=self.normalization)
        return SpeechRules(
            units,
            self.downsampling or encoder["downsampling"],
            self.subframes or encoder["subframes"],
            self.min_duration,
            self.max_duration,
        )


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How data is read.

    Args:
        text_column: Column of the text in manifests, .parquet and on the Hub.
        document_separator: Regular expression between the documents of a .txt file; by default a file is one document.
        root: Folder of torchvision's data sets.
        image_folder: Folder of a manifest's images; by default the manifest's, or `Images` in it.
        cache_dir: Folder for downloads from the Hub.
    """

    text_column: str = "text"
    document_separator: str | None = None
    root: str = "data/images"
    image_folder: str | None = None
    cache_dir: str = "data/cache"

    def open(self, kind: str, entries: list[str], split: str) -> Sequence[Any]:
        """The sources of a split's entries of one kind."""
        cache_dir, column = Path(self.cache_dir).expanduser(), {"text_column": self.text_column}
        if kind == "images":
            folder = None if self.image_folder is None else Path(self.image_folder).expanduser()
            location = Location(Path(self.root).expanduser(), folder, cache_dir=cache_dir)
            return [open_images(entry, _SPLITS[split], location) for entry in entries]
        hub: dict[str, Any] = {"cache_dir": cache_dir, "split": _SPLITS[split]}
        if kind == "speech":
            return [
                open_recordings(Path(entry), **column)
                if Path(entry).expanduser().is_dir() and not is_speech_folder(Path(entry).expanduser())
                else open_utterances([entry], **column, **hub)[0]
                for entry in entries
            ]
        if kind == "text":
            return open_corpus(entries, document_separator=self.document_separator, **column, **hub)
        return open_conversations(entries, **hub)


def check(
    manifests: list[str],
    *,
    val: list[str] | str | None = None,
    test: list[str] | str | None = None,
    kind: Literal["auto", "speech", "text", "images", "conversations"] = "auto",
    speech: SpeechOptions = SpeechOptions(),
    sources: SourceOptions = SourceOptions(),
    json: Path | None = None,
) -> None:
    """Check data before training: reads all of it and reports problems; exits with 1 if something would hurt training.

    Speech: unreadable, truncated, silent or clipped audio; steady music and noise; sample rates, channels, durations;
    characters outside the vocabulary; transcripts too long for CTC; speakers in two splits; but not transcripts of
    other recordings, which `omni adapt voice` finds. Text: unreadable or empty documents, lost characters. Images:
    unreadable, truncated, tiny or huge images; rows without caption or label; empty classes. Conversations: invalid
    rows, missing media or answers, silence. All: duplicates, and the same item in two splits; copies of audio are
    recognised by their samples, copies of images by their pixels.

    Example:
        omni data check data/an4/train.jsonl --val data/an4/val.jsonl

    Args:
        manifests: Speech: manifests (.jsonl, .csv, .tsv), folders (LibriSpeech, LJSpeech, Common Voice, Kaldi, ESPnet,
            or audio files, each with a .txt of the same name), tar files. Text: .txt, .jsonl, .parquet,
            patterns, folders. Images: folders of class folders, manifests (.jsonl, .csv, captions.txt, COCO's .json),
            torchvision:NAME. Conversations: .jsonl. All: hub:OWNER/NAME[:CONFIG[:SPLIT]].
        val: The validation data, which is compared with them.
        test: The test data, too.
        kind: Kind of the data. `auto`: by the columns of a manifest's first row, the content of a folder and the
            suffix; data sets of the Hub are speech, torchvision's are images.
        speech: How speech would be trained on.
        sources: How data is read.
        json: Write all findings to this file.

    Raises:
        UserError: If an input does not exist or an argument is out of range.
        SystemExit: With code 1, if something would hurt training.
    """
    if not manifests:
        raise UserError("name what to check: manifests, files of text, folders or hub:OWNER/NAME")
    report = Report(SPEECH_KINDS | TEXT_KINDS | IMAGE_KINDS | CONVERSATION_KINDS)
    checks = {
        "speech": lambda: SpeechCheck(speech.rules(), report),
        "text": lambda: TextCheck(report),
        "images": lambda: ImageCheck(report),
        "conversations": lambda: ConversationCheck(report, ByteTokenizer()),
    }
    given = {"data": manifests, "val": val, "test": test}
    splits = {split: [entries] if isinstance(entries, str) else entries or [] for split, entries in given.items()}
    kinds = {entry: _kind_of(entry) if kind == "auto" else kind for entries in splits.values() for entry in entries}
    named: set[str] = set()
    for each in [each for each in checks if each in kinds.values()]:
        checker: Any = checks[each]()
        for split, entries in splits.items():
            if some := [entry for entry in entries if kinds[entry] == each]:
                checker.split(f"{split} ({each})" if split in named else split, sources.open(each, some, split))
                named.add(split)
    if not report.rows and not report.findings:
        raise UserError(f"{', '.join(manifests)}: no rows, nothing to check")
    if json is not None:
        report.write(json)
    print("\n".join(report.lines()))
    if report.counts["error"]:
        raise SystemExit(1)


def _kind_of(entry: str) -> str:
    """The kind of an entry with `kind: auto`; missing files are reported by their readers."""
    if entry.startswith("torchvision:"):
        return "images"
    if entry.startswith("hub:"):
        return "speech"
    path = Path(entry.partition("@")[0] if not Path(entry).expanduser().exists() else entry).expanduser()
    if path.is_dir():
        if is_speech_folder(path):
            return "speech"
        return "images" if _holds_images(path) else "speech" if holds_audio(path) else "text"
    if path.suffix == ".tar":
        return "speech"
    if path.suffix == ".json":
        return "conversations" if _is_list(path) else "images"
    if path.suffix in MANIFEST_SUFFIXES and path.is_file() and not _has_content(path):
        raise UserError(f"{entry}: no rows: the file is empty")
    columns = _first_columns(path) if path.suffix in (*MANIFEST_SUFFIXES, ".txt") and path.is_file() else set()
    if path.suffix == ".jsonl" and holds_conversations(columns):
        return "conversations"
    if "image" in columns:
        return "images"
    return "speech" if columns & set(AUDIO_KEYS) or path.suffix in (".csv", ".tsv") else "text"


def _is_list(path: Path) -> bool:
    """Whether a JSON file holds a list: COCO's captions are an object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2**10).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _has_content(path: Path) -> bool:
    with path.open("rb") as file:
        return any(line.strip(b"\xef\xbb\xbf \t\r\n") for line in file)


def _holds_images(folder: Path) -> bool:
    """Whether a folder has images in subfolders; or in itself, and no text."""
    children = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(path.suffix.lower() in SUFFIXES for child in children if child.is_dir() for path in child.rglob("*")):
        return True
    suffixes = {path.suffix.lower() for path in children}
    return bool(suffixes & SUFFIXES) and not suffixes & {".txt", ".jsonl", ".parquet"}


def _first_columns(path: Path) -> set[str]:
    """Column names: the keys of the first readable JSON row, or the fields of the first line."""
    with path.open("rb") as file:
        if path.suffix != ".jsonl":
            header = file.readline(2**16).decode("utf-8-sig", "replace").strip()
            return {name.strip('"') for name in header.split(table_delimiter(header))}
        for line in file:
            try:
                row = loads(line)
            except (ValueError, RecursionError):  # reported when the rows are read
                continue
            if isinstance(row, Mapping):
                return set(row)
    return set()
