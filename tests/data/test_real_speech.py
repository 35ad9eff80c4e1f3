"""Real speech corpora, if the environment variable `OMNI_DATA` is set to a folder of data."""

import json
import os
from pathlib import Path

import pytest

from omni.commands.data_check import check
from omni.commands.data_prepare import prepare

PACK = os.environ.get("OMNI_DATA")
pytestmark = pytest.mark.skipif(PACK is None, reason="real data: set OMNI_DATA to a folder that holds speech/")
SPEECH, MANIFESTS = Path(PACK or "") / "speech", Path(PACK or "") / "manifests"

CORPORA = {
    "an4": ("an4", {"train": "an4_train", "test": "an4_test"}),
    "fsdd": ("free-spoken-digit-dataset", {"train": "fsdd_train", "test": "fsdd_test"}),
    "librispeech": (
        "LibriSpeech",
        {"train-clean-5": "librispeech_train", "dev-from-train-clean-5": "librispeech_dev"},
    ),
    "ljspeech": ("LJSpeech-1.1", {"all": "ljspeech"}),
}


def rows(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return {(path.parent / row["audio"]).resolve(): row for row in map(json.loads, lines)}


@pytest.mark.parametrize("kind", CORPORA)
def test_manifests_hold_all_files(kind, workplace):
    folder, splits = CORPORA[kind]
    prepare(kind, SPEECH / folder)
    more = {"fsdd": ["all"], "an4": ["val"]}.get(kind, [])
    assert {file.stem for file in Path(f"data/{kind}").iterdir()} == {*splits, *more}
    for split, name in splits.items():
        ours, known = rows(Path(f"data/{kind}/{split}.jsonl")), rows(MANIFESTS / f"{name}.jsonl")
        if (kind, split) == ("an4", "train"):
            held_out = rows(Path("data/an4/val.jsonl"))
            assert 95 <= len(held_out) <= 110
            assert not {row["speaker"] for row in held_out.values()} & {row["speaker"] for row in ours.values()}
            ours |= held_out
        assert ours.keys() == known.keys()
        for audio, row in known.items():
            assert ours[audio]["text"] == row["text"]
            assert ours[audio]["id"] == row["id"]
            assert ours[audio]["speaker"] == row.get("speaker", "LJ")
            assert ours[audio]["duration"] == pytest.approx(row["duration"], abs=0.002)


@pytest.mark.parametrize(
    ("train", "val", "findings"),
    [
        ("an4_train", "an4_test", {"odd speed"}),
        ("librispeech_train", "librispeech_dev", set()),
        ("fsdd_train", "fsdd_test", {"odd speed", "low rate", "speaker overlap"}),
        ("ljspeech", None, set()),
    ],
)
def test_the_check_finds_no_harmful_faults(train, val, findings, workplace, capsys):
    val = None if val is None else str(MANIFESTS / f"{val}.jsonl")
    check([str(MANIFESTS / f"{train}.jsonl")], val=val, json=Path("report.json"))
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert {finding["kind"] for finding in report["findings"]} == findings
    assert "0 errors" in capsys.readouterr().out
