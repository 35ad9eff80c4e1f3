"""`omni data check` on folders of recordings, as `omni adapt voice` takes them: what is no speech is counted."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from check_findings import findings
from conftest import tones

from omni.cli import main
from omni.data.speech.corpora import AudioFolder
from omni.data.speech.opening import open_recordings

RATE = 16_000
SIGNS = {"hebrew": "שלום עולם", "arabic": "مرحبا يا صديقي", "georgian": "გამარჯობა კარგო"}


@pytest.fixture
def found(capsys):
    """Runs the check, see `findings`."""
    return partial(findings, capsys)


def record(name, audio, text=None):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(f"{name}.wav", audio, RATE)
    if text is not None:
        Path(f"{name}.txt").write_text(text, encoding="utf-8")


def said(number):
    """Tones of 2.6 s and more, each file of its own."""
    noise = 1e-4 * np.random.default_rng(number).standard_normal(RATE)
    audio = np.concatenate((tones("abc acb bac cab"), tones("abcabc"[number % 3 :])))
    return audio + np.resize(noise, len(audio))


def chord(number):
    time = np.arange(3 * RATE) / RATE
    return 0.1 * sum(np.sin(2 * np.pi * 220 * 2 ** ((step + number) / 12) * time) for step in (0, 4, 7))


def figures():
    return json.loads(Path("report.json").read_text(encoding="utf-8"))["figures"]["data"]


def test_a_folder_of_recordings_is_checked_as_speech(workplace, found):
    for number in range(4):
        record(f"mine/{number}", said(number), "abc acb")
        record(f"deep/eva/{number}", said(9 + number))
    assert found("mine") == {}
    assert figures()["utterances"] == 4
    assert found("deep").keys() == {"no text"}
    assert figures()["speakers"] == 1
    manifest = "\n".join(json.dumps({"audio": f"{number}.wav", "text": "a b"}) for number in range(3))
    Path("mine/some.jsonl").write_text(manifest, encoding="utf-8")
    assert found("mine") == {}
    assert figures()["utterances"] == 3


def test_music_and_silence_are_counted_by_reason(workplace, found, capsys):
    for number in range(6):
        record(f"mine/{number}", said(number), "abc acb")
        record(f"mine/music{number}", chord(number), "abc acb")
        record(f"mine/silent{number}", np.zeros(3 * RATE), "abc acb")
    kinds = found("mine")
    names = {kind: {Path(where).stem.rstrip("012345") for where, _ in places} for kind, places in kinds.items()}
    assert names == {"no speech found": {"music"}, "silent": {"silent"}}
    assert [len(places) for places in kinds.values()] == [6, 6]
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", "mine"])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "error: silent: 6, 33.3% of all rows. " in printed
    assert "warning: no speech found: 6, 33.3% of all rows. " in printed
    assert "silent0.wav: digital silence in 3.00 s" in printed
    assert printed.count("silent0.wav") == 1  # its place is not repeated


def test_folders_without_recordings_or_with_several_manifests_end_in_one_line(workplace, fails):
    Path("empty").mkdir()
    assert "empty: the folder holds no .txt, .jsonl, .parquet file" in fails(main, ["data", "check", "empty"])
    assert "empty: no rows, nothing to check" in fails(main, ["data", "check", "empty", "--kind", "speech"])
    record("two/0", said(0))
    for name in ("a", "b"):
        Path(f"two/{name}.jsonl").write_text('{"audio": "0.wav", "text": "a"}\n', encoding="utf-8")
    assert "two has 2 manifests (a.jsonl, b.jsonl): give one of them" in fails(main, ["data", "check", "two"])


@pytest.mark.parametrize(
    "table",
    [b"text,audio\r\nA,0.wav\r\n", b"audio\ttext\n0.wav\tA\n", b"\xef\xbb\xbfaudio,text\n0.wav,A\n"],
    ids=["last column", "tsv", "byte order mark"],
)
def test_tables_in_a_folder_are_manifests(tmp_path, table):
    (tmp_path / "0.wav").touch()
    (tmp_path / ("list.tsv" if b"\t" in table else "list.csv")).write_bytes(table)
    [row] = open_recordings(tmp_path).rows()
    assert row.text == "A"


def test_ordinary_folders_are_not_mistaken_for_a_corpus(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("clips/1.wav", "2.WAV", "backup.tar", "wav.scp"):
        (tmp_path / name).touch()
    (tmp_path / "metadata.csv").write_text("name,date\n1,today\n", encoding="utf-8")
    (tmp_path / "2.TXT").write_text("two", encoding="utf-8")
    found = open_recordings(tmp_path)
    assert isinstance(found, AudioFolder)
    assert sorted(row.text for row in found.rows()) == ["", "two"]


@pytest.mark.parametrize("text", SIGNS.values(), ids=SIGNS)
@pytest.mark.parametrize("marked", [False, True])
def test_other_scripts_are_printed_as_they_are_written(workplace, text, marked, capfd):
    written = f"\u202b{text}\u202c." if marked else f"{text}."
    for number in range(3):
        record(f"mine/{number}", said(number), written)
    with pytest.raises(SystemExit):
        main(["data", "check", "mine"])
    printed = capfd.readouterr().out
    characters = sorted({*text} - {" "})
    assert f"{' '.join(characters)!r} in {written!r}" in printed
    assert "\u202b" not in printed  # a mark of direction would turn what follows
    for character in characters:
        assert f"{character!r} {3 * text.count(character)}" in printed
    main(["data", "check", "mine", "--characters", " " + "".join(characters)])
    assert ("note: invisible characters: 3" in capfd.readouterr().out) == marked
