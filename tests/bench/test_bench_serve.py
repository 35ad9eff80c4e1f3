"""`omni bench serve` against a server of toy models."""

import json

import numpy as np
import pytest
from conftest import tones
from toy_server import CHAT, SPEECH, RunningServer, toy_models, wav

from omni.bench.serve import Level, LiveLevel, LoadReport
from omni.cli import main
from omni.serving.limits import Limits
from omni.serving.served_models import ModelName


def test_all_kinds_are_measured(tmp_path, capsys):
    out, audio = tmp_path / "load.json", tmp_path / "speech.wav"
    audio.write_bytes(wav(np.concatenate((np.zeros(1600), tones("abc")))))
    with RunningServer(api_key="secret") as server:
        options = ["--url", server.url, "--api_key", "secret", "--seconds", "0.05", "--text", "abc", "--json", str(out)]
        options += ["--audio", str(audio)]
        report = main(["bench", "serve", *options, "--clients", "1", "2"])
    kinds = ("text", "spoken", "transcription", "speech")
    assert [(level.kind, level.clients) for level in report.levels] == [(kind, n) for kind in kinds for n in (1, 2)]
    for level in report.levels:
        assert len(level.whole) >= level.clients
        assert not level.errors
        assert all(first <= whole for first, whole in zip(level.first, level.whole, strict=True))
    assert [level.clients for level in report.live] == [1, 2]
    for live in report.live:
        assert not live.errors
        assert len(live.text) == len(live.sound) == live.clients
        assert len(live.barge_in) <= live.clients
    assert json.loads(out.read_text())["levels"][0]["kind"] == "text"
    printed = capsys.readouterr().out
    assert "requests/s" in printed
    assert "memory of the server" in printed


def test_failures_are_counted(monkeypatch):
    monkeypatch.setattr("omni.bench.realtime_client._PATIENCE", 0.5)
    models = toy_models(recognizer=None, synthesizer=None, names=[ModelName(CHAT, 1, ("chat",))])
    with RunningServer(models, limits=Limits(max_running=1, max_queue=0)) as server:
        report = main(["bench", "serve", "--url", server.url, "--seconds", "0.3", "--clients", "3"])
    (level,) = report.levels
    assert level.errors["status 429"] > 1
    assert level.whole
    assert report.live[0].errors["no answer"] == 1  # one session at a time, and noise is no speech
    assert sum(report.live[0].errors.values()) >= 3


def test_the_table_has_percentiles_and_the_gain_of_many_clients():
    levels = [
        Level("text", 1, 10.0, [1.0] * 20, [2.0] * 20),
        Level("text", 4, 10.0, [float(n) for n in range(101)], [500.0] * 50, {"status 429": 3}),
    ]
    live = [LiveLevel(4, [float(n) for n in range(101)], [300.0] * 3, [], {"no answer": 2})]
    table = LoadReport({"server": "here"}, levels, (2048, 4096), live).table()
    assert table.splitlines()[7].split() == ["4", "50", "95", "300", "300", "2", "×", "no", "answer"]
    first, second = (line.split() for line in table.splitlines()[3:5])
    assert first == ["text", "1", *["1"] * 3, *["2"] * 3, "2.0", "1.00"]
    assert second == ["text", "4", "50", "95", "99", *["500"] * 3, "5.0", "2.50", "3", "×", "status", "429"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--url", "http://127.0.0.1:1"], "no server of `omni serve` answers"),
        (["--url", "nonsense"], "no server of `omni serve` answers"),
        (["--clients", "0"], "clients must be numbers of 1 or more"),
        (["--seconds", "0"], "seconds must be over 0"),
    ],
)
def test_mistakes_end_in_a_line(fails, options, part):
    assert part in fails(main, ["bench", "serve", *options])


def test_a_wrong_key_and_a_missing_recording(fails):
    models = toy_models(
        assistant=None, names=[ModelName(SPEECH, 1, ("speech",)), ModelName("a", 1, ("transcription",))]
    )
    with RunningServer(models, api_key="secret") as server:
        assert "401" in fails(main, ["bench", "serve", "--url", server.url, "--api_key", "wrong"])
        options = ["--url", server.url, "--api_key", "secret", "--audio", "nothing.wav"]
        assert "nothing.wav" in fails(main, ["bench", "serve", *options])
