"""Speech for the stage: features from disk and on the fly, exact resuming, and rows that are left out."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning import Callback
from toy_commands import TOY_SPEECH, command

from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.data import SpeechData
from omni.data.speech.features import MARGIN, FeatureFile, mel_of
from omni.data.speech.rows import SpeechRow
from omni.errors import UserError
from omni.media.audio import LogMel, read_audio
from omni.media.mel_scale import SILENCE

OPTIONS: dict[str, Any] = {"num_mels": 16, "batch_seconds": 8.0, "max_duration": 4.0, "characters": " abc"}


def make(folder: Path, **options: Any) -> SpeechData:
    data = SpeechData(
        str(folder / "train.jsonl"),
        **{**OPTIONS, "val": str(folder / "val.jsonl"), "cache_dir": str(folder), **options},
    )
    data.setup()
    data.keep_feasible(lambda frames: frames)
    return data


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_characters_are_found_in_the_transcripts_of_training(speech):
    rows = rows_of(speech / "train.jsonl")
    rows[0]["text"] = "Ña\u0308 ё"  # in NFC: ñä ё
    write_rows(speech / "other.jsonl", [{**row, "audio": str(speech / row["audio"])} for row in rows])
    data = make(speech, characters="auto")
    assert data.tokenizer.characters == " 'abcdefghijklmnopqrstuvwxyz"
    data = SpeechData(
        str(speech / "other.jsonl"), **{**OPTIONS, "val": str(speech / "val.jsonl"), "characters": "auto"}
    )
    data.setup()
    assert data.tokenizer.characters == " 'abcdefghijklmnopqrstuvwxyzäñё"
    with pytest.raises(UserError, match=r"give data\.characters, not auto"):
        SpeechData("x.jsonl", "y.jsonl", characters="auto", streaming=True)


def test_a_batch_is_the_log_mels_and_units_of_its_rows(speech):
    data = make(speech)
    said = rows_of(speech / "val.jsonl")
    seen = set()
    for batch in data.val_dataloader():
        for i, row in enumerate(batch.rows.tolist()):
            length = int(batch.mel_lengths[i])
            expected = LogMel(16)(read_audio(speech / said[row]["audio"]))
            torch.testing.assert_close(batch.mels[i, :length], expected)
            assert (batch.mels[i, length:] - SILENCE).abs().max() < 1e-5 if length < batch.mels.shape[1] else True
            units = batch.targets[i, : batch.target_lengths[i]].tolist()
            assert data.tokenizer.decode(units) == said[row]["text"]
            seen.add(row)
        assert batch.seconds == pytest.approx(batch.mel_lengths.sum().item() / 100)
    assert seen == set(range(len(said)))


@pytest.mark.parametrize("cached", [False, True])
def test_crops_are_in_training_only_and_differ_each_epoch(speech, cached):
    plain = SpeechAugmentation(silence=0)
    data = make(speech, crop=0.2, cache_features=cached, batch_seconds=4.0, augmentation=plain)
    loader, seen = data.train_dataloader(), []
    for _ in range(2):
        for batch in loader:
            assert batch.mels.shape[1] <= 20
            assert batch.mels.shape[1] * len(batch.rows) <= 400
            for mel, length, row in zip(batch.mels, batch.mel_lengths.tolist(), batch.rows.tolist(), strict=True):
                whole = LogMel(16)(data.datasets["train"].rows[row].read())
                stretches = whole.unfold(0, length, 1).mT
                assert (stretches - mel[:length]).abs().amax((1, 2)).min() < 1e-4
                assert length == min(20, len(whole))
            seen.append(float(batch.mels.sum()))
    assert len(set(seen)) == len(seen)
    assert max(batch.mels.shape[1] for batch in data.val_dataloader()) > 20
    assert data.fingerprint != make(speech, batch_seconds=4.0, augmentation=plain).fingerprint


def test_a_checkpoint_reads_no_files_and_a_run_keeps_its_initial_data(speech, monkeypatch):
    data = make(speech)
    progress: Any = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=3)))
    data.trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=progress), overfit_batches=0, world_size=1, global_rank=0, training=True
    )  # pyright: ignore[reportAttributeAccessIssue]
    data.train_dataloader()
    looked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looked.append(path) or stat(path, **options))
    monkeypatch.setattr(SpeechData, "train_batches", lambda self: pytest.fail("builds the buckets again"))
    before = data.state_dict()
    audio = data.datasets["train"].rows[0].utterance.audio
    os.utime(audio, (1, 1))
    assert [data.state_dict() for _ in range(3)] == [before] * 3
    assert not [path for path in looked if str(path).endswith(Path(audio).suffix)]
    monkeypatch.undo()
    assert make(speech).fingerprint != data.fingerprint


@pytest.mark.parametrize("silence", [0.0, 0.3])
def test_features_from_disk_equal_those_computed_on_the_fly(speech, silence):
    augmentation = SpeechAugmentation(silence=silence, time_masks=1, freq_masks=1)
    fly, disk = (make(speech, augmentation=augmentation, cache_features=cached) for cached in (False, True))
    assert list(speech.glob("*.mels"))
    for one, other in zip(fly.train_dataloader(), disk.train_dataloader(), strict=True):
        assert torch.equal(one.mel_lengths, other.mel_lengths)
        torch.testing.assert_close(one.mels, other.mels, atol=1e-5, rtol=1e-5)
    assert silence == 0 or one.mel_lengths.sum() > sum(fly.datasets["train"].rows[i].duration * 100 for i in one.rows)


def test_truncated_features_are_completed_to_the_same_bytes(tmp_path):
    def read(row: int) -> torch.Tensor:
        return torch.randn(1000 + 300 * row, generator=torch.Generator().manual_seed(row))

    whole = FeatureFile(tmp_path / "whole", 16, 6)
    whole.write(read, label="train")
    cut = FeatureFile(tmp_path / "cut", 16, 6)

    def stop(row: int) -> torch.Tensor:
        if row == 4:
            raise KeyboardInterrupt
        return read(row)

    with pytest.raises(KeyboardInterrupt):
        cut.write(stop, label="train")
    assert not cut.complete
    with cut.data.open("ab") as file:
        file.write(b"half a row")
    cut.write(lambda row: read(row) if row >= 4 else pytest.fail("was there already"), label="train")
    assert cut.data.read_bytes() == whole.data.read_bytes()
    assert torch.equal(cut.read(5), whole.read(5))


def test_augmentation_depends_on_the_epoch_and_is_off_in_validation(speech):
    rows = make(speech).datasets["train"]
    again = make(speech).datasets["train"]
    number = len(rows)
    batches = [rows.__getitems__([row]) for row in (3, 3 + number, 3 + 2 * number, 3 + 3 * number)]
    assert torch.equal(again.__getitems__([3 + number]).mels, batches[1].mels)
    assert len({batch.mels.shape[1] for batch in batches}) > 1
    held_out = make(speech).datasets["val"]
    assert torch.equal(held_out.__getitems__([1]).mels, held_out.__getitems__([1 + len(held_out)]).mels)


class Spy(Callback):
    """Records the batches of training."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((batch.rows.tolist(), float(batch.mels.double().sum())))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_resumes_at_the_next_batch(fit_audio, workers, monkeypatch):
    spies: list[Spy] = []

    def spied(*extra: str, **overrides: Any) -> list[tuple[list[int], float]]:
        spy = Spy()
        spies.append(spy)
        monkeypatch.setattr("omni.training.callbacks.Throughput.on_train_batch_start", spy.on_train_batch_start)
        fit_audio("fit", *extra, data__init_args__num_workers=workers, trainer__val_check_interval=4, **overrides)
        return spy.seen

    monkeypatch.setattr("omni.training.callbacks.Throughput.on_train_batch_end", lambda *args: None)
    constant = {"model__init_args__schedule": "constant", "data__init_args__augmentation__rooms": 0.5}
    whole = spied(trainer__max_steps=8, **constant)
    first = spied(trainer__max_steps=4, **constant)
    rest = spied("--ckpt_path", "lightning_logs/audio/last.ckpt", trainer__max_steps=8, **constant)
    assert len(whole) == 8
    assert first + rest == whole
    assert len({tuple(rows) for rows, _ in whole}) > 3


def test_unusable_rows_are_left_out_and_counted_by_reason(speech):
    rows = rows_of(speech / "train.jsonl")
    del rows[0]["duration"]
    rows[0]["audio"] = "nowhere.wav"
    rows[1]["text"] = "naïve"
    rows[2]["text"] = " . "
    rows[3]["duration"] = 0.01
    rows[4]["duration"] = 99
    write_rows(speech / "train.jsonl", rows)
    with pytest.warns(UserWarning, match="left out") as said:
        data = make(speech)
    lines = [str(warning.message) for warning in said]
    for reason in ("the audio does not exist", "outside the units", "no text", "shorter than", "longer than"):
        assert sum(reason in line and line.startswith("train: 1 of 24 rows left out") for line in lines) == 1
    assert len(data.datasets["train"]) == 19


def test_text_too_long_for_ctc_is_left_out(speech):
    data = make(speech)
    with pytest.warns(UserWarning, match=r"rows left out: the text is too long for its audio \(CTC-infeasible\)"):
        data.keep_feasible(lambda frames: frames // 16)
    texts = [row.units for row in data.datasets["train"].rows]
    assert 0 < len(texts) < 24
    with pytest.raises(UserError, match=r"data.train has no row that can be used"):
        data.keep_feasible(lambda frames: 0)


def test_an_infeasible_set_is_refused_in_one_line(fit_audio, fails, speech):
    rows = [row | {"text": "abc " * 60} for row in rows_of(speech / "train.jsonl")]
    write_rows(speech / "train.jsonl", rows)
    assert "CTC-infeasible" in fails(fit_audio)


def test_a_truncated_file_is_left_out_of_its_batch(speech):
    rows = rows_of(speech / "train.jsonl")
    audio, rate = soundfile.read(speech / rows[2]["audio"])
    soundfile.write(speech / "half.flac", np.tile(audio, 20), rate)
    content = (speech / "half.flac").read_bytes()
    (speech / "half.flac").write_bytes(content[: len(content) // 2])
    rows[2] |= {"audio": "half.flac"}
    write_rows(speech / "train.jsonl", rows)
    train = make(speech).datasets["train"]
    with pytest.warns(UserWarning, match=r"left out: .*half\.flac"):
        batch = train.__getitems__([1, 2, 3])
    assert batch.rows.tolist() == [1, 3]
    assert train.__getitems__([2]).rows.tolist() == [3]  # the next one: a batch is never empty


def test_speakers_are_held_out_without_validation_data(speech):
    data = make(speech, val=None)
    speakers = [{row.utterance.speaker for row in data.datasets[split].rows} for split in ("train", "val")]
    assert not speakers[0] & speakers[1]
    assert len(speakers[0] | speakers[1]) == 3
    named = make(speech, val=None, val_speakers=["train1"])
    assert {row.utterance.speaker for row in named.datasets["val"].rows} == {"train1"}
    with pytest.raises(UserError, match="no speaker is called 'bob'"):
        make(speech, val=None, val_speakers=["bob"])
    with pytest.raises(UserError, match="val_speakers names all speakers: leave some to train on"):
        make(speech, val=None, val_speakers=sorted(speakers[0] | speakers[1]))
    rows = [{key: row[key] for key in ("audio", "text")} for row in rows_of(speech / "train.jsonl")]
    write_rows(speech / "train.jsonl", rows)
    with pytest.raises(UserError, match=r"no speaker to hold out: give data\.val"):
        make(speech, val=None)


def test_durations_are_measured_once(speech, monkeypatch):
    rows = [{key: row[key] for key in ("audio", "text")} for row in rows_of(speech / "train.jsonl")]
    write_rows(speech / "train.jsonl", rows)
    first = [row.duration for row in make(speech).datasets["train"].rows]
    monkeypatch.setattr("omni.data.speech.rows.audio_info", lambda source: pytest.fail("measured again"))
    assert [row.duration for row in make(speech).datasets["train"].rows] == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch_rows": 0}, "max_batch_rows is 0"),
        ({"val_fraction": 1.5}, "between 0 and 1"),
        ({"min_duration": 5.0}, "must be less than"),
        ({"batch_seconds": 1.0}, "must hold an utterance"),
        ({"val_speakers": ["x"]}, "not both"),
        ({"units": "words"}, "data.units is 'words'"),
        ({"cache_features": True, "augmentation": SpeechAugmentation(gain=3)}, "turn one of them off"),
        ({"val": []}, "is an empty list"),
        ({"test": "nowhere.jsonl"}, "nowhere.jsonl: does not exist"),
    ],
)
def test_invalid_arguments_are_refused(speech, options, words):
    with pytest.raises(UserError, match=words):
        make(speech, **options)


@pytest.mark.parametrize("options", [{}, {"crop": 0.3}, {"crop": 0.3, "cache_features": True}], ids=str)
def test_waveforms_match_their_spectrograms(speech, options):
    """The log-mel of each row's waveform equals its spectrogram, except near cuts."""
    data = make(speech, audio="all", augmentation=SpeechAugmentation(silence=0.1), **options)
    mel = LogMel(16)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch.audio.shape == (len(batch.mels), 160 * batch.mels.shape[1])
        for row, length in enumerate(batch.mel_lengths.tolist()):
            inner = slice(2, length - 2)
            heard = mel(batch.audio[row, : 160 * length])
            torch.testing.assert_close(heard[inner], batch.mels[row, inner], atol=1e-4, rtol=1e-4)
            assert not batch.audio[row, 160 * length :].any()


def test_waveforms_are_given_if_configured(speech):
    for asked, train, val in (("none", False, False), ("validation", False, True), ("all", True, True)):
        data = make(speech, audio=asked)
        for loader, there in ((data.train_dataloader(), train), (data.val_dataloader(), val)):
            assert (next(iter(loader)).audio is not None) == there
    with pytest.raises(UserError, match="waveforms must fit their spectrograms"):
        make(speech, audio="all", augmentation=SpeechAugmentation(tempo=0.1))


def test_two_runs_that_fill_one_cache_train_on_the_right_rows(fit_audio, speech, monkeypatch):
    """The second run starts to fill the cache when the first, in another process, has written some rows."""
    cache, both = speech / "cache", speech / "both"
    options = {
        "data__init_args__cache_features": True,
        "data__init_args__cache_dir": str(cache),
        "trainer__max_steps": 2,
    }
    program = f"""
import sys, time
from pathlib import Path
from omni.cli import main
from omni.data.speech.rows import SpeechRow

def slow(self, read=SpeechRow.read, rows=[]):
    rows.append(self)
    while len(rows) > 5 and not Path({str(both)!r}).exists():
        time.sleep(0.01)
    time.sleep(0.02)
    return read(self)

SpeechRow.read = slow
main(sys.argv[1:])
"""
    argv = command("audio", TOY_SPEECH, **options, trainer__logger__init_args__name="other")
    write, read = FeatureFile.write, SpeechRow.read
    monkeypatch.setattr(SpeechRow, "read", lambda self: time.sleep(0.02) or read(self))
    monkeypatch.setattr(FeatureFile, "write", lambda self, *args, **more: both.touch() or write(self, *args, **more))
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, *argv], stdout=subprocess.PIPE) as other:
        for _ in range(600):
            if any(path.stat().st_size >= 5 * 8 for path in cache.glob("*.frames")) or other.poll() is not None:
                break
            time.sleep(0.1)
        cli = fit_audio(**options)
        assert other.wait(120) == 0
    assert Path("lightning_logs/other/last.ckpt").is_file()
    for split, data in cli.datamodule.datasets.items():
        assert data.stored is not None
        for number, row in enumerate(data.rows):
            expected = mel_of(data.extract.log_mel, read(row), MARGIN, MARGIN)
            torch.testing.assert_close(data.stored.read(data.numbers[number]), expected, msg=f"{split} {number}")


def test_weights_are_the_shares_of_sources_that_an_epoch_reads(speech):
    train, val = str(speech / "train.jsonl"), str(speech / "val.jsonl")
    data = SpeechData({val: 2.0, train: 0.25}, **{**OPTIONS, "val": val, "cache_dir": str(speech)})
    data.setup()
    data.keep_feasible(lambda frames: frames)
    loader, epochs = data.train_dataloader(), []
    for _ in range(3):
        epochs.append([row for batch in loader for row in batch.rows.tolist()])
        assert len(epochs[-1]) == 2 * 8 + 6
        assert sorted(row for row in epochs[-1] if row < 8) == sorted([*range(8)] * 2)
    drawn = [{row for row in epoch if row >= 8} for epoch in epochs]
    assert [len(rows) for rows in drawn] == [6, 6, 6]
    assert len(set.union(*drawn)) > 6
    again = SpeechData({val: 2.0, train: 0.25}, **{**OPTIONS, "val": val, "cache_dir": str(speech)})
    again.setup()
    assert [row for batch in again.train_dataloader() for row in batch.rows.tolist()] == epochs[0]
    assert again.fingerprint != SpeechData([val, train], **{**OPTIONS, "val": val}).fingerprint
    assert sum(again.statistics().train_sizes) < sum(row.duration for row in again.dataset("train").rows)


def test_weights_that_cannot_be_used_are_refused():
    with pytest.raises(UserError, match=r"the weight of a\.jsonl is 0\.0: it must be over 0"):
        SpeechData({"a.jsonl": 0.0}, "b.jsonl")
    with pytest.raises(UserError, match="reads each row once"):
        SpeechData({"a.jsonl": 0.5}, "b.jsonl", streaming=True)


def test_uncertain_transcripts_of_a_recogniser_are_left_out_of_training(speech, capfd):
    rows = rows_of(speech / "train.jsonl")
    write_rows(speech / "train.jsonl", [{**row, "confidence": number / 24} for number, row in enumerate(rows)])
    assert len(make(speech).datasets["train"]) == 24
    with pytest.warns(UserWarning, match=r"12 of 24 rows left out: less certain than data\.min_confidence, 0\.5"):
        assert len(make(speech, min_confidence=0.5).datasets["train"]) == 12
    stream = make(speech, min_confidence=0.5, streaming=True).train_dataloader()
    with pytest.warns(UserWarning, match="less certain"):
        seen = [row for batch, _ in zip(stream, range(4), strict=False) for row in batch.rows.tolist()]
    assert seen
    assert {number % 24 for number in seen} <= set(range(12, 24))
    write_rows(speech / "val.jsonl", [{**row, "confidence": 0.1} for row in rows_of(speech / "val.jsonl")])
    with pytest.warns(UserWarning, match="of train|train: 12"):
        assert len(make(speech, min_confidence=0.5).datasets["val"]) == 8
    write_rows(speech / "train.jsonl", [{**rows[0], "confidence": "high"}])
    with pytest.raises(UserError, match=r"row 1: the confidence 'high' is not between 0 and 1"):
        make(speech, bad_rows="error")
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        make(speech, min_confidence=2.0)
