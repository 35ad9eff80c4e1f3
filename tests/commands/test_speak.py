"""The verb `speak`: files, folders and raw samples; errors end in one line."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_speech import save
from toy_voice import UNITS, ToyVocoder, save_talker

from omni.cli import main
from omni.inference.synthesizer import load_synthesizer
from omni.media.audio import read_audio

TALKER = "talker.ckpt"


@pytest.fixture
def talker(workplace) -> Path:
    """A folder with a Talker of three voices, and a vocoder."""
    save_talker(workplace / TALKER, num_speakers=3)
    save(workplace / "vocoder.ckpt", "vocoder", ToyVocoder(), UNITS)
    return workplace


def say(*arguments: str) -> None:
    main(["speak", *arguments, "--checkpoint", TALKER])


def test_a_text_becomes_a_file(talker, capsys):
    say("Abc da. Bad!", "--out", "new/folder/x.wav", "--speaker", "1", "--seed", "5")
    audio = read_audio(Path("new/folder/x.wav"))
    assert re.fullmatch(rf"new/folder/x.wav: {len(audio) / 16_000:.2f} s\n", capsys.readouterr().out)
    say("Abc da. Bad!", "--out", "named.wav", "--speaker", "y", "--seed", "5")
    assert torch.equal(read_audio(Path("named.wav")), audio)
    say("Abc da. Bad!", "--out", "other.flac", "--speaker", "y", "--seed", "6")
    other = read_audio(Path("other.flac"))
    assert other.shape != audio.shape or not torch.equal(other, audio)


def test_temperature_0_is_deterministic(talker):
    for seed in "12":
        say("Abc.", "--out", f"{seed}.wav", "--temperature", "0", "--seed", seed)
    assert torch.equal(read_audio(Path("1.wav")), read_audio(Path("2.wav")))


def test_lines_become_numbered_files(talker, fails):
    Path("lines.txt").write_text("Abc.\n\n  \nDad da.\nHello.\nCab.", encoding="utf-8")
    message = fails(say, "--file", "lines.txt", "--out", "said")
    assert message.startswith("omni: line 5: 'Hello.' cannot be spoken: the Talker was not trained on e h l o")
    assert sorted(path.name for path in Path("said").iterdir()) == ["0001.wav", "0004.wav", "0006.wav"]
    say("Dad da.", "--out", "alone.wav")
    assert torch.equal(read_audio(Path("alone.wav")), read_audio(Path("said/0004.wav")))


def test_lines_become_one_file(talker):
    Path("lines.txt").write_text("Abc.\nDad da.\n", encoding="utf-8")
    say("--file", "lines.txt", "--out", "said.wav")
    for text, file in (("Abc.", "one.wav"), ("Dad da.", "two.wav")):
        say(text, "--out", file)
    parts = [read_audio(Path(file)) for file in ("one.wav", "two.wav")]
    audio = read_audio(Path("said.wav"))
    assert torch.equal(audio[: len(parts[0])], parts[0])
    assert torch.equal(audio[-len(parts[1]) :], parts[1])


def test_steps_are_accelerated_before_they_are_used(talker, monkeypatch):
    asked = []
    monkeypatch.setattr("omni.decoding.acceleration.accelerate", lambda models, **options: asked.append(options))
    say("Abc.", "--out", "x.wav")
    say("Abc.", "--out", "y.wav", "--int8", "--compile")
    assert asked == [{"compile": False, "int8": False}, {"compile": True, "int8": True}]


def test_the_speed_changes_the_duration(talker):
    lengths = []
    for speed in ("0.5", "1", "2"):
        say("Abc da bad dab.", "--out", f"{speed}.wav", "--speed", speed)
        lengths.append(len(read_audio(Path(f"{speed}.wav"))))
    assert lengths == pytest.approx([2 * lengths[1], lengths[1], lengths[1] / 2], abs=2000)


def test_marks_are_pauses(talker):
    say("Abc", "--out", "one.wav")
    say("[pause 1] Abc [pause 0.5]", "--out", "two.wav", "--speed", "1")
    one, two = read_audio(Path("one.wav")), read_audio(Path("two.wav"))
    assert len(two) - len(one) == 1.5 * 16_000
    assert torch.equal(two[16_000:-8_000], one)


def test_times_of_words_are_written_next_to_the_audio(talker, capsys):
    say("Abc da. Bad!", "--out", "new/x.flac", "--timestamps", "word", "--format", "json")
    row = json.loads(Path("new/x.words.json").read_text())
    audio = read_audio(Path("new/x.flac"))
    assert capsys.readouterr().out == f"new/x.flac: {row['duration']:.2f} s, times of the words in new/x.words.json\n"
    assert row["text"] == "abc da bad"
    assert row["duration"] == pytest.approx(len(audio) / 16_000, abs=1e-3)
    speech = load_synthesizer(TALKER).speak("Abc da. Bad!")[0]
    expected = [{**word._asdict(), "start": pytest.approx(word.start, abs=1e-3)} for word in speech.words]
    assert row["words"] == [{**word, "end": pytest.approx(word["end"], abs=1e-3)} for word in expected]


def test_times_of_the_words_of_lines(talker):
    Path("lines.txt").write_text("Abc.\nDad da.\n", encoding="utf-8")
    say("--file", "lines.txt", "--out", "lines.wav", "--timestamps", "word")
    assert Path("lines.txt").read_text() == "Abc.\nDad da.\n"
    rows = [line.split() for line in Path("lines.words.txt").read_text().splitlines()]
    assert [row[2] for row in rows] == ["abc", "dad", "da"]
    times = [float(time) for row in rows for time in row[:2]]
    assert times == sorted(times)
    assert times[-1] > len(read_audio(Path("lines.wav"))) / 16_000 / 2
    say("--file", "lines.txt", "--out", "said", "--timestamps", "word", "--format", "srt")
    assert sorted(path.name for path in Path("said").iterdir()) == [
        "0001.wav",
        "0001.words.srt",
        "0002.wav",
        "0002.words.srt",
    ]
    assert re.fullmatch(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\ndad da\n", Path("said/0002.words.srt").read_text())


class Out(io.TextIOWrapper):
    """Standard output that records when it was flushed."""

    def __init__(self) -> None:
        super().__init__(Buffer())


class Buffer(io.BytesIO):
    def __init__(self) -> None:
        super().__init__()
        self.flushed = []

    def flush(self) -> None:
        self.flushed.append(len(self.getvalue()))


@pytest.mark.parametrize("vocoder", ["vocoder.ckpt", "griffin-lim"])
def test_a_stream_is_raw_samples(talker, monkeypatch, vocoder):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Abc da.\nBad! Dada"))
    monkeypatch.setattr(sys, "stdout", Out())
    say("-", "--stream", "--vocoder", vocoder)
    buffer = sys.stdout.buffer
    assert len(set(buffer.flushed)) >= (10 if vocoder == "vocoder.ckpt" else 3)
    samples = np.frombuffer(buffer.getvalue(), "<i2")
    whole = load_synthesizer(TALKER, vocoder=vocoder).speak("Abc da.\nBad! Dada")[0].audio
    assert np.abs(samples - whole.numpy() * 32767).max() < 4


def test_refined_audio_is_streamed_by_sentence(talker, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Abc da. Bad! Dada"))
    monkeypatch.setattr(sys, "stdout", Out())
    say("-", "--stream", "--vocoder", "vocoder.ckpt", "--refine", "2")
    assert len(set(sys.stdout.buffer.flushed) - {0}) == 5  # three sentences and the pauses between them
    samples = np.frombuffer(sys.stdout.buffer.getvalue(), "<i2")
    refined = load_synthesizer(TALKER, vocoder="vocoder.ckpt", refine=2).speak("Abc da. Bad! Dada")[0].audio
    assert np.abs(samples - refined.numpy() * 32767).max() < 4


def test_lines_of_standard_input_are_streamed(talker, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Abc da.\n\nBad!\n"))
    monkeypatch.setattr(sys, "stdout", Out())
    say("--file", "-", "--stream")
    assert len(sys.stdout.buffer.getvalue()) > 16_000


def test_standard_input_must_be_text(talker, monkeypatch, fails):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xe9b"), encoding="utf-8"))
    assert "standard input is not UTF-8 (byte 1)" in fails(say, "-", "--out", "x.wav")


def test_streaming_to_a_terminal_is_refused(talker, monkeypatch, fails):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "standard output is a terminal" in fails(say, "abc", "--stream")


def test_an_interrupted_file_is_removed(talker, monkeypatch):
    def broken(*args, **options):
        yield from list(parts(*args, **options))[:1]
        raise KeyboardInterrupt

    parts = load_synthesizer(TALKER).sentences
    monkeypatch.setattr(
        "omni.inference.synthesizer.Synthesizer.sentences", lambda self, *args, **options: broken(*args, **options)
    )
    with pytest.raises(SystemExit):
        say("Abc. Dad.", "--out", "x.wav")
    assert not list(Path().glob("*x.wav*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["abc"], "give either --out, a file or a folder, or --stream"),
        (["abc", "--out", "x.wav", "--stream"], "give either --out"),
        (["--out", "x.wav"], "give either a text or --file"),
        (["abc", "--file", "lines.txt", "--out", "x.wav"], "give either a text or --file"),
        (["", "--out", "x.wav"], "no letters or digits"),
        (["?! …", "--stream"], "no letters or digits"),
        (["👍🏽", "--out", "x.wav"], "no letters or digits"),
        (["привет", "--out", "x.wav"], "not trained on в е и п р т"),
        (["abc", "--out", "x.xyz"], "x.xyz: audio cannot be written as .xyz"),
        (["abc", "--out", "x.wav", "--speaker", "3"], "no speaker 3"),
        (["abc", "--out", "x.wav", "--speaker", "nobody"], "no speaker 'nobody'"),
        (["abc", "--out", "x.wav", "--temperature", "-1"], "temperature must be 0 or more"),
        (["abc", "--out", "x.wav", "--temperature", "hot"], "temperature"),
        (["abc", "--out", "x.wav", "--vocoder", "nowhere.ckpt"], "vocoder nowhere.ckpt does not exist"),
        (["abc", "--out", "x.wav", "--refine", "-1"], "refine is -1: it must be 0, for none, or more"),
        (["abc", "--out", "x.wav", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["abc", "--out", "x.wav", "--batch_size", "0"], "batch_size is 0"),
        (["abc", "--out", "x.wav", "--speed", "5"], "speed is 5: it must be between 0.25 and 4"),
        (["abc", "--out", "x.wav", "--speed", "fast"], "speed"),
        (["abc [pause 11]", "--out", "x.wav"], "'[pause 11]' is not a pause: write [pause 0.5], 0 to 10 seconds"),
        (["[pause 1]", "--out", "x.wav"], "no letters or digits"),
        (["abc", "--stream", "--timestamps", "word"], "--timestamps writes a file next to the audio: give --out"),
        (["abc", "--out", "x.wav", "--format", "srt"], "--format srt is the format of times: give --timestamps word"),
        (["abc", "--out", "x.wav", "--timestamps", "char"], "timestamps"),
        (["--file", "nowhere.txt", "--out", "x.wav"], "nowhere.txt cannot be read"),
        (["--file", "empty.txt", "--out", "x.wav"], "empty.txt is empty"),
        (["--file", "latin.txt", "--out", "x.wav"], "latin.txt is not UTF-8 (byte 1)"),
    ],
)
def test_errors_end_in_one_line(talker, fails, arguments, words):
    Path("lines.txt").write_text("abc", encoding="utf-8")
    Path("empty.txt").write_text(" \n", encoding="utf-8")
    Path("latin.txt").write_bytes(b"a\xe9b")
    assert words in fails(say, *arguments)
    assert not list(Path().glob("*x.*"))


def test_checkpoints_without_a_talker_end_in_one_line(talker, fails):
    arguments = ["speak", "abc", "--out", "x.wav", "--checkpoint"]
    assert "holds no part 'talker'" in fails(main, [*arguments, "vocoder.ckpt"])
    assert "nowhere.ckpt does not exist" in fails(main, [*arguments, "nowhere.ckpt"])
    assert "checkpoint" in fails(main, ["speak", "abc", "--out", "x.wav"])


def test_an_unknown_extension_is_refused_before_any_work(workplace, fails):
    line = fails(main, ["speak", "abc", "--out", "x.xyz", "--checkpoint", "nowhere.ckpt"])
    assert "cannot be written as .xyz" in line


def test_ten_thousand_characters_are_spoken(talker):
    text = "abc dad " * 1250
    Path("long.txt").write_text(text, encoding="utf-8")
    save_talker(talker / TALKER, fast=True)
    say("--file", "long.txt", "--out", "long.wav", "--vocoder", "vocoder.ckpt")
    assert len(read_audio(Path("long.wav"))) > 10_000 / 75 * 16_000
