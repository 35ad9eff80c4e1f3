"""`omni data check`: every kind of fault is found in the right place, and good data has none."""

import json
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from check_findings import checked, findings

from omni.cli import main
from omni.commands.data_check import check
from omni.data.checks import speech as check_speech
from omni.errors import UserError
from omni.text.ctc_vocabulary import CharacterVocabulary

RATE = 16_000


def voice(seconds=1.0, seed=0, rate=RATE, level=0.1):
    """Noise: up to 2.5 s, the check does not search for speech."""
    return np.random.default_rng(seed).normal(0, level, round(seconds * rate)).astype(np.float32)


def save(name, samples, rate=RATE, **options):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(name, samples, rate, **options)
    return name


def row(audio, text="hello you there", **columns):
    return {"audio": audio, "text": text, **columns}


def manifest(name, rows):
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in rows]
    Path(name).write_bytes(b"\n".join(lines) + b"\n")
    return name


@pytest.fixture
def good(workplace):
    """Rows without a fault, of two speakers."""
    return [row(save(f"good{n}.wav", voice(seed=n)), speaker="ab"[n % 2], duration=1.0) for n in range(10)]


@pytest.fixture
def found(capsys):
    """Runs the check, see `findings`."""
    return partial(findings, capsys)


def test_good_speech_has_no_fault(good, found, capsys):
    assert found(manifest("m.jsonl", good)) == {}
    figures = json.loads(Path("report.json").read_text())["figures"]["data"]
    assert figures["utterances"] == 10
    assert figures["speakers"] == 2
    assert figures["seconds"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    assert figures["formats"] == {"16000 Hz mono": 10}
    assert figures["sub-frames a second"] == 50


def half(name, of):
    content = Path(of).read_bytes()
    Path(name).write_bytes(content[: len(content) // 2])
    return name


def write(name, content):
    Path(name).write_bytes(content)
    return name


def copy(name, of):
    shutil.copy(of, name)
    return name


def folder(name):
    Path(name).mkdir()
    return name


BEEP = np.sin(np.arange(RATE) / 10).astype(np.float32)
NAN = np.where(np.arange(RATE) == 99, np.nan, voice()).astype(np.float32)
LONG = "more than anybody could ever say in as little time as one second"

FAULTS = {
    "no file": (lambda: row("none.wav"), {"missing": "none.wav: does not exist"}),
    "a name that no file can have": (lambda: row("a\0b.wav"), {"missing": "does not exist"}),
    "a folder": (lambda: row(folder("d.wav")), {"folder": "d.wav: is a folder"}),
    "0 bytes": (lambda: row(write("a.wav", b"")), {"empty": r"a.wav: is empty (0 bytes)"}),
    "no samples": (lambda: row(save("a.wav", voice(0))), {"empty": "a.wav: holds no samples"}),
    "text named .wav": (lambda: row(write("a.wav", b"no audio" * 99)), {"unreadable": "is no audio that can be read"}),
    "half a FLAC": (lambda: row(half("a.flac", save("b.flac", voice(3)))), {"truncated": "is cut off or damaged"}),
    "half a WAV": (lambda: row(half("a.wav", "good0.wav")), {"truncated": "is cut off: its header declares 16,022"}),
    "half an MP3": (lambda: row(half("a.mp3", save("b.mp3", voice(3)))), {"truncated": "of 48,000 samples are there"}),
    "half an Ogg": (
        lambda: row(half("a.ogg", save("b.ogg", voice(9))), LONG),
        {"perhaps cut": "a.ogg", "no speech found": "a.ogg: 3.6 s"},
    ),
    "NaN": (lambda: row(save("a.wav", NAN, subtype="FLOAT")), {"not finite": "no finite numbers"}),
    "silence": (lambda: row(save("a.wav", np.zeros(RATE))), {"silent": "a.wav: digital silence in 1.00 s"}),
    "next to silence": (lambda: row(save("a.wav", BEEP * 0.0008)), {"silent": "a.wav: at most -62 dBFS"}),
    "clipping": (lambda: row(save("a.wav", np.clip(BEEP * 3, -1, 1))), {"clipped": "a.wav: 78."}),
    "one sample": (lambda: row(save("a.wav", voice(1 / RATE)), "a"), {"too short": "0.000 s", "odd speed": ""}),
    "too long": (
        lambda: row(save("a.wav", voice(21)), LONG * 3),
        {"too long": "a.wav: 21.0 s, over 20 s", "no speech found": ""},
    ),
    "192 kHz, 6 channels": (
        lambda: row(save("a.wav", np.repeat(voice(1, rate=192_000)[:, None], 6, 1), 192_000)),
        {"odd format": "a.wav: 192000 Hz 6 channels; most: 16000 Hz mono"},
    ),
    "another rate": (
        lambda: row(save("a.wav", voice(1, rate=8000), 8000)),
        {"odd format": "a.wav: 8000 Hz mono; most: 16000 Hz mono", "low rate": "1 of 11 utterances are below 16 kHz"},
    ),
    "FLAC named .wav": (lambda: row(copy("a.wav", save("b.flac", voice(1, seed=50)))), {}),
    "no text": (lambda: row(save("a.wav", voice(1, 50)), ""), {"no text": "its text is empty"}),
    "marks only": (lambda: row(save("a.wav", voice(1, 50)), "?!"), {"no text": "nothing is left of '?!'"}),
    "strange letters": (lambda: row(save("a.wav", voice(1, 50)), "thé you 漢"), {"outside vocabulary": "é 漢"}),
    "too much text": (
        lambda: row(save("a.wav", voice(1, 50)), LONG),
        {"infeasible": "needs 65 sub-frames, and", "odd speed": "64.0 characters a second"},
    ),
    "equal letters": (  # 27 letters with 26 blanks between them do not fit into 13 frames of 4 sub-frames
        lambda: row(save("a.wav", voice(1, 50)), "a" * 27),
        {"infeasible": "needs 53 sub-frames, and"},
    ),
    "too little text": (
        lambda: row(save("a.wav", voice(9, 50)), "so"),
        {"odd speed": "0.2 characters a second", "no speech found": ""},
    ),
    "a duration that is wrong": (
        lambda: row(save("a.wav", voice(1, 50)), duration=2.5),
        {"wrong duration": "a.wav: 1.00 s instead of the stated 2.50 s"},
    ),
    "a duration that is not exact": (
        lambda: row(save("a.wav", voice(1, 50)), duration=1.2),
        {"inexact duration": "instead of the stated 1.20 s"},
    ),
    "the same file": (lambda: row("good3.wav"), {"duplicate": "good3.wav is the same as in m.jsonl: row 4"}),
    "a copy": (lambda: row(copy("a.wav", "good3.wav")), {"duplicate": "a.wav is the same as in m.jsonl: row 4"}),
    "a copy in another format": (
        lambda: row(save("a.flac", soundfile.read("good3.wav")[0])),
        {"duplicate": "a.flac is the same as in m.jsonl: row 4"},
    ),
    "the same with another text": (
        lambda: row("good3.wav", "good bye you all"),
        {"contradiction": "good3.wav: 'good bye you all', and 'hello you there' in m.jsonl: row 4"},
    ),
    "a row without text": (lambda: {"audio": "good0.wav"}, {"bad row": "has no text in 'text'"}),
    "no JSON": (lambda: b"{", {"bad row": "not JSON"}),
    "no UTF-8": (lambda: b'{"audio": "good0.wav", "text": "\xe9"}', {"bad row": "is not UTF-8"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_in_its_place(good, found, fault):
    make, expected = FAULTS[fault]
    kinds = found(manifest("m.jsonl", [*good, make()]))
    assert kinds.keys() == expected.keys()
    for kind, what in expected.items():
        ((where, told),) = kinds[kind]
        assert where == ("data" if kind == "low rate" else "m.jsonl: row 11")
        assert what in told


def test_rows_after_an_invalid_one_are_checked(good, found):
    rows = [b"{", good[0], b"[]", row("none.wav")]
    assert found(manifest("m.jsonl", rows)).keys() == {"bad row", "missing"}
    assert json.loads(Path("report.json").read_text())["rows"] == 4


def test_characters_outside_the_vocabulary_are_counted(good, found):
    rows = [
        *good,
        *(row(save(f"n{n}.wav", voice(1, 50 + n)), text) for n, text in enumerate(("né né and you", "you are ß é"))),
    ]
    assert len(found(manifest("m.jsonl", rows))["outside vocabulary"]) == 2
    figures = json.loads(Path("report.json").read_text())["figures"]["data"]
    assert figures["characters outside the vocabulary"] == {"'é'": 3, "'ß'": 1}
    assert found("m.jsonl", characters=CharacterVocabulary().characters + "éß") == {}


def test_splits_are_compared(good, found):
    val = [row(copy("copy.wav", "good2.wav"), speaker="c"), row(save("new.wav", voice(1, 80)), speaker="b")]
    kinds = found(manifest("m.jsonl", good), val=manifest("v.jsonl", val), test=manifest("t.jsonl", [val[1]]))
    assert kinds == {
        "leak": [
            ("v.jsonl: row 1", "copy.wav is in data too: m.jsonl: row 3"),
            ("t.jsonl: row 1", "new.wav is in val too: v.jsonl: row 2"),
        ],
        "speaker overlap": [
            ("data and val", "1 of 2 speakers: b"),
            ("data and test", "1 of 1 speakers: b"),
            ("val and test", "1 of 1 speakers: b"),
        ],
    }
    figures = json.loads(Path("report.json").read_text())["figures"]
    assert figures["val"]["texts that data has too"] == "100%"


def test_two_silent_files_are_not_copies(good, found):
    rows = [row(save(f"s{n}.wav", np.zeros(RATE))) for n in range(2)]
    assert found(manifest("m.jsonl", [*good, *rows])).keys() == {"silent"}


def test_an_unusual_format_is_reported_even_if_all_files_have_it(workplace, found):
    rows = [row(save(f"{n}.wav", np.repeat(voice(seed=n)[:, None], 3, 1))) for n in range(2)]
    assert len(found(manifest("m.jsonl", rows))["odd format"]) == 2
    rows = [row(save(f"{n}.wav", voice(seed=n, rate=22_050), 22_050)) for n in range(2)]
    assert found(manifest("m.jsonl", rows)) == {}


def test_feasibility_depends_on_the_encoders_frame_rate(good, found):
    rows = manifest("m.jsonl", good)
    assert len(found(rows, subframes=1)["infeasible"]) == 10  # 12.5 a second, 16 are needed
    assert found(rows, subframes=1, downsampling=4) == {}


def test_units_of_a_checkpoint_and_its_frames(good, found):
    content = {
        "state_dict": {},
        "lineage": {},
        "tokenizer": CharacterVocabulary("helouytr ").state(),
        "parts": {"audio_encoder": {"class_path": "x", "init_args": {"downsampling": 8, "subframes": 1}}},
    }
    torch.save(content, "best.ckpt")
    rows = manifest("m.jsonl", [*good, row(save("a.wav", voice(2, 50)), "hello you there too")])
    assert len(found(rows, units="best.ckpt")["infeasible"]) == 10
    assert found(rows, units="best.ckpt", subframes=4) == {}
    assert "outside vocabulary" in found(manifest("m.jsonl", [row("good0.wav", "abc")]), units="best.ckpt")


def test_word_pieces_need_fewer_frames(good, found):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello you there"] * 50),
        model_prefix="pieces",
        vocab_size=20,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    rows = manifest("m.jsonl", good)
    assert found(rows, units="pieces.model", subframes=1) == {}
    assert "infeasible" in found(rows, subframes=1)


def test_folders_and_csv_are_read_like_in_training(good, found):
    Path("lj/wavs").mkdir(parents=True)
    copy("lj/wavs/LJ001-0001.wav", "good0.wav")
    Path("lj/metadata.csv").write_text("LJ001-0001|Hello, 3|Hello three dogs\n")
    Path("m.csv").write_text("audio,text\ngood0.wav,hello there\n")
    assert found("lj") == found("m.csv") == {}
    assert found("lj", val="m.csv").keys() == {"leak"}


def test_many_rows_are_read_by_a_few_threads_in_order(good, found, monkeypatch):
    monkeypatch.setattr("omni.data.checks.findings._PENDING", 4)
    threads, hear = set(), check_speech._read

    def noting(*args):
        threads.add(threading.get_ident())
        return hear(*args)

    monkeypatch.setattr(check_speech, "_read", noting)
    rows = [row(f"none{n}.wav") for n in range(30)]
    places = [where for where, _ in found(manifest("m.jsonl", rows))["missing"]]
    assert places == [f"m.jsonl: row {n}" for n in range(1, 31)]
    assert threading.get_ident() not in threads


def test_hours_of_silence_are_read_in_blocks(good, found, monkeypatch):
    with soundfile.SoundFile("hours.flac", "w", 8000, 1) as file:
        for _ in range(18):
            file.write(np.zeros(8000 * 600, np.int16))
    longest, read = [0], check_speech.native_blocks

    def noting(source):
        for block in read(source):
            longest[0] = max(longest[0], len(block))
            yield block

    monkeypatch.setattr(check_speech, "native_blocks", noting)
    kinds = found(manifest("m.jsonl", [*good, row("hours.flac")]))
    assert {"silent", "too long"} <= kinds.keys()
    assert kinds["silent"] == [("m.jsonl: row 11", "hours.flac: digital silence in 10800.00 s")]
    assert longest[0] == 30 * 8000  # samples, of 86,400,000


class TestText:
    @pytest.fixture
    def texts(self, workplace):
        return [{"text": f"document {n} is about something else"} for n in range(10)]

    def test_good_text_has_no_fault(self, texts, found):
        assert found(manifest("t.jsonl", texts), "corpus.txt") == {}
        figures = json.loads(Path("report.json").read_text())["figures"]["data"]
        assert figures["documents"] == 11

    @pytest.mark.parametrize(
        ("bad", "kind", "told"),
        [
            ({"text": ""}, "empty document", "is empty"),
            ({"text": " \n"}, "empty document", "holds only white space"),
            ({"text": "document 3 is about something else"}, "duplicate document", "the same as t.jsonl document 4"),
            ({"text": "caf\ufffd"}, "replacement character", "1 of 4 characters"),
            ({"text": "a\x00b"}, "control character", r"'\x00' at 1"),
            ({"text": 3}, "bad document", "a int, not text"),
            ({"body": "a"}, "bad document", "no 'text', only ['body']"),
            (b'{"text": "\xe9"}', "bad document", "byte 10 is not UTF-8"),
            (b"{", "bad document", "not JSON"),
        ],
    )
    def test_each_fault_is_found_in_its_place(self, texts, found, bad, kind, told):
        kinds = found(manifest("t.jsonl", [*texts, bad, {"text": "the last"}]))
        assert kinds.keys() == {kind}
        ((where, what),) = kinds[kind]
        assert where.startswith("t.jsonl")
        assert "11" in where
        assert told in what

    def test_formats(self, texts, found):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None, "two", "one"]}), "t.parquet")
        kinds = found("t.parquet")
        assert kinds.keys() == {"bad document", "duplicate document"}
        assert kinds["bad document"] == [("t.parquet: row 2, 'text'", "a NoneType, not text: " + MEND)]
        Path("t.txt").write_text("one\n\ntwo\n\none")
        assert found("t.txt") == {}
        assert found("t.txt", document_separator="\n\n").keys() == {"duplicate document"}
        Path("bad.txt").write_bytes(b"caf\xe9")
        Path("none.txt").touch()
        assert found("bad.txt").keys() == {"bad line", "empty document", "no documents"}
        Path("bad.txt").write_bytes(b"one\n\nt\xe9\n\nnone\x00\n\n \n\n\xc3\xa9")
        kinds = found("bad.txt", document_separator="\n\n+")
        assert kinds.keys() == {"bad line", "empty document"}
        assert [where for where, _ in kinds["bad line"]] == ["bad.txt: line 3", "bad.txt: line 5"]
        assert found("none.txt")["no documents"] == [("none.txt", "holds no text")]

    def test_leaks(self, texts, found):
        kinds = found(manifest("t.jsonl", texts), val=manifest("v.jsonl", [{"text": "new"}, texts[2]]))
        place = "'document 2 is about something else' is in data too: t.jsonl document 3"
        assert kinds == {"leaked document": [("v.jsonl document 2", place)]}

    def test_text_and_speech_at_once(self, texts, good, found):
        assert found(manifest("t.jsonl", texts), manifest("m.jsonl", good)) == {}
        assert json.loads(Path("report.json").read_text())["figures"].keys() == {"data", "data (text)"}


MEND = "correct or remove the row, or set data.text_column"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([[]], "name what to check"),
        ([["none.jsonl"]], r"none\.jsonl: does not exist"),
        ([["none.csv"]], r"none\.csv: does not exist"),
        ([["m.jsonl"], {"units": "words"}], "data.units is 'words'"),
        ([["m.jsonl"], {"units": "none.ckpt"}], r"none\.ckpt does not exist"),
        ([["m.jsonl"], {"subframes": 0}], "--subframes is 0: it must be 1 or more"),
        ([["m.jsonl"], {"downsampling": -1}], "--downsampling is -1: it must be 1 or more"),
        ([["m.jsonl"], {"min_duration": 3, "max_duration": 2}], r"--min_duration \(3 s\) must be less than"),
    ],
)
def test_invalid_arguments_are_refused(good, arguments, message):
    manifest("m.jsonl", good)
    with pytest.raises(UserError, match=message):
        checked(*arguments[0], **(arguments[1] if len(arguments) > 1 else {}))


def test_the_report_is_written_completely_or_not_at_all(good, monkeypatch):
    manifest("m.jsonl", good)
    check(["m.jsonl"], json=Path("new/report.json"))
    before = Path("new/report.json").read_bytes()

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr("omni.files.os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        check(["m.jsonl"], json=Path("new/report.json"))
    assert [file.name for file in Path("new").iterdir()] == ["report.json"]
    assert Path("new/report.json").read_bytes() == before


def test_the_command_and_its_exit_codes(good, capfd, fails):
    manifest("m.jsonl", good)
    manifest("v.jsonl", [row("good0.wav", speaker="c")])
    main(["data", "check", "m.jsonl"])
    assert "10 rows checked: 0 errors, 0 warnings, 0 notes" in capfd.readouterr().out
    for val in ("v.jsonl", "[v.jsonl]"):
        with pytest.raises(SystemExit) as stop:
            main(["data", "check", "m.jsonl", "--val", val, "--normalization.digits", "keep"])
        assert stop.value.code == 1
        assert "error: leak: 1" in capfd.readouterr().out
    assert "none.jsonl: does not exist" in fails(main, ["data", "check", "m.jsonl", "none.jsonl"])
    assert "manifests" in fails(main, ["data", "check"])
