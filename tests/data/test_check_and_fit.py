"""`data check` and the reader of `fit` agree on what can be used, and on what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni.cli import main
from omni.commands.data_check import SpeechOptions
from omni.data.checks.findings import Report
from omni.data.checks.speech import SPEECH_KINDS, SpeechCheck
from omni.data.conversations.speech import is_speech
from omni.data.speech.manifests import open_utterances
from omni.data.speech.rows import read_rows
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE

NOISE = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", NOISE, SAMPLE_RATE)
    soundfile.write("b.wav", NOISE[::-1], SAMPLE_RATE)
    return tmp_path


def jsonl(*rows):
    return "m.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


A = {"audio": "a.wav", "text": "one two"}


def sound(samples, **options):
    """A row whose audio is written in another way; `patch` changes its bytes."""
    patch = options.pop("patch", bytes)

    def make():
        format = options.setdefault("format", "WAV")
        soundfile.write("c", samples, SAMPLE_RATE, **options | {"format": format})
        Path("c").write_bytes(patch(Path("c").read_bytes()))
        return jsonl({**A, "audio": "c"})

    return make


def sizeless(content):
    at = content.index(b"data") + 4
    return content[:4] + bytes(4) + content[8:at] + bytes(4) + content[at + 4 :]


def raw():
    Path("sound.raw").write_bytes((NOISE * 32767).astype("<i2").tobytes())
    return jsonl({**A, "audio": "sound.raw"})


# name -> writes what is needed and returns the manifest's name and content; texts of the rows; kinds of findings
INPUTS = {
    "plain": (lambda: jsonl(A), ["one two"], set()),
    "NeMo": (lambda: jsonl({"audio_filepath": "a.wav", "text": "one two", "duration": 2.0}), ["one two"], set()),
    "a part of a recording": (lambda: jsonl({**A, "offset": 1.5}), [], {"bad row"}),
    "zero width": (
        lambda: jsonl({**A, "text": "o\u200bne\ufeff t\u00adwo\u200e"}),
        ["one two"],
        {"invisible characters"},
    ),
    "no-break space": (lambda: jsonl({**A, "text": "one\u00a0two"}), ["one two"], set()),
    "unquoted comma": (lambda: ("m.csv", "audio,text\na.wav,one, two\n"), [], {"bad row"}),
    "quoted comma": (lambda: ("m.csv", 'audio,text\na.wav,"one, two"\n'), ["one two"], set()),
    "BOM": (lambda: ("m.csv", "\ufeffaudio,text\na.wav,one two\n"), ["one two"], set()),
    "semicolons": (lambda: ("m.csv", "audio;text\na.wav;one, two\n"), ["one two"], set()),
    "tabs": (lambda: ("m.tsv", "audio\ttext\na.wav\tone, two\n"), ["one two"], set()),
    "unbalanced quote": (lambda: ("m.csv", 'audio,text\na.wav,"one two\nb.wav,three\n'), [], {"bad row"}),
    "quote closed rows later": (lambda: ("m.csv", 'audio,text\na.wav,"one\nb.wav,two"\n'), [], {"bad row"}),
    "too few cells": (lambda: ("m.csv", "audio,text\na.wav\n"), [], {"bad row"}),
    "raw": (raw, [], {"unreadable"}),
    "data size 0": (sound(NOISE, patch=sizeless), ["one two"], {"no length"}),
    "cut off": (sound(NOISE, patch=lambda content: content[:20_000]), [], {"truncated"}),
    "joined": (sound(NOISE, format="FLAC", patch=lambda content: content * 2), ["one two"], {"joined"}),
    "opposite phase": (sound(np.stack([NOISE, -NOISE], 1)), ["one two"], {"opposite phase"}),
    "integers as floats": (sound(np.round(NOISE * 32767), subtype="FLOAT"), ["one two"], {"integer scale"}),
    "A-law": (sound(NOISE, subtype="ALAW"), ["one two"], set()),
}


@pytest.mark.parametrize("name", INPUTS)
def test_check_and_fit_agree(name, folder):
    make, texts, kinds = INPUTS[name]
    manifest, content = make()
    (folder / manifest).write_text(content, encoding="utf-8")
    rules = SpeechOptions().rules()
    report = Report(SPEECH_KINDS)
    SpeechCheck(rules, report).split("data", open_utterances([manifest]))
    assert {finding.kind for finding in report.findings} == kinds
    assert is_speech(manifest)
    message = manifest
    try:
        rows, _ = read_rows(
            open_utterances([manifest]),
            rules.units,
            min_duration=rules.min_duration,
            max_duration=rules.max_duration,
            cache_dir=folder / "cache",
            may_write=False,
        )
        lengths = [len(row.read()) / SAMPLE_RATE for row in rows]
    except UserError as error:
        rows, lengths, message = [], [], str(error)
    assert manifest in message
    assert "\n" not in message
    assert ["".join(rules.units.decode(row.units)) for row in rows] == texts
    assert report.counts["error"] == (not texts)
    if texts:
        assert report.figures["data"]["hours"] * 3600 == pytest.approx(sum(lengths), abs=1e-3)


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.tsv"])
def test_an_empty_manifest_ends_in_one_line(name, content, folder, fails):
    (folder / name).write_text(content, encoding="utf-8")
    assert f"{name}: no rows: the file is empty" in fails(main, ["data", "check", name])


def test_a_table_without_rows_ends_in_one_line(folder, fails):
    (folder / "m.csv").write_text("audio,text\n", encoding="utf-8")
    assert "m.csv: no rows, nothing to check" in fails(main, ["data", "check", "m.csv"])


def test_a_manifest_of_nemo_is_checked_as_speech(folder, capsys):
    (folder / "m.jsonl").write_text(jsonl({"audio_filepath": "a.wav", "text": "one"})[1], encoding="utf-8")
    main(["data", "check", "m.jsonl"])
    assert "utterances: 1" in capsys.readouterr().out
