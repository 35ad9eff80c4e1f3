"""Looks for what would hurt training, before training."""

from collections.abc import Mapping, Sequence
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
from omni.data.conversations.sources import MESSAGES
from omni.data.images.entries import open_images
from omni.data.images.sources import SUFFIXES, Location
from omni.data.speech.manifests import AUDIO_KEYS, open_utterances
from omni.data.text.corpus import open_corpus
from omni.errors import UserError
from omni.text.ctc_vocabulary import ENGLISH, CTCVocabulary, open_ctc_vocabulary
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import ByteTokenizer

_DOWNSAMPLING, _SUBFRAMES = 8, 4  # the encoder's defaults: 50 sub-frames a second
_HUB_SPLITS = {"data": "train", "val": "validation", "test": "test"}  # where hub:OWNER/NAME names none

_IMAGE_SPLITS = {"data": "train", "val": "val", "test": "test"}


def check(
    manifests: list[str],
    *,
    val: list[str] | str | None = None,
    test: list[str] | str | None = None,
    kind: Literal["auto", "speech", "text", "images", "conversations"] = "auto",
    units: str = "characters",
    characters: str = ENGLISH,
    normalization: TextNormalization = TextNormalization(),  # noqa: B008  immutable
    min_duration: float = 0.1,
    max_duration: float = 20.0,
    downsampling: int | None = None,
    subframes: int | None = None,
    text_column: str = "text",
    document_separator: str | None = None,
    root: str = "data/images",
    image_folder: str | None = None,
    cache_dir: str = "data/cache",
    json: Path | None = None,
) -> None:
    """Check data before training: read all of it and tell what is wrong with it.

    Speech: audio that is missing, unreadable, cut off, empty, silent or clipped; sample rates, channels and durations;
    characters outside the vocabulary; texts that CTC cannot emit in time; duplicates; the same audio in two splits,
    and voices in two splits. Text: documents that cannot be read, are empty, twice there, or in two splits, and lost
    characters. Images: files that are missing, unreadable, cut off, tiny, of extreme shape, or too large to be read;
    rows without caption or label; empty classes, and classes that differ between splits; duplicates, and the same
    image in two splits. Conversations: rows that are none, media that are missing or cannot be read, silence, answers
    that are missing, duplicates, and conversations or media in two splits. The exit code is 1 when something would hurt
    training. Copies of audio are known by their samples, those of images by their pixels.

    Args:
        manifests: Speech: manifests (.jsonl, .csv), folders of LibriSpeech or LJSpeech. Text: .txt, .jsonl, .parquet,
            patterns, folders. Images: what `data.train` may be: folders of class folders, manifests (.jsonl, .csv,
            captions.txt, COCO's .json), torchvision:NAME. Conversations: .jsonl. All: hub:OWNER/NAME[:CONFIG[:SPLIT]].
        val: The same for validation, to be compared with them.
        test: The same for testing.
        kind: `speech`, `text`, `images`, `conversations`, or `auto`: a .jsonl with `messages` in its first row holds
            conversations; a .jsonl whose first row has `audio` or `wav`, a .csv, a folder with transcripts and a data
            set of the Hub are speech; torchvision:NAME, a .json, a .jsonl, .csv or captions.txt with `image` in its
            first row, and a folder of folders with images are images; all else is text.
        units: What is written: `characters`, a SentencePiece .model file, or the .ckpt file of a recogniser.
        characters: Of `characters`.
        normalization: How text is written before it is learned.
        min_duration: Training leaves shorter utterances out, in seconds.
        max_duration: Training leaves longer ones out.
        downsampling: Mel frames for each frame of the encoder; by default the checkpoint's, or 8.
        subframes: What the CTC head writes for each frame; by default the checkpoint's, or 4.
        text_column: Where the text is in manifests, .parquet and on the Hub.
        document_separator: Regular expression between the documents of a .txt file; by default a file is one.
        root: Folder of torchvision's data sets.
        image_folder: Folder of a manifest's images; by default beside it, or in `Images` beside it.
        cache_dir: Where downloads from the Hub are kept.
        json: File to write all findings to.

    Raises:
        UserError: If something named does not exist, or an argument is out of range.
        SystemExit: With code 1, if something would hurt training.
    """
    if not manifests:
        raise UserError("name what to check: manifests, files of text, folders or hub:OWNER/NAME")
    given = {"data": manifests, "val": val, "test": test}
    splits = {name: [entries] if isinstance(entries, str) else entries for name, entries in given.items() if entries}
    kinds = ("speech", "text", "images", "conversations")
    speech, text, images, talks = ({name: _of_kind(splits[name], kind, one) for name in splits} for one in kinds)
    report = Report(SPEECH_KINDS | TEXT_KINDS | IMAGE_KINDS | CONVERSATION_KINDS)
    options: dict[str, Any] = {"text_column": text_column, "cache_dir": Path(cache_dir).expanduser()}
    if any(speech.values()):
        coding = _coding(units, characters, normalization, downsampling, subframes)
        listener = SpeechCheck(SpeechRules(*coding, *_bounds(min_duration, max_duration)), report)
        for name, entries in speech.items():
            if entries:
                listener.split(name, open_utterances(entries, hub_split=_HUB_SPLITS[name], **options))
    reader = TextCheck(report)
    for name, entries in text.items():
        if entries:
            sources = open_corpus(
                entries, hub_split=_HUB_SPLITS[name], document_separator=document_separator, **options
            )
            reader.split(f"{name} (text)" if speech[name] else name, sources)
    folder = None if image_folder is None else Path(image_folder).expanduser()
    location = Location(Path(root).expanduser(), folder, cache_dir=Path(cache_dir).expanduser())
    viewer = ImageCheck(report)
    for name, entries in images.items():
        if entries:
            opened = [open_images(entry, _IMAGE_SPLITS[name], location) for entry in entries]
            viewer.split(f"{name} (images)" if speech[name] or text[name] else name, opened)
    partner = ConversationCheck(report, ByteTokenizer())
    for name, entries in talks.items():
        if entries:
            other = speech[name] or text[name] or images[name]
            opened = open_conversations(entries, cache_dir=options["cache_dir"], hub_split=_HUB_SPLITS[name])
            partner.split(f"{name} (conversations)" if other else name, opened)
    if json is not None:
        report.write(Path(json))
    print("\n".join(report.lines()))
    if report.counts["error"]:
        raise SystemExit(1)


def _of_kind(entries: Sequence[str], kind: str, wanted: str) -> list[str]:
    return [entry for entry in entries if (_kind_of(entry) if kind == "auto" else kind) == wanted]


def _kind_of(entry: str) -> str:
    """The kind that `kind: auto` tells; what is not there is left to those who read it."""
    if entry.startswith("torchvision:"):
        return "images"
    if entry.startswith("hub:"):
        return "speech"
    path = Path(entry.partition("@")[0] if not Path(entry).expanduser().exists() else entry).expanduser()
    if path.is_dir():
        if (path / "metadata.csv").is_file() or next(path.rglob("*.trans.txt"), None):
            return "speech"
        return "images" if _holds_images(path) else "text"
    if path.suffix == ".json":
        return "images"
    columns = _first_columns(path) if path.suffix in (".jsonl", ".csv", ".txt") and path.is_file() else set()
    if MESSAGES in columns:
        return "conversations"
    if "image" in columns:
        return "images"
    return "speech" if columns & set(AUDIO_KEYS) or path.suffix == ".csv" else "text"


def _holds_images(folder: Path) -> bool:
    """Whether there are images in a folder's folders; or in itself, where no text is: its reader tells more."""
    children = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(path.suffix.lower() in SUFFIXES for child in children if child.is_dir() for path in child.rglob("*")):
        return True
    suffixes = {path.suffix.lower() for path in children}
    return bool(suffixes & SUFFIXES) and not suffixes & {".txt", ".jsonl", ".parquet"}


def _first_columns(path: Path) -> set[str]:
    """Names of the columns: the keys of the first row that can be read, or the words of the first line."""
    with path.open("rb") as file:
        if path.suffix != ".jsonl":
            return set(file.readline(2**16).decode("utf-8-sig", "replace").strip().split(","))
        for line in file:
            try:
                row = loads(line)
            except ValueError:  # told when the rows are read
                continue
            if isinstance(row, Mapping):
                return set(row)
    return set()


def _coding(
    spec: str, characters: str, normalization: TextNormalization, downsampling: int | None, subframes: int | None
) -> tuple[CTCVocabulary, int, int]:
    """What is written, and how often: units, mel frames for each frame, sub-frames for each frame."""
    encoder = {"downsampling": _DOWNSAMPLING, "subframes": _SUBFRAMES}
    if spec.endswith(".ckpt") or Path(spec).is_dir():
        checkpoint = Checkpoint(spec)
        units = checkpoint.ctc_vocabulary
        encoder |= checkpoint.content["parts"].get("audio_encoder", {}).get("init_args", {})
    else:
        units = open_ctc_vocabulary(spec, characters=characters, normalization=normalization)
    for name, value in {"downsampling": downsampling, "subframes": subframes}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: it must be 1 or more")
    return units, downsampling or encoder["downsampling"], subframes or encoder["subframes"]


def _bounds(min_duration: float, max_duration: float) -> tuple[float, float]:
    if not 0 <= min_duration < max_duration:
        raise UserError(f"--min_duration ({min_duration:g} s) must be less than --max_duration ({max_duration:g} s)")
    return min_duration, max_duration
