"""`omni export --to torch`: archives equal PyTorch on the run's held-out rows, or the folder is not kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_export import WORDS, pieces, save, toy_thinker

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.devices import has_compiler
from omni.export import torch_folder
from omni.export.archives import load_archive
from omni.export.parts.thinker import ThinkerPart
from omni.runtime.manifest import read_manifest
from omni.runtime.vocabulary import read_vocabulary

# The exporter's own use of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def export(*args: str) -> None:
    main(["export", *args, "--to", "torch", "--out", "out"])


@pytest.fixture
def saved(workplace: Path) -> str:
    (workplace / "rows.txt").write_text("\n".join(WORDS[:4]), encoding="utf-8")
    return save(Path("a.ckpt"), toy_thinker(), pieces())


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_the_thinker_on_rows(compiled: bool, saved: str, capsys):
    if compiled and not has_compiler():
        pytest.skip("no C++ compiler")
    export(saved, "--rows", "rows.txt", *(["--compiled"] if compiled else []))
    manifest = read_manifest(Path("out"), target="torch")
    part, parity = manifest["parts"]["thinker"], manifest["parity"]["thinker"]
    assert parity["rows"]["source"] == "rows.txt"
    assert parity["max_abs_difference"] < 1e-4
    assert parity["results"]["equal"] == parity["results"]["count"] == 4
    assert part["milliseconds"].keys() == {"eager", "archive", *(["compiled"] if compiled else [])}
    assert {"thinker.pt2", *(["thinker.compiled.pt2"] if compiled else [])} <= manifest["files"].keys()
    if compiled:
        assert parity["compiled"]["max_abs_difference"] < 1e-4
    vocabulary = read_vocabulary(Path("out"), part["vocabulary"])
    tokens = torch.tensor([vocabulary.encode("the cat")])
    thinker = toy_thinker()
    empty = torch.zeros(2, 2, 1, 2, 0, 8)
    logits, _ = load_archive(Path("out/thinker.pt2"))(tokens=tokens, past=empty)
    torch.testing.assert_close(logits, thinker(tokens).logits, atol=1e-4, rtol=0)
    assert "outputs within" in capsys.readouterr().out


@pytest.mark.slow
def test_recogniser_and_classifier_on_held_out_rows(fit_audio, fit_vision):
    fit_audio(trainer__max_steps=1)
    fit_vision(trainer__max_steps=1)
    for stage, name in (("audio", "recognizer"), ("vision", "image_classifier")):
        export(f"lightning_logs/{stage}/last.ckpt")
        parity = json.loads(Path("out/manifest.json").read_text())["parity"][name]
        assert parity["max_abs_difference"] < 1e-3
        assert parity["results"]["equal"] == parity["results"]["count"] > 0
        assert not parity["rows"]["random"]


class TestBadInput:
    def test_a_difference_fails_and_leaves_nothing(self, saved: str, fails, monkeypatch):
        step = ThinkerPart(Checkpoint(saved)).graph.module

        def off(**inputs: torch.Tensor) -> Any:
            with torch.no_grad():
                logits, past = step(**inputs)
            return logits + 0.01, past

        monkeypatch.setattr(torch_folder, "write_archive", lambda graph, path: path.touch())
        monkeypatch.setattr(torch_folder, "load_archive", lambda path: off)
        assert "differs from PyTorch by 0.01" in fails(export, saved, "--rows", "rows.txt")
        assert {path.name for path in Path().iterdir()} == {"a.ckpt", "rows.txt", "corpus.txt"}

    def test_options_that_do_not_fit(self, saved: str, fails, monkeypatch):
        assert "--int8 is of --to onnx" in fails(export, saved, "--int8")
        assert "--opset is of --to onnx" in fails(export, saved, "--opset", "20")
        assert "--compiled is of --to torch" in fails(main, ["export", saved, "--to", "hf", "--compiled"])
        monkeypatch.setattr(torch_folder, "has_compiler", lambda: False)
        assert "install g++" in fails(export, saved, "--compiled")
