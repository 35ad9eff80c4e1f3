"""`omni bench turns` on tones, without and with a peer."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from omni.bench.turns import NOISES, _matches
from omni.cli import main

ARGUMENTS = ("bench", "turns", "--scenes", "2", "--snr", "20")


@pytest.fixture
def command(speech, monkeypatch):
    """The arguments of a comparison of tones."""
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    return [*ARGUMENTS, "--train", str(speech / "train.jsonl"), "--val", str(speech / "val.jsonl")]


class VADIterator:
    """silero-vad's interface: a turn starts at the first chunk over the threshold."""

    def __init__(self, model, *, threshold, sampling_rate, min_silence_duration_ms, speech_pad_ms):
        assert (sampling_rate, min_silence_duration_ms, speech_pad_ms) == (16_000, 500, 0)
        self.model, self.threshold, self.count, self.silent, self.speaking = model, threshold, 0, 0, False

    def __call__(self, chunk):
        loud = self.model(chunk, 16_000).item() > self.threshold
        self.count += len(chunk)
        self.silent = 0 if loud else self.silent + len(chunk)
        if loud and not self.speaking:
            self.speaking = True
            return {"start": self.count - len(chunk)}
        if self.speaking and self.silent > 8000:
            self.speaking = False
            return {"end": self.count - self.silent}
        return None


class LevelModel:
    calls = 0

    def __call__(self, chunk, rate):
        LevelModel.calls += 1
        return chunk.square().mean().sqrt() * 4

    def reset_states(self):
        pass


def test_turns_are_found_in_every_noise_without_the_peer(command, tmp_path, capsys):
    report = main([*command, "--json", str(tmp_path / "turns.json")])
    assert [(one.detector, one.noise) for one in report.scores] == [("omni", noise) for noise in NOISES]
    assert report.scores[0].found == 1
    assert report.scores[0].false == 0
    assert report.scores[0].start < 0.05
    printed = capsys.readouterr().out
    assert "silero-vad is not installed" in printed
    assert "of other speakers" in printed
    assert json.loads((tmp_path / "turns.json").read_text())["scores"][0][:2] == ["omni", "none"]


def test_the_peer_is_asked_once_for_all_thresholds(command, monkeypatch):
    peer = SimpleNamespace(load_silero_vad=LevelModel, VADIterator=VADIterator)
    monkeypatch.setitem(sys.modules, "silero_vad", peer)
    monkeypatch.setattr(LevelModel, "calls", 0)
    threads = torch.get_num_threads()
    report = main(command)
    clean = next(one for one in report.scores if (one.detector, one.noise) == ("silero-vad", "none"))
    assert clean.found == 1
    assert clean.false == 0
    first = LevelModel.calls
    main([*command, "--seed", "0"])
    assert LevelModel.calls == 2 * first
    assert torch.get_num_threads() == threads


def test_thresholds_are_chosen_on_other_speakers(speech, fails):
    same = str(speech / "val.jsonl")
    assert "have the speakers" in fails(main, [*ARGUMENTS, "--train", same, "--val", same])
    assert "scenes is 0" in fails(main, ["bench", "turns", "--scenes", "0"])
    assert "missing.jsonl" in fails(main, [*ARGUMENTS, "--train", "missing.jsonl"])


def test_a_turn_is_found_if_both_ends_are_near():
    true = [(1.0, 2.0), (4.0, 5.0)]
    assert _matches(true, [(1.1, 2.2), (4.0, 6.0)]) == [pytest.approx((0.1, 0.2))]
    assert _matches(true, [(1.0, 5.0)]) == []
