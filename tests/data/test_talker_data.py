"""Codes for the stage: encoded and aligned once, completed after interruption; rejected alignments are reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import tones
from toy_speech import ToneCodec, ToneEncoder, save

from omni.batch import IGNORE
from omni.data.talker.alignment import advances, borders
from omni.data.talker.code_file import CodesFile
from omni.data.talker.data import CodesData
from omni.data.talker.encoding import AlignmentFault, CodesEncoder, EncodedSpeech
from omni.decoding.ctc import Span
from omni.errors import UserError
from omni.media.audio import read_audio
from omni.models.audio_encoder import AudioEncoder
from omni.models.part import Part
from omni.models.talker import positions
from omni.text.ctc_vocabulary import CharacterVocabulary, SubwordVocabulary
from omni.text.normalization import TextNormalization


def make(words: dict[str, str], **options: Any) -> CodesData:
    given = {"batch_seconds": 8.0, "silence": 0.12, "max_duration": 4.0, "val_fraction": 0.2, "device": "cpu"}
    data = CodesData(**{"train": "words.jsonl", **given, **words, **options})
    data.setup()
    return data


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


# ---------------------------------------------------------------- alignment


def test_boundaries_are_midway_between_spikes():
    spans = [Span(1, 10, 11, 1.0), Span(2, 16, 17, 1.0), Span(3, 17, 20, 1.0)]
    assert borders(spans, 0.02) == pytest.approx([0.17, 0.27, 0.34, 0.43])
    assert borders([Span(1, 0, 1, 1.0)], 0.02) == pytest.approx([0.0, 0.05])


def test_a_frame_belongs_to_the_character_at_its_centre():
    steps = advances(np.array([0.1, 0.2, 0.3]), 10, 25.0)  # centres 0.02, 0.06, 0.10, 0.14, ...
    places = positions(torch.from_numpy(steps)[None])[0].tolist()
    assert places == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert steps.sum() == 4


@pytest.mark.parametrize("seed", range(8))
def test_any_alignment_becomes_advances_that_can_be_learned(seed):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.normal(0.8, 0.05, rng.integers(2, 60)).clip(0.1))  # several characters per frame
    steps = advances(edges, 50, 25.0)
    assert steps is not None
    assert steps.sum() == len(edges) + 1
    assert 0 <= steps.min() <= steps.max() <= 3


def test_more_characters_than_frames_allow_are_refused():
    assert advances(np.linspace(0, 0.1, 11), 4, 25.0).tolist() == [3, 3, 3, 3]
    assert advances(np.linspace(0, 0.1, 12), 4, 25.0) is None


# ---------------------------------------------------------------- batches


def test_a_batch_holds_the_codes_and_positions_of_its_rows(words):
    data = make(words)
    seen = 0
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        assert (batch.advances == IGNORE).equal((batch.codes == IGNORE).all(-1))
        for i in range(len(batch.rows)):
            text = batch.text[i, : batch.text_lengths[i]]
            length = int((batch.advances[i] != IGNORE).sum())
            assert batch.advances[i, :length].sum() == len(text) + 2
            places, codes = positions(batch.advances[i : i + 1, :length])[0], batch.codes[i, :length]
            for number, unit in enumerate(text.tolist(), start=1):
                sounds = codes[places == number, 0]
                tone = ToneEncoder().tone[unit - 2]
                assert (sounds == tone).sum() >= 2
                assert set(sounds.tolist()) <= {tone, 16}
            assert (codes[places == 0, 0] == 16).all()
            assert (codes[places == len(text) + 1, 0] == 16).all()
            seen += 1
        assert batch.seconds == pytest.approx((batch.advances != IGNORE).sum().item() / 25)
    assert seen == 40


def test_sentences_are_held_out_for_all_speakers(words):
    data = make(words)
    said = {split: {tuple(rows.rows[number].units) for number in rows.numbers} for split, rows in data.datasets.items()}
    assert said["train"]
    assert said["val"]
    assert not said["train"] & said["val"]
    assert data.speakers == ["x", "y"]
    assert {int(speaker) for batch in data.train_dataloader() for speaker in batch.speakers} == {0, 1}


def test_held_out_sentences_come_with_their_recordings(words):
    data = make(words)
    some = data.held_out("val", 3)
    assert 2 <= len(some) <= 3
    assert [len(one.codes) for one in some] == sorted(len(one.codes) for one in some)
    for one in some:
        assert data.tokenizer.decode(one.units.tolist()) == one.text
        assert len(one.mel) == 4 * len(one.codes)
        assert torch.equal(ToneCodec().encode(one.mel[None], None)[0], one.codes)


def test_selected_speakers_only(words):
    data = make(words, speakers=["y"])
    assert data.speakers == ["y"]
    assert len(data.datasets["train"]) + len(data.datasets["val"]) == 20
    with pytest.raises(UserError, match="no speaker is called 'z'; there are 2: x, y"):
        make(words, speakers=["z"])


def test_unknown_speakers_in_validation_are_left_out(words, workplace):
    rows = rows_of(workplace / "words.jsonl")
    write_rows(workplace / "train.jsonl", [row for row in rows[:30] if row["speaker"] == "x"])
    write_rows(workplace / "val.jsonl", rows[30:])
    data = make(words, train="train.jsonl", val="val.jsonl")
    with pytest.warns(UserWarning, match="val: 5 of 10 rows left out: a speaker that training does not have"):
        data.keep_known_speakers()
    assert len(data.datasets["val"]) == 5


# ---------------------------------------------------------------- the cache


def test_everything_is_encoded_once(words, monkeypatch):
    first = [batch.codes for batch in make(words).val_dataloader()]
    monkeypatch.setattr(CodesEncoder, "encode", lambda *args: pytest.fail("encoded again"))
    again = [batch.codes for batch in make(words, min_score=0.5).val_dataloader()]
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("changed", ["codec", "recognizer", "silence", "data", "duration"])
def test_another_codec_recognizer_or_row_is_encoded_again(words, workplace, monkeypatch, changed):
    make(words)
    encoded, encode = [], CodesEncoder.encode
    monkeypatch.setattr(CodesEncoder, "encode", lambda self, *args: encoded.append(1) or encode(self, *args))
    options = {}
    if changed == "codec":
        save(workplace / "codec.ckpt", "codec", ToneCodec(2.0), CharacterVocabulary(" abc"))
    elif changed == "recognizer":
        save(workplace / "recognizer.ckpt", "audio_encoder", ToneEncoder(), CharacterVocabulary(" abc"))
    elif changed == "silence":
        options["silence"] = 0.2
    elif changed == "duration":  # rows in the file are sorted by duration
        rows = rows_of(workplace / "words.jsonl")
        write_rows(workplace / "words.jsonl", [rows[0] | {"duration": rows[0]["duration"] + 0.5}, *rows[1:]])
    else:
        soundfile.write("0.wav", tones("abc"), 16_000)
    make(words, **options)
    assert encoded


def encoded(row: int) -> EncodedSpeech:
    rng = np.random.default_rng(row)
    frames = 3 + row
    codes = rng.integers(0, 99, (frames, 2)).astype(np.int16)
    return EncodedSpeech(codes, rng.integers(0, 3, frames).astype(np.int16), row / 10, row / 2, AlignmentFault.NONE)


def test_truncated_codes_are_completed_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("omni.data.talker.code_file._BATCH_ROWS", 2)
    durations = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    whole = CodesFile(tmp_path / "whole", durations, 2)
    assert not whole.complete
    whole.write(lambda rows: [encoded(row) for row in rows], label="train")
    assert whole.complete
    for row in range(5):
        codes, steps = whole.read(row)
        assert np.array_equal(codes, encoded(row).codes)
        assert np.array_equal(steps, encoded(row).advances)
        assert whole.records["score"][row] == pytest.approx(row / 10)
    cut, asked = CodesFile(tmp_path / "cut", durations, 2), []

    def stop(rows):
        if asked:
            raise KeyboardInterrupt
        asked.extend(rows)
        return [encoded(row) for row in rows]

    with pytest.raises(KeyboardInterrupt):
        cut.write(stop, label="train")
    assert asked == [1, 3]  # the shortest
    assert not cut.complete
    for path in (cut.data, cut.records_file):
        with path.open("ab") as file:
            file.write(b"half")
    cut.write(lambda rows: [encoded(row) for row in rows if row not in asked or pytest.fail("again")], label="train")
    for name in ("codes", "aligned"):
        files = [tmp_path / f"{stem}.{name}" for stem in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()


# ---------------------------------------------------------------- rejected rows and errors


def test_rows_with_bad_alignments_are_left_out_and_counted_by_reason(words, workplace):
    rows = rows_of(workplace / "words.jsonl")
    rows[0] |= {"text": "abcabcab" * 30}
    rows[1] |= {"text": "c" if "c" not in rows[1]["text"] else "a"}
    soundfile.write("slow.wav", np.concatenate((tones("a"), np.zeros(32_000, np.float32), tones("b"))), 16_000)
    rows[2] |= {"audio": "slow.wav", "text": "ab", "duration": 2.32}
    content = Path(rows[3]["audio"]).read_bytes()
    (workplace / "half.wav").write_bytes(content[: len(content) // 2])
    rows[3] |= {"audio": "half.wav"}
    write_rows(workplace / "words.jsonl", rows)
    write_rows(workplace / "val.jsonl", rows[4:8])
    with pytest.warns(UserWarning, match="left out") as said:
        data = make(words, val="val.jsonl", min_speed=2.0)
    lines = [str(warning.message) for warning in said]
    for reason in ("outputs another text (score below data.min_score, 0.3)", "below data.min_speed", "CTC-infeasible"):
        assert sum(reason in line and line.startswith("train: 1 of 40 rows left out") for line in lines) == 1
    assert any("cannot be read" in line for line in lines)
    assert len(data.datasets["train"]) == 36
    with pytest.raises(UserError, match=r"data.train has no row that can be used"):
        make(words, val="val.jsonl", min_speed=29.0)


class Deaf(Part):
    """A module that is not a codec."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


class WideCodec(ToneCodec):
    """A codec of more mel filters."""

    num_mels = 20


@pytest.mark.parametrize(
    ("name", "part", "words_of_error"),
    [
        ("codec", Deaf(), "is a Deaf, not a codec of speech"),
        ("codec", WideCodec(), "reads 20 mel filters and the recogniser of recognizer.ckpt 16"),
        ("recognizer", AudioEncoder(vocab_size=5, num_mels=16, dim=8, num_heads=1, ffn_dim=8), "holds no part 'codec'"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(words, workplace, monkeypatch, name, part, words_of_error):
    monkeypatch.chdir(workplace)
    kind = "audio_encoder" if name == "recognizer" else "codec"
    save(workplace / f"{name}.ckpt", kind, part, CharacterVocabulary(" abc"))
    given = {"codec": "codec.ckpt", "recognizer": "recognizer.ckpt"}
    if name == "recognizer":
        given["codec"] = "recognizer.ckpt"
    with pytest.raises(UserError, match=words_of_error):
        make(given)


def test_a_recognizer_of_word_pieces_is_refused(words, monkeypatch):
    pieces = object.__new__(SubwordVocabulary)
    monkeypatch.setattr("omni.text.ctc_vocabulary.CTCVocabulary.from_state", lambda state: pieces)
    with pytest.raises(UserError, match="has word pieces for units: a Talker needs one with characters"):
        make(words)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_batch_rows": 0}, "max_batch_rows is 0"),
        ({"val_fraction": 1.5}, "between 0 and 1"),
        ({"min_duration": 5.0}, "must be less than"),
        ({"batch_seconds": 4.0}, "must hold an utterance"),
        ({"min_score": 1.0}, "min_score is 1.0"),
        ({"min_speed": 40.0}, "must be less than data.max_speed"),
        ({"silence": -1.0}, "silence is -1.0"),
        ({"speakers": []}, "is an empty list"),
        ({"test": "nowhere.jsonl"}, "nowhere.jsonl: does not exist"),
        ({"codec": "nowhere.ckpt"}, "checkpoint nowhere.ckpt does not exist"),
        ({"device": "abacus"}, "data.device 'abacus' cannot be used"),
    ],
)
def test_invalid_arguments_are_refused(words, options, complaint):
    with pytest.raises(UserError, match=complaint):
        make({**words, **options})


def test_a_single_sentence_cannot_be_held_out(words, workplace):
    rows = [row | {"text": "a"} for row in rows_of(workplace / "words.jsonl")]
    write_rows(workplace / "words.jsonl", rows)
    with pytest.raises(UserError, match="a single sentence"):
        make(words)


def test_recordings_and_their_silences_are_whole_frames(words):
    encoder = CodesEncoder(**words, silence=0.1)
    for number in range(5):
        audio = read_audio(f"{number}.wav")[: 3000 + 37 * number]
        mel = encoder.mel(audio)
        assert len(mel) % 4 == 0
        assert len(mel) - encoder.log_mel.num_frames(len(audio)) in range(20, 24)
    assert encoder.units.normalize == TextNormalization()
