"""Replicas of public data sets: a few rows in the schemas that they have on the Hub, and a Hub that serves them."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import yaml
from datasets import Audio, ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pictures

STRING, INTEGER = Value("string"), Value("int64")
WORDS = ("the cat sat on a mat", "a dog ran home", "birds sing at dawn", "we walk to the sea")


def png(seed: int, size: int = 32) -> dict[str, Any]:
    """A cell of a column of images."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Pictures.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{seed}.png"}


def sound(seed: int, rate: int, seconds: float = 1.5) -> dict[str, Any]:
    """A cell of a column of audio."""
    rng = np.random.default_rng(seed)
    tone = 0.3 * np.sin(np.arange(int(rate * seconds)) * rng.uniform(0.05, 0.2)) + 0.01 * rng.standard_normal(
        int(rate * seconds)
    )
    file = io.BytesIO()
    soundfile.write(file, tone.astype(np.float32), rate, format="FLAC")
    return {"bytes": file.getvalue(), "path": f"{seed}.flac"}


def _words(number: int) -> str:
    return WORDS[number % len(WORDS)]


def _story(number: int) -> dict[str, Any]:
    return {"text": f"Once upon a time {_words(number)}. " * 12 + str(number)}


def _line(number: int) -> dict[str, Any]:
    return {"text": "" if number % 3 == 0 else f" = {_words(number)} {number} = \n" * 20}


def _page(number: int) -> dict[str, Any]:
    named = {"id": f"<urn:{number}>", "dump": "CC-MAIN", "url": "u", "file_path": "f", "language": "en"}
    return {**_story(number), **named, "language_score": 0.9, "token_count": 90, "score": 3.5, "int_score": 4}


def _read(number: int) -> dict[str, Any]:
    speaker = 19 + number % 3
    named = {"file": f"{number}.flac", "audio": sound(number, 16_000), "text": _words(number).upper()}
    return {**named, "speaker_id": speaker, "chapter_id": 198, "id": f"{speaker}-198-{number:04}"}


def _voice(number: int) -> dict[str, Any]:
    named = {"id": f"LJ001-{number:04}", "audio": sound(number, 22_050), "file": f"{number}.wav"}
    return {**named, "text": f"{_words(number)} {number}", "normalized_text": _words(number)}


def _captioned(number: int) -> dict[str, Any]:
    return {"image": png(number), **{f"caption_{each}": f"{_words(number)} {each} ." for each in range(5)}}


def _questions(images: int) -> Callable[[int], dict[str, Any]]:
    def row(number: int) -> dict[str, Any]:
        texts = [
            {"user": f"Question {each}: what is it?", "assistant": "Yes.", "source": "toy"}
            for each in range(1 + number % 2)
        ]
        return {"images": [png(number + each) for each in range(images)], "texts": texts}

    return row


def _llava(number: int) -> dict[str, Any]:
    def text(value: str) -> dict[str, Any]:
        return {"index": None, "text": value, "type": "text"}

    asked = [{"index": 0, "text": None, "type": "image"}, text("What is this?")]
    messages = [{"content": asked, "role": "user"}, {"content": [text("A picture.")], "role": "assistant"}]
    return {"messages": messages, "images": [png(number)]}


def _asked(number: int) -> dict[str, Any]:
    named = {"split_name": "identity", "index": str(number), "round": "1", "question": "Who are you?"}
    snac = "# 1 2 3 #"
    return {**named, "question_audio": sound(number, 22_050), "answer": "I am a voice.", "answer_snac": snac}


def _chat(number: int) -> dict[str, Any]:
    pairs = (("user", "Hello."), ("assistant", "Hello to you."))
    return {"messages": [{"content": text, "role": role} for role, text in pairs], "source": "toy"}


def _alpaca(number: int) -> dict[str, Any]:
    asked = {"instruction": "Add.", "input": "1 and 1" if number % 2 else "", "output": "2"}
    return {**asked, "text": f"Below is an instruction {number}"}


_TEXT = Features({"text": STRING})
_PAGE = Features(
    {
        **dict.fromkeys(("text", "id", "dump", "url", "file_path", "language"), STRING),
        **{name: Value("float64") for name in ("language_score", "score")},
        **dict.fromkeys(("token_count", "int_score"), INTEGER),
    }
)
_READ = Features(
    {"file": STRING, "audio": Audio(16_000), "text": STRING, "speaker_id": INTEGER, "chapter_id": INTEGER, "id": STRING}
)
_VOICE = Features({"id": STRING, "audio": Audio(22_050), "file": STRING, "text": STRING, "normalized_text": STRING})
_CLASSES = ClassLabel(names=["airplane", "automobile", "bird"])
_CAULDRON = Features({"images": List(Image()), "texts": [dict.fromkeys(("user", "assistant", "source"), STRING)]})
_LLAVA = Features(
    {
        "messages": [{"content": [{"index": INTEGER, "text": STRING, "type": STRING}], "role": STRING}],
        "images": List(Image()),
    }
)
_ASKED = Features(
    {
        **dict.fromkeys(("split_name", "index", "round", "question"), STRING),
        "question_audio": Audio(22_050),
        **dict.fromkeys(("answer", "answer_snac"), STRING),
    }
)
_CHAT = Features({"messages": [{"content": STRING, "role": STRING}], "source": STRING})

# repository -> configuration, splits, features, row by number
REPLICAS: dict[tuple[str, str], tuple[Sequence[str], Features, Callable[[int], dict[str, Any]]]] = {
    ("roneneldan/TinyStories", "default"): (("train", "validation"), _TEXT, _story),
    ("Salesforce/wikitext", "wikitext-103-raw-v1"): (("test", "train", "validation"), _TEXT, _line),
    ("HuggingFaceFW/fineweb-edu", "sample-10BT"): (("train",), _PAGE, _page),
    ("openslr/librispeech_asr", "clean"): (("test", "train.100", "train.360", "validation"), _READ, _read),
    ("MikhailT/lj-speech", "default"): (("full",), _VOICE, _voice),
    ("uoft-cs/cifar10", "plain_text"): (
        ("train", "test"),
        Features({"img": Image(), "label": _CLASSES}),
        lambda number: {"img": png(number), "label": number % 3},
    ),
    ("zh-plus/tiny-imagenet", "default"): (
        ("train", "valid"),
        Features({"image": Image(), "label": _CLASSES}),
        lambda number: {"image": png(number, 64), "label": number % 3},
    ),
    ("jxie/flickr8k", "default"): (
        ("train", "validation", "test"),
        Features({"image": Image(), **{f"caption_{each}": STRING for each in range(5)}}),
        _captioned,
    ),
    **{
        ("HuggingFaceM4/the_cauldron", name): (("train",), _CAULDRON, _questions(images))
        for name, images in (("cocoqa", 1), ("clevr", 1), ("visual7w", 1), ("nlvr2", 2))
    },
    ("HuggingFaceH4/llava-instruct-mix-vsft", "default"): (("train", "test"), _LLAVA, _llava),
    ("gpt-omni/VoiceAssistant-400K", "default"): (("train",), _ASKED, _asked),
    ("HuggingFaceTB/smol-smoltalk", "default"): (("train", "test"), _CHAT, _chat),
    ("tatsu-lab/alpaca", "default"): (
        ("train",),
        Features(dict.fromkeys(("instruction", "input", "output", "text"), STRING)),
        _alpaca,
    ),
}


def write_replicas(folder: Path, rows: int = 12, parts: int = 2) -> Path:
    """The repositories of all replicas, with files in `CONFIG/SPLIT-PART.parquet` and a card that lists them."""
    datasets.disable_progress_bars()
    configs: dict[str, list[dict[str, Any]]] = {}
    for (repository, config), (splits, features, row) in REPLICAS.items():
        home = folder / repository
        (home / config).mkdir(parents=True)
        size = rows // parts
        for split in splits:
            for part in range(parts):
                # Audio as bytes: `Audio` would encode it with torchcodec.
                cells = [row(part * size + each) for each in range(size)]
                table = Dataset.from_list(cells, features=stored(features)).cast(features)
                table.to_parquet(home / config / f"{split}-{part:05}.parquet")
        listed = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        configs.setdefault(repository, []).append({"config_name": config, "data_files": listed})
    for repository, listed in configs.items():
        (folder / repository / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n")
    return folder


def stored(features: Features) -> Features:
    """The types in which cells are written: audio as bytes."""

    def one(feature: Any) -> Any:
        if isinstance(feature, Audio):
            return {"bytes": Value("binary"), "path": STRING}
        return List(one(feature.feature)) if isinstance(feature, List) else feature

    return Features({name: one(feature) for name, feature in features.items()})


class FakeHub:
    """Answers `datasets.load_dataset_builder` from folders; `error` is raised instead if it is set.

    Attributes:
        revisions: Those asked for, by repository.
        commits: The newest ones, by repository, where the Hub's are imitated.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.revisions, self.commits, self.error = folder, {}, {}, None
        self._load = datasets.load_dataset_builder
        monkeypatch.setattr(datasets, "load_dataset_builder", self.load)

    def load(self, repository: str, config: str | None, *, revision: str | None = None, **options: Any) -> Any:
        """See `datasets.load_dataset_builder`."""
        if self.error is not None:
            raise self.error
        self.revisions[repository] = revision
        if not (self.folder / repository).is_dir():
            raise datasets.exceptions.DatasetNotFoundError(
                f"Dataset '{repository}' doesn't exist on the Hub or cannot be accessed."
            )
        builder = self._load(str(self.folder / repository), config, **options)
        builder.hash = self.commits.get(repository, builder.hash)
        return builder
