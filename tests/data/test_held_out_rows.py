"""The rows that an export is compared on are those that the run held out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from omni.data.images.data import ImageData
from omni.data.images.held_out import held_out_images, images_of
from omni.data.loading.run_data import local_entries, run_data
from omni.data.speech.data import SpeechData
from omni.data.speech.held_out import held_out_utterances, utterances_of
from omni.data.text.data import TextData
from omni.data.text.held_out import held_out_texts
from omni.errors import UserError


def config(kind: str, **options: object) -> dict:
    return {"data": {"class_path": f"omni.data.any.{kind}", "init_args": options}}


@pytest.mark.parametrize("speakers", [None, ["train2"]])
def test_speech_without_validation_data_is_of_the_held_out_speakers(speech: Path, speakers):
    options = {"train": ["speech/train.jsonl"], "val_speakers": speakers, "val_fraction": 0.2}
    data = SpeechData(**options, characters=" abc", num_mels=80)
    data.setup()
    wanted = [row.utterance.text for row in data.datasets["val"].rows]
    found, source = held_out_utterances(config("SpeechData", **options), 100)
    assert [text for _, text in found] == wanted
    assert source == "held-out speakers of speech/train.jsonl"
    assert all(audio.dtype == torch.float32 and audio.ndim == 1 for audio, _ in found)


def test_speech_with_validation_data_is_its_start(speech: Path):
    found, source = held_out_utterances(config("SpeechData", train="speech/train.jsonl", val="speech/val.jsonl"), 3)
    assert source == "speech/val.jsonl"
    pairs = zip(found, utterances_of(["speech/val.jsonl"], 3), strict=True)
    assert all(one[1] == other[1] and torch.equal(one[0], other[0]) for one, other in pairs)
    manifest = Path("speech/val.jsonl")
    good = manifest.read_text(encoding="utf-8")
    manifest.write_text('{"audio": "missing.wav", "text": "a"}\nno JSON\n' + good, encoding="utf-8")
    again, _ = held_out_utterances(config("SpeechData", train="speech/train.jsonl", val="speech/val.jsonl"), 3)
    assert [text for _, text in again] == [text for _, text in found]  # as training, which leaves them out
    with pytest.raises(UserError):
        utterances_of(["speech/val.jsonl"], 3)


def test_images_without_validation_data_are_those_of_the_run(pictures: Path):
    data = ImageData("pictures/train", image_size=16, val_fraction=0.3)
    data.setup()
    wanted = [row.labels for row in data.datasets["val"].rows]
    found, source = held_out_images(config("ImageData", train="pictures/train", val_fraction=0.3), 100)
    assert [labels for _, labels in found] == wanted
    assert source == "held-out images of pictures/train"
    assert held_out_images(config("ImageData", train="pictures/train", val="pictures/val"), 5)[1] == "pictures/val"
    assert len(images_of("pictures/val", 5)) == 5


@pytest.mark.parametrize("split", ["tail", "documents"])
def test_texts_are_those_of_a_run_that_leaves_bad_lines_out(workplace: Path, split):
    lines = [f"sentence number {number}" for number in range(40)]
    content = "\n".join(lines).encode()
    Path("bad.txt").write_bytes(content.replace(b"number 1\n", b"\xe9\n" * 9).replace(b"number 38\n", b"\0\n" * 9))
    options: dict[str, Any] = {"train": "bad.txt", "val_fraction": 0.2, "val_split": split}
    options |= {"document_separator": "\n" if split == "documents" else None, "bad_rows": "skip"}
    data = TextData(**options, tokenizer="bytes", context=8, batch_size=1)
    with pytest.warns(UserWarning, match="18 rows are left out"):
        data.setup()
    wanted = [line for source in data.plan().sources["val"] for text in source.read() for line in text.splitlines()]
    assert 3 < len(wanted) < 20
    assert held_out_texts(config("TextData", **options, text_column="text"), 100) == (wanted, "bad.txt")


@pytest.mark.parametrize("held_out", [held_out_utterances, held_out_images])
def test_why_there_are_none(workplace: Path, held_out):
    kind = "SpeechData" if held_out is held_out_utterances else "ImageData"
    assert held_out(None, 9) == ([], "the run names no data")
    assert held_out(config("OtherData", train="a"), 9) == ([], "the run's data is OtherData")
    assert held_out(config(kind, train="gone.jsonl"), 9) == ([], "the run's data is not here")
    assert held_out(config(kind, train="corpus.txt", val="hub:a/b"), 9) == ([], "the run's data is not here")


def test_local_entries_of_a_configuration(workplace: Path):
    assert local_entries(["corpus.txt", "corpus.txt@list", "hub:a/b", "gone", {"a": 1}]) == [
        "corpus.txt",
        "corpus.txt@list",
    ]
    assert local_entries(None) == local_entries("gone") == []
    assert run_data({"data": None}).kind == ""


def test_files_that_are_missing(workplace: Path):
    for read in (lambda: utterances_of(["none.jsonl"], 1), lambda: images_of("none.jsonl", 1)):
        with pytest.raises(UserError, match="does not exist"):
            read()
