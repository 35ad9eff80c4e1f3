"""`omni bench serve --soak` against a server of toy models, seconds instead of minutes."""

import json
import re

import pytest
from toy_server import RunningServer

from omni.bench import soak_client
from omni.bench.soak import SoakCounts, SoakReport
from omni.cli import main
from omni.inference.recognizer import Recognizer
from omni.serving.limits import Limits

SECONDS = 2.0


@pytest.fixture
def soak(tmp_path, monkeypatch):
    """Runs the command against a server; returns its exit code and its figures."""
    monkeypatch.setattr(soak_client, "_STALLS", (0.1, 0.3))
    monkeypatch.setattr(soak_client, "_LEAVES", 0.05)
    monkeypatch.setattr(soak_client, "_PAUSES", 0.1)
    monkeypatch.setattr(soak_client, "_REPORTS", 0.5)

    def call(server, clients=8):
        out, code = tmp_path / "soak.json", 0
        options = ["--url", server.url, "--soak", str(SECONDS / 60), "--clients", str(clients), "--text", "abc"]
        try:
            main(["bench", "serve", *options, "--json", str(out)])
        except SystemExit as error:
            code = error.code
        return code, json.loads(out.read_text())

    return call


def test_misbehaviour_is_no_error(soak, capsys):
    with RunningServer(limits=Limits(max_running=4)) as server:
        code, found = soak(server)
        server.idle()
    assert code == 0
    assert found["errors"] == {}
    assert found["answers"].keys() == {"text", "spoken", "transcription", "speech"}
    assert found["provoked"].keys() == {"left", "garbage", "stalled"}
    assert found["provoked"]["stalled"]
    assert found["seconds"] >= SECONDS
    assert all(size > 1e6 for size in found["memory"])
    printed = capsys.readouterr().out
    assert "of 0.0333333 min: " in printed
    assert re.search(r"unprovoked errors +0\n", printed)
    assert "after the warm-up" in printed


@pytest.mark.parametrize("fault", ["refuses", "fails", "breaks off"])
def test_errors_are_counted_and_are_the_exit_code(soak, monkeypatch, fault):
    limits = Limits(max_running=1, max_queue=0) if fault == "refuses" else Limits()

    def broken(self, *args, **options):
        raise RuntimeError("planted")
        yield

    if fault == "fails":
        monkeypatch.setattr(Recognizer, "partial_transcripts", broken)
    if fault == "breaks off":
        monkeypatch.setattr("omni.serving.streams.DONE", b"")
    with RunningServer(limits=limits) as server:
        code, found = soak(server)
    assert code == 1
    wanted = "ask: status 429" if fault == "refuses" else "ask: FailedStream"
    assert wanted in found["errors"]
    if fault == "fails":
        assert "transcription" not in found["answers"]
        assert "text" in found["answers"]


def test_garbage_that_is_accepted_is_an_error(soak, monkeypatch):
    monkeypatch.setattr(soak_client, "_REFUSALS", (413,))
    with RunningServer() as server:
        code, found = soak(server)
    assert code == 1
    assert found["errors"]["send garbage: status 400"]


def test_the_table():
    counts = SoakCounts()
    counts.answers.update(text=30, speech=10)
    counts.provoked.update(left=2)
    counts.errors.update({"ask: status 500": 3})
    table = SoakReport({"server": "here"}, 20.0, counts, (100e6, 103e6)).table().splitlines()
    assert [" ".join(line.split()) for line in table[2:5]] == [
        "answers 40 2.00 a second: 10 × speech, 30 × text",
        "misbehaviour 2 2 × left",
        "unprovoked errors 3 3 × ask: status 500",
    ]
    assert table[5].endswith("at the end (+3.0%)")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--soak", "0"], "soak must be over 0 minutes"),
        (["--soak", "1", "--clients", "1", "2"], "a soak has one number of clients"),
        (["--soak", "1", "--clients", "0"], "clients must be 1 or more"),
        (["--soak", "0.001", "--url", "http://127.0.0.1:1"], "no server of `omni serve` answers"),
    ],
)
def test_mistakes_end_in_a_line(fails, options, part):
    assert part in fails(main, ["bench", "serve", *options])
