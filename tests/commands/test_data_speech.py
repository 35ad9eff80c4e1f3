"""`omni data speech`: sentences, spelled words and numbers in many voices."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from omni.cli import main
from omni.commands.data_speech import sentences
from omni.synthetic import recordings
from omni.synthetic.readings import Readings, spoken_form
from omni.text.normalization import TextNormalization

SUBJECTS = ("A ship", "The captain", "My sister", "An old friend", "Every child", "No one here")
REST = ("left in 1912.", "saw the red house!", "wrote 3 letters today.", "is very quiet, isn't she?", "came home late.")


@pytest.fixture
def texts(workplace: Path) -> list[str]:
    Path("story.txt").write_text(" ".join(f"{one} {other}" for one in SUBJECTS for other in REST), encoding="utf-8")
    Path("spelled.jsonl").write_text('{"text": "RUBOUT A B A Q"}\n{"text": "CALL ME"}\n', encoding="utf-8")
    return ["story.txt", "spelled.jsonl"]


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def sums(folder: str) -> dict[str, str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_corpus_has_other_voices_and_sentences_in_validation(texts, capfd, monkeypatch):
    arguments = ["--utterances", "12", "--val_utterances", "4", "--spelled", "0.3", "--numbers", "0.3"]
    main(["data", "speech", *texts, "--out", "a", *arguments])
    assert "12 and 4 utterances" in capfd.readouterr().out
    train, val = rows("a/train.jsonl"), rows("a/val.jsonl")
    assert (len(train), len(val)) == (12, 4)
    assert not {row["speaker"] for row in train} & {row["speaker"] for row in val}
    assert not {row["text"] for row in train} & {row["text"] for row in val if len(row["text"]) > 20}
    normal = TextNormalization(case="keep", punctuation="keep", digits="keep")
    for row in train:
        assert normal(row["text"]) == row["text"]
        assert not any(map(str.isdigit, row["text"]))
        info = soundfile.info(Path("a", row["audio"]))
        assert (info.samplerate, round(info.duration, 4)) == (16_000, row["duration"])
    (Path("a") / train[3]["audio"]).unlink()
    before = sums("a")
    spoken, wav = [], recordings.wav
    monkeypatch.setattr(recordings, "wav", lambda utterance: spoken.append(utterance.id) or wav(utterance))
    main(["data", "speech", *texts, "--out", "a", *arguments])
    assert spoken == [train[3]["id"]]  # the others are kept
    main(["data", "speech", *texts, "--out", "b", *arguments])
    assert sums("a") == sums("b")
    assert before.items() < sums("a").items()
    main(["data", "speech", *texts, "--out", "b", *arguments, "--seed", "1"])
    assert not {row["text"] + row["speaker"] for row in rows("b/train.jsonl")} & {
        r["text"] + r["speaker"] for r in train
    }


def test_one_voice_reads_all(texts, capfd):
    main(["data", "speech", *texts, "--utterances", "6", "--val_utterances", "2", "--voice", "en-us+f2"])
    assert "all by en-us+f2" in capfd.readouterr().out
    train, val = rows("data/spoken/train.jsonl"), rows("data/spoken/val.jsonl")
    assert {row["speaker"] for row in (*train, *val)} == {"en-us+f2"}
    assert not {row["text"] for row in train} & {row["text"] for row in val}
    with pytest.raises(SystemExit):
        main(["data", "speech", *texts, "--utterances", "6", "--val_utterances", "2", "--voice", "en-us+nobody"])
    assert rows("data/spoken/train.jsonl") == train  # nothing is replaced by a voice that does not exist
    assert all(Path("data/spoken", row["audio"]).is_file() for row in train)


def test_a_length_in_hours_is_about_kept(texts):
    main(["data", "speech", *texts, "--out", "a", "--hours", "0.03", "--val_utterances", "0"])
    assert sum(row["duration"] for row in rows("a/train.jsonl")) == pytest.approx(108, rel=0.2)
    assert not Path("a/val.jsonl").exists()


def test_sentences_are_found_in_paragraphs_and_transcripts(workplace):
    Path("wiki.txt").write_text(
        " = Title = \n The ship , built in 1912 , wasn 't lost . It sank ; <unk> saw it . Café is left out .\n"
        "I WENT HOME\nA word.\n12 34\n",
        encoding="utf-8",
    )
    spell = TextNormalization(case="keep", punctuation="keep")
    found = [*sentences(["wiki.txt"], spell, longest=200)]
    assert found[0].startswith("The ship, built in one thousand")
    assert [" ".join(text.split()) for text in found[1:3]] == ["i went home", "A word."]
    assert not [text for text in found if "unk" in text or "Title" in text or "Caf" in text]
    short = [*sentences(["wiki.txt"], TextNormalization("keep", "keep", "keep"), longest=16)]
    assert short[:2] == ["The ship,", "built in 1912,"]
    assert max(map(len, short)) <= 16


def test_letters_are_named_and_an_article_stays_one():
    assert spoken_form("enter a b c a now", pauses=False) == "enter a, b c a now"
    assert spoken_form("q a b", pauses=True) == "q, a, b"
    assert spoken_form("a dog and i", pauses=True) is None


def test_every_sentence_is_read_before_one_is_repeated():
    texts = [f"sentence {number}" for number in range(10)]
    readings = Readings({"train": texts, "val": texts}, "en", 0.0, 0.0, str)
    spoken = readings.utterances("train", 20)
    assert sorted(one.text for one in spoken[:10]) == sorted(one.text for one in spoken[10:]) == texts
    assert readings.utterances("train", 5) == spoken[:5]
    assert len({one.speaker for one in spoken}) > 12
    numbers = Readings({"train": texts, "val": texts}, "en", 0.0, 1.0, TextNormalization()).utterances("train", 40)
    assert all(one.text and not any(map(str.isdigit, one.text)) for one in numbers)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hours", "1"], "not both"),
        (["--val_utterances", "-1"], "--val_utterances is -1"),
        (["--utterances", "0"], "--utterances is 0"),
        (["--spelled", "0.8", "--numbers", "0.3"], "0 to 1 together"),
        (["--language", "xx"], "has no such language"),
        (["--voice", "xx"], "eSpeak NG has no voice 'xx'"),
        (["--voice", "en-us+nobody"], "eSpeak NG has no voice variant 'nobody'"),
        (["--longest", "0"], "--longest is 0"),
        (["--out", "corpus.txt"], "corpus.txt"),
        (["--text_column", "words"], "has no text in `words`"),
        (["--out", "world"], "written by another command"),
    ],
)
def test_what_cannot_be_spoken_is_refused(texts, fails, arguments, words):
    Path("world").mkdir()
    Path("world/origin.json").write_text('{"generator": 5}')
    assert words in fails(main, ["data", "speech", *texts, "--val_utterances", "1", "--utterances", "1", *arguments])
    assert "--hours is 0" in fails(main, ["data", "speech", *texts, "--hours", "0"])
