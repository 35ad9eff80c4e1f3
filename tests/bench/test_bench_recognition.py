"""`omni bench live` and `omni bench tempo` with a toy recogniser of tones."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import tones
from toy_speech import ToneEncoder, save

from omni.bench import recognition
from omni.bench.recognition import LookAheadTest, phase_vocoder
from omni.cli import main
from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.recognizer import Recognizer
from omni.media.audio import SAMPLE_RATE
from omni.text.ctc_vocabulary import CharacterVocabulary

TEXTS = ["ab", "cab", "bcab", "aba", "cbca", "abc", "bcb", "ca"]


@pytest.fixture
def options(workplace):
    """A recogniser and recordings of eight sentences."""
    save(workplace / "audio.ckpt", "audio_encoder", ToneEncoder(), CharacterVocabulary(" abc"))
    rows = []
    for number, text in enumerate(TEXTS):
        soundfile.write(workplace / f"{number}.wav", tones(text), 16_000)
        rows.append({"audio": f"{number}.wav", "text": text})
    (workplace / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["--recognizer", "audio.ckpt", "--data", "val.jsonl", "--json", "found.json"]


class TestLookAhead:
    def test_the_first_half_chooses_and_the_second_is_reported(self, options, monkeypatch, capsys):
        """A recogniser that errs in the first half below 0.3 s, and in the second half above."""
        said = []

        def live(recognizer, audio):
            number, look_ahead = len(said) % 4, recognizer.look_ahead
            said.append(look_ahead)
            right = look_ahead >= 0.3 if number < 2 else look_ahead < 0.3
            return " ".join(TEXTS[2 * number : 2 * number + 2]) if right else ""

        monkeypatch.setattr(recognition, "_live", live)
        report = main(["bench", "live", *options, "--look_aheads", "[0.5,0.1,0.3]", "--sentences", "2"])
        assert said == [0.1] * 4 + [0.3] * 4 + [0.5] * 4
        assert report.rows[:3] == [("0.10", [1.0, 0.0]), ("0.30", [0.0, 1.0]), ("0.50", [0.0, 1.0])]
        printed = capsys.readouterr().out
        assert "The first half chooses 0.30 s: WER 100.0 % on the second half" in printed
        assert "2 recordings of 2 sentences to choose, the next 2 to report" in printed

    def test_live_and_whole_recordings_are_recognised(self, options):
        report = main(["bench", "live", *options, "--look_aheads", "[0.32]", "--sentences", "1"])
        assert report.rows == [("0.32", [0.0, 0.0]), ("whole", [0.0, 0.0])]
        assert json.loads(Path("found.json").read_text())["rows"] == [["0.32", [0.0, 0.0]], ["whole", [0.0, 0.0]]]

    def test_rows_bound_what_is_read(self, options):
        report = main(["bench", "live", *options, "--look_aheads", "[0.32]", "--sentences", "1", "--rows", "3"])
        assert "1 recordings of 1 sentences to choose, the next 2 to report" in report.conditions["halves"]

    def test_the_default_is_that_of_live_recognition(self):
        """The live options that are measured are those that are used."""
        defaults = LiveRecognizer.__init__.__kwdefaults__
        assert (LookAheadTest().step, LookAheadTest().context) == (defaults["step"], defaults["context"])
        assert defaults["look_ahead"] in LookAheadTest().look_aheads


class TestTempo:
    def test_all_speeds_are_measured(self, options, monkeypatch):
        """Four systems of two speeds, then the recordings: the tones are recognised at any tempo."""
        seconds, transcribe = [], Recognizer.transcribe

        def recorded(self, audios, **options):
            seconds.append(sum(map(len, audios)) / SAMPLE_RATE)
            return transcribe(self, audios, **options)

        monkeypatch.setattr(Recognizer, "transcribe", recorded)
        report = main(["bench", "tempo", *options, "--speeds", "[2, 1]"])
        assert report.rows == [("1", [0.0, 0.0]), ("2", [0.0, 0.0])]
        assert report.conclusion == "The recordings as they are: WER 0.0 %."
        assert [one / seconds[-1] for one in seconds] == pytest.approx([1, 1, 0.5, 0.5, 1], abs=0.03)

    def test_errors_are_counted(self, options):
        rows = [json.loads(line) for line in Path("val.jsonl").read_text().splitlines()]
        rows[0]["text"] = "cc"
        Path("val.jsonl").write_text("\n".join(map(json.dumps, rows)))
        report = main(["bench", "tempo", *options, "--speeds", "[1]"])
        assert report.rows == [("1", [1 / 8, 1 / 8])]
        assert report.table().splitlines()[-3].split() == ["1", "12.5", "12.5"]

    def test_the_phase_vocoder_keeps_the_pitch(self):
        audio = torch.sin(2 * torch.pi * 400 * torch.arange(16_000) / 16_000)
        for speed in (0.5, 2.0):
            changed = phase_vocoder(audio, speed)
            assert len(changed) == pytest.approx(16_000 / speed, abs=300)
            spectrum = torch.fft.rfft(changed).abs()
            assert spectrum.argmax() * 16_000 / len(changed) == pytest.approx(400, abs=5)


@pytest.mark.parametrize(
    ("verb", "more", "part"),
    [
        ("live", ["--recognizer", "nothing.ckpt"], "nothing.ckpt"),
        ("live", ["--data", "nothing.jsonl"], "nothing.jsonl"),
        ("live", ["--sentences", "0"], "sentences is 0"),
        ("live", ["--look_aheads", "[]"], "give at least one"),
        ("live", ["--sentences", "5"], "8 utterances: 10 are needed"),
        ("live", ["--look_aheads", "[-1]", "--sentences", "1"], "look_ahead is -1"),
        ("tempo", ["--speeds", "[9]"], "speeds are [9.0]"),
        ("tempo", ["--rows", "0"], "rows is 0"),
    ],
)
def test_mistakes_end_in_a_line(options, fails, verb, more, part):
    assert part in fails(main, ["bench", verb, *options, *more])
