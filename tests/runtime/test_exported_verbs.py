"""The verbs on an exported folder: the output of the checkpoint, without PyTorch; and what cannot be used."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_assistant import save_omni
from toy_export import WORDS, pieces, save, toy_thinker
from without_torch import without_torch

from omni.cli import main
from omni.errors import UserError
from omni.runtime import Recognizer, TextGenerator
from omni.runtime import exported as runtime_exported
from omni.runtime.exported import ExportedPart
from omni.runtime.vocabulary import write_vocabulary
from omni.text.tokenizer import ByteTokenizer

# The exporter's own use of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.slow
def test_transcribe(fit_audio: Any, capsys: pytest.CaptureFixture[str]):
    fit_audio(trainer__max_steps=60)
    main(["export", "lightning_logs/audio/best.ckpt", "--to", "onnx", "--out", "out"])
    files = sorted(map(str, Path("speech").glob("val-*.wav")))
    long = ["--window", "0.64", "--overlap", "0.32"]
    for options in ([], ["--beam", "1"], ["--format", "json"], long):
        capsys.readouterr()
        main(["transcribe", *files, "--checkpoint", "lightning_logs/audio/best.ckpt", *options])
        expected = capsys.readouterr().out
        assert without_torch("transcribe", *files, "--checkpoint", "out", *options) == expected
    assert len(set(expected.splitlines())) > 1
    assert [one.text for one in Recognizer("out").transcribe(files)] == [
        line.split(": ", 1)[1] for line in without_torch("transcribe", *files, "--checkpoint", "out").splitlines()
    ]


@pytest.mark.slow
def test_classify(fit_vision: Any, capsys: pytest.CaptureFixture[str]):
    fit_vision()
    main(["export", "lightning_logs/vision/best.ckpt", "--to", "onnx", "--out", "out"])
    files = sorted(map(str, Path("pictures/val").glob("*/*.png")))
    capsys.readouterr()
    main(["classify", *files, "--checkpoint", "lightning_logs/vision/best.ckpt", "--top", "1"])
    expected = capsys.readouterr().out
    found = without_torch("classify", *files, "--checkpoint", "out", "--top", "1")
    assert [line.rsplit(" ", 1)[0] for line in found.splitlines()] == [
        line.rsplit(" ", 1)[0] for line in expected.splitlines()
    ]


@pytest.mark.slow
def test_generate(workplace: Path, capsys: pytest.CaptureFixture[str]):
    saved = save(Path("a.ckpt"), toy_thinker(), pieces())
    answering = save_omni(Path("e.ckpt"), template="chat")
    for checkpoint in (saved, answering):
        main(["export", checkpoint, "--to", "onnx", "--out", "out"])
        options = ["--max_tokens", "24", "--text", json.dumps(WORDS[:3])]
        for more in (["--temperature", "0"], ["--temperature", "0.9", "--top_k", "30", "--repetition_penalty", "1.3"]):
            capsys.readouterr()
            main(["generate", "--checkpoint", checkpoint, *options, *more, "--device", "cpu"])
            expected = capsys.readouterr().out
            assert without_torch("generate", "--checkpoint", "out", *options, *more) == expected
    assert "".join(TextGenerator("out").answer(WORDS[0], max_tokens=24))


def folder_of(path: Path, part: str = "thinker", target: str = "onnx", **entry: Any) -> Path:
    """An export whose graph is no graph."""
    path.mkdir()
    (path / "graph.onnx").write_bytes(b"12345")
    entry = {"constants": {}, "chosen": "fp32", "variants": {"fp32": {"file": "graph.onnx"}}} | entry
    manifest = {
        "format": "omni-export",
        "target": target,
        "parts": {part: entry},
        "files": {"graph.onnx": {"bytes": 5}},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


class TestBadInput:
    def test_folders(self, workplace: Path, fails):
        def line(*args: str) -> str:
            return fails(main, ["generate", "--text", "a", "--checkpoint", *args])

        folder = str(folder_of(Path("out")))
        assert "graph.onnx cannot be loaded by onnxruntime" in line(folder)
        assert "holds no recognizer; its parts: thinker" in fails(main, ["transcribe", "a.wav", "--checkpoint", folder])
        Path("out/graph.onnx").write_bytes(b"1")
        assert "has 1 bytes instead of 5: the export is incomplete" in line(folder)
        assert "is an export for hf, and one for onnx is needed" in line(str(folder_of(Path("hf"), target="hf")))
        assert "corpus.txt is not an export of omni" in line("corpus.txt", "--runtime", "onnx")
        assert "give the checkpoint" in line(folder, "--runtime", "torch")
        Path("out/manifest.json").write_text("{")
        assert "is a folder, not a checkpoint" in line(folder)
        assert "is not an export of omni" in line(folder, "--runtime", "onnx")

    def test_options_that_an_export_does_not_have(self, workplace: Path, fails):
        checkpoint = ["--checkpoint", str(folder_of(Path("out")))]
        for verb, options, expected in (
            ("transcribe", ["a.wav", "--live"], "has no --live"),
            ("transcribe", ["a.wav", "--timestamps", "word"], "has no times of words"),
            ("transcribe", ["a.wav", "--format", "srt"], "has no times of words"),
            ("transcribe", ["a.wav", "--device", "cuda"], "runs on the CPU"),
            ("classify", ["a.png", "--labels", "cat"], "has the trained classes only"),
            ("generate", ["--image", "a.png"], "--image needs a model of stage E"),
            ("generate", ["--speak", "a.wav"], "--speak needs a model of stage E"),
        ):
            assert expected in fails(main, [verb, *options, *checkpoint]), (verb, options)

    def test_another_tokenizer_beside_the_graphs(self, tmp_path: Path, monkeypatch):
        folder = folder_of(tmp_path / "out")
        entry = write_vocabulary(pieces(), folder, "thinker")
        shutil.rmtree(folder)
        constants = {"template": None, "context": 100, "bos": 1, "stop": 2}
        folder = folder_of(tmp_path / "out", vocabulary=entry, constants=constants)
        monkeypatch.setattr(runtime_exported, "open_session", lambda *_, **__: None)
        monkeypatch.setattr(runtime_exported, "run_of", lambda _: None)
        write_vocabulary(ByteTokenizer(), folder, "thinker")
        with pytest.raises(UserError, match=r"is of another vocabulary .* than the graphs beside it"):
            TextGenerator(folder)
        write_vocabulary(pieces(), folder, "thinker")
        with pytest.raises(UserError, match="only continues texts"):
            next(TextGenerator(folder).answer("a"))
        with pytest.raises(UserError, match="has no variant int8 of thinker, but fp32"):
            TextGenerator(folder, variant="int8")

    def test_spectrograms_of_another_version(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(runtime_exported, "open_session", lambda *_, **__: None)
        monkeypatch.setattr(runtime_exported, "run_of", lambda _: None)
        part = ExportedPart(folder_of(tmp_path / "out"), "thinker")
        with pytest.raises(UserError, match="other spectrograms"):
            part.check_mel({"sample_rate": 8000})

    def test_audio_that_is_none(self, tmp_path: Path):
        recognizer = object.__new__(Recognizer)
        recognizer._frame = 0.08
        for faulty in (np.zeros(0, np.float32), np.full(9, np.nan, np.float32), str(tmp_path / "none.wav")):
            ((_, error),) = recognizer.stream([faulty])
            assert isinstance(error, UserError)
