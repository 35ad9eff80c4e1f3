"""`data check` and the reader of `fit` agree on what can be used, and on what it says."""

import gzip
import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from omni.cli import main
from omni.commands.data_check import SpeechOptions
from omni.commands.data_check import _kind_of as kind_of
from omni.data.checks.findings import Report
from omni.data.checks.speech import SPEECH_KINDS, SpeechCheck
from omni.data.conversations.dataset import samples_of
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.speech import is_speech
from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.speech.archives import tar_files
from omni.data.speech.held_out import utterances_of
from omni.data.speech.opening import open_utterances
from omni.data.speech.rows import read_rows
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, read_audio

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


def kaldi(files="u1 a.wav\n", texts="u1 one two\n", **tables):
    """A folder of Kaldi."""

    def make():
        Path("kaldi").mkdir()
        for name, content in {"wav.scp": files, "text": texts, **tables}.items():
            Path("kaldi", name).write_text(content, encoding="utf-8")
        return "kaldi", None

    return make


def common_voice(sentence, entry="cv/train.tsv", **columns):
    """A release of Common Voice, whose sentences are not quoted."""

    def make():
        Path("cv/clips").mkdir(parents=True)
        Path("a.wav").rename("cv/clips/a.wav")
        row = {"client_id": "7f", "path": "a.wav", "sentence": sentence, "up_votes": "2", **columns}
        lines = ["\t".join(row), "\t".join(row.values())]
        Path("cv/train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return entry, None

    return make


def tar(*samples, entry="s.tar", patch=bytes):
    """Tar files with a sample each: content by suffix."""

    def make():
        for number, sample in enumerate(samples):
            with tarfile.open(entry.replace("*", str(number)), "w") as file:
                for suffix, content in {"wav": Path("ab"[number] + ".wav").read_bytes(), **sample}.items():
                    member = tarfile.TarInfo(f"folder/{number}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, BytesIO(content))
        last = Path(entry.replace("*", str(len(samples) - 1)))
        last.write_bytes(patch(last.read_bytes()))
        return entry, None

    return make


# name -> writes what is needed and returns the entry, and the content of a manifest; texts of rows; kinds of findings
INPUTS = {
    "plain": (lambda: jsonl(A), ["one two"], set()),
    "NeMo": (lambda: jsonl({"audio_filepath": "a.wav", "text": "one two", "duration": 2.0}), ["one two"], set()),
    "parts of a recording": (
        lambda: jsonl(*({**A, "text": text, "offset": at, "duration": 1.0} for text, at in (("one", 0), ("two", 1.0)))),
        ["one", "two"],
        set(),
    ),
    "parts in a table": (
        lambda: ("m.csv", "audio,text,offset,duration\na.wav,one,0.25,0.75\na.wav,two,1.0,\n"),
        ["one", "two"],
        set(),
    ),
    "a part to the end": (lambda: jsonl({**A, "offset": 0.5}), ["one two"], set()),
    "a part after the end": (lambda: jsonl({**A, "offset": 2.5, "duration": 1.0}), [], {"truncated"}),
    "a part of no recording": (lambda: jsonl({**A, "audio": "c.wav", "offset": 1, "duration": 1}), [], {"missing"}),
    "a bad offset": (lambda: jsonl({**A, "offset": -0.5}), [], {"bad row"}),
    "an offset of text": (lambda: jsonl({**A, "offset": "start"}), [], {"bad row"}),
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
    "quote closed rows later": (lambda: ("m.csv", 'audio,text\na.wav,"one\nb.wav,two"\n'), [], {"bad row"}),
    "too few cells": (lambda: ("m.csv", "audio,text\na.wav\n"), [], {"bad row"}),
    "raw": (raw, [], {"unreadable"}),
    "data size 0": (sound(NOISE, patch=sizeless), ["one two"], {"no length"}),
    "cut off": (sound(NOISE, patch=lambda content: content[:20_000]), [], {"truncated"}),
    "joined": (sound(NOISE[:SAMPLE_RATE], format="FLAC", patch=lambda content: content * 2), ["one two"], {"joined"}),
    "opposite phase": (sound(np.stack([NOISE, -NOISE], 1)), ["one two"], {"opposite phase"}),
    "integers as floats": (sound(np.round(NOISE * 32767), subtype="FLOAT"), ["one two"], {"integer scale"}),
    "Kaldi": (kaldi(utt2spk="u1 anna\n", utt2dur="u1 2.0\n"), ["one two"], set()),
    "Kaldi with tabs": (kaldi("u1\ta.wav\n", "u1\tone two\n"), ["one two"], set()),
    "Kaldi with segments": (
        kaldi("r a.wav\n", "u1 one\nu2 two\n", segments="u1 r 0.25 1.0\nu2 r 1.0 2.0\n"),
        ["one", "two"],
        set(),
    ),
    "Kaldi with a command": (kaldi("u1 sox a.wav -t wav - |\n"), [], {"bad row"}),
    "Kaldi with an archive": (kaldi("u1 raw.ark:17\n"), [], {"bad row"}),
    "Kaldi without a text": (kaldi("u1 a.wav\nu2 b.wav\n", "u2 \n"), [], {"bad row", "no text"}),
    "Kaldi with a bad segment": (kaldi("r a.wav\n", "u1 one\n", segments="u1 r 1.0 0.5\n"), [], {"bad row"}),
    "Kaldi without the recording": (kaldi("r a.wav\n", "u1 one\n", segments="u1 q 0 1\n"), [], {"bad row"}),
    "Kaldi with a bad duration": (kaldi(utt2dur="u1 long\n"), [], {"bad row"}),
    "Common Voice": (common_voice("One, two."), ["one two"], set()),
    "Common Voice, the folder": (common_voice("One two.", "cv"), ["one two"], set()),
    "Common Voice with a quotation": (common_voice('"One," two'), ["one two"], set()),
    "Common Voice without a sentence": (common_voice(""), [], {"no text"}),
    "tar": (tar({"txt": b"one two\n"}), ["one two"], set()),
    "tar with objects": (
        tar({"json": b'{"text": "one two", "speaker": 3, "duration": 2.0}'}),
        ["one two"],
        set(),
    ),
    "tars": (tar({"txt": b"one"}, {"txt": b"two"}, entry="s-*.tar"), ["one", "two"], set()),
    "tar without a text": (tar({}), [], {"bad row"}),
    "tar with a bad object": (tar({"json": b"[1]"}), [], {"bad row"}),
    "tar with Latin-1": (tar({"txt": b"caf\xe9"}), [], {"bad row"}),
    "tar with broken audio": (tar({"txt": b"one", "wav": b"no audio"}), [], {"unreadable"}),
    "compressed tar": (tar({"txt": b"one"}, patch=gzip.compress), [], {"bad row"}),
    "tar that is cut off": (tar({"txt": b"one two"}, patch=lambda content: content[:40_000]), [], {"bad row"}),
    "A-law": (sound(NOISE, subtype="ALAW"), ["one two"], set()),
}


@pytest.mark.parametrize("name", INPUTS)
def test_check_and_fit_agree(name, folder):
    make, texts, kinds = INPUTS[name]
    manifest, content = make()
    if content is not None:
        (folder / manifest).write_text(content, encoding="utf-8")
    rules = SpeechOptions().rules()
    report = Report(SPEECH_KINDS)
    SpeechCheck(rules, report).split("data", open_utterances([manifest]))
    assert {finding.kind for finding in report.findings} == kinds
    assert is_speech(manifest)
    assert kind_of(manifest) == "speech"
    message = Path(manifest).stem.removesuffix("*")
    try:
        rows, _ = read_rows(
            open_utterances([manifest]),
            rules.units,
            min_duration=rules.min_duration,
            max_duration=rules.max_duration,
            cache_dir=folder / "cache",
            may_write=False,
            errors=RowErrors("train", BadRowPolicy()),
        )
        lengths = [len(row.read()) / SAMPLE_RATE for row in rows]
    except UserError as error:
        rows, lengths, message = [], [], str(error)
    assert Path(manifest).stem.removesuffix("*") in message
    assert "\n" not in message
    assert ["".join(rules.units.decode(row.units)) for row in rows] == texts
    assert (report.counts["error"] == 0) == bool(texts)
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


def test_a_table_with_an_unbalanced_quote_is_refused_as_a_whole(folder, fails):
    (folder / "m.csv").write_text('audio,text\na.wav,"one two\nb.wav,three\n', encoding="utf-8")
    wrong = "m.csv: row 1: not CSV (unexpected end of data): correct the file"
    assert wrong in fails(main, ["data", "check", "m.csv"])
    with pytest.raises(UserError, match="row 1: not CSV"):
        list(open_utterances(["m.csv"])[0].rows_or_errors())


def test_a_manifest_of_nemo_is_checked_as_speech(folder, capsys):
    (folder / "m.jsonl").write_text(jsonl({"audio_filepath": "a.wav", "text": "one"})[1], encoding="utf-8")
    main(["data", "check", "m.jsonl"])
    assert "utterances: 1" in capsys.readouterr().out


class TestPartsAndArchives:
    """Rows whose audio is not a file of its own."""

    @pytest.fixture(params=["Kaldi with segments", "tars", "parts in a table"])
    def entry(self, request, folder):
        name, content = INPUTS[request.param][0]()
        if content is not None:
            (folder / name).write_text(content, encoding="utf-8")
        return name

    def test_the_samples_are_those_of_the_recording(self, entry):
        whole = ("a.wav", "b.wav" if entry == "s-*.tar" else "a.wav")
        parts = ((0, 2.0), (0, 2.0)) if entry == "s-*.tar" else ((0.25, 1.0), (1.0, 2.0))
        for fresh in (False, True):
            (source,) = open_utterances([entry])
            for number, row in enumerate(source.rows()):
                if fresh:  # as in a process that has not read the rows
                    (source,) = open_utterances([entry])
                start, end = (round(seconds * SAMPLE_RATE) for seconds in parts[number])
                assert torch.equal(read_audio(source.audio(number, row)), read_audio(whole[number])[start:end])
                assert source.audio_version(row) == source.audio_version(row)

    def test_conversations_and_streams_read_them(self, entry):
        (source,) = open_conversations([entry])
        rows = list(source.rows())
        assert [row.messages[1]["content"] for row in rows] == ["one", "two"]
        lengths = [len(samples_of(row.media[0])) / SAMPLE_RATE for row in rows]
        assert lengths == ([2.0, 2.0] if entry == "s-*.tar" else [0.75, 1.0])
        assert len({row.media[0].identity() for row in rows}) == 2
        assert [len(audio) / SAMPLE_RATE for audio, _ in utterances_of([entry], 9)] == lengths  # those of an export
        (speech,) = open_utterances([entry])
        shares = [list(speech.stream(share, 2, seed=1)) for share in range(2)]
        assert [len(share) for share in shares] == [1, 1]
        assert {row.text for share in shares for row, _ in share} == {"one", "two"}

    def test_a_stream_resumes_after_a_part_that_cannot_be_read(self, folder):
        rows = [{**A, "offset": at, "duration": 0.5} for at in (0, 3, 1)]
        (folder / "m.jsonl").write_text(jsonl(*rows)[1], encoding="utf-8")
        (source,) = open_utterances(["m.jsonl"])
        first, error, last = source.stream(0, 1, seed=0)
        assert [row[0].start for row in (first, last)] == [0, 1]
        assert str(error) == "m.jsonl: row 2: a.wav: has 2.00 s, nothing from 3.00 s on"


def test_a_pattern_with_numbers_names_tar_files(folder):
    for number in (8, 9, 10):
        Path(f"t-{number:03}.tar").touch()
    assert [path.name for path in tar_files("t-{008..010}.tar")] == ["t-008.tar", "t-009.tar", "t-010.tar"]
    with pytest.raises(UserError, match=r"t-011\.tar: does not exist"):
        tar_files("t-{008..011}.tar")
    with pytest.raises(UserError, match=r"x-\*\.tar: does not exist"):
        tar_files("x-*.tar")


def test_no_command_of_a_manifest_is_run(folder):
    kaldi(f"u1 touch {folder}/ran |\n")()
    (source,) = open_utterances(["kaldi"])
    (error,) = source.rows_or_errors()
    assert "is a command, which omni does not run" in str(error)
    assert not (folder / "ran").exists()
