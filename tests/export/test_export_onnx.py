"""`omni export --to onnx`: graphs equal PyTorch on the run's held-out rows, or the folder is not kept."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_export import WORDS, pieces, save, toy_thinker

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.errors import UserError
from omni.export import onnx_folder
from omni.export.int8 import Variant, choose, measure
from omni.export.parts.image_classifier import ImageClassifierPart
from omni.export.parts.part import Pictured, Rows
from omni.export.parts.thinker import ThinkerPart
from omni.models.classifier import Classifier
from omni.models.vision_encoder import VisionEncoder
from omni.runtime.manifest import read_manifest
from omni.runtime.vocabulary import read_vocabulary, write_vocabulary
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import ByteTokenizer


def export(*args: str) -> None:
    main(["export", *args, "--to", "onnx", "--out", "out"])


@pytest.mark.slow
def test_each_stage_with_its_held_out_rows(fit, fit_audio, fit_vision, trained: str):
    fit_audio(trainer__max_steps=1)
    fit_vision(trainer__max_steps=1)
    for stage, name, source, metric in (
        ("thinker", "thinker", "corpus.txt", "loss"),
        ("audio", "recognizer", "speech/val.jsonl", "wer"),
        ("vision", "image_classifier", "pictures/val", "accuracy"),
    ):
        export(f"lightning_logs/{stage}/last.ckpt", "--int8")
        manifest = read_manifest(Path("out"), target="onnx")
        part, parity = manifest["parts"][name], manifest["parity"][name]
        assert parity["max_abs_difference"] < 1e-3
        assert parity["results"]["equal"] == parity["results"]["count"] > 0
        assert parity["rows"] | {"source": None} == {**parity["rows"], "source": None}
        assert parity["rows"]["source"].startswith(source)
        assert parity["quality"]["metric"] == metric
        assert part["variants"]["int8"]["quality"]["metric"] == metric
        assert {part["file"], part["variants"]["int8"]["file"]} <= manifest["files"].keys()
        assert part["chosen"] in ("fp32", "int8")
        if "vocabulary" in part:
            vocabulary = read_vocabulary(Path("out"), part["vocabulary"])
            assert vocabulary.fingerprint == manifest["tokenizer"]["fingerprint"]


@pytest.mark.slow
def test_another_opset_and_random_input(workplace: Path):
    import onnx

    export(save(Path("a.ckpt"), toy_thinker(), pieces()), "--opset", "21")
    manifest = json.loads(Path("out/manifest.json").read_text())
    parity = manifest["parity"]["thinker"]
    assert parity["rows"]["source"].startswith("random input: the run names no data")
    assert parity["quality"] is None
    opsets = {each.domain: each.version for each in onnx.load("out/thinker.onnx").opset_import}
    assert opsets[""] == manifest["parts"]["thinker"]["opset"] == 21


def part_and_run(path: Path) -> tuple[ThinkerPart, Any]:
    part = ThinkerPart(Checkpoint(save(path, toy_thinker(), pieces())))
    return part, part.module_run()


def test_a_difference_or_another_result_fails(tmp_path: Path):
    part, run = part_and_run(tmp_path / "a.ckpt")
    rows = Rows(WORDS[:3], "rows.txt")
    assert onnx_folder.compare(part, run, rows)["max_abs_difference"] == 0

    def run_off(inputs: Any) -> Any:
        logits, past = run(inputs)
        return [logits + np.float32(0.01), past]

    with pytest.raises(UserError, match=r"differs from PyTorch by 0.01 .* rows.txt; nothing was written"):
        onnx_folder.compare(part, run_off, rows)

    def run_nan(inputs: Any) -> Any:
        return [output * np.float32("nan") for output in run(inputs)]

    with pytest.raises(UserError, match="differs from PyTorch by nan"):
        onnx_folder.compare(part, run_nan, rows)

    def run_without_past(inputs: Any) -> Any:  # right for a first step
        logits, past = run(inputs)
        return [logits if inputs["tokens"].shape[1] > 1 else -logits, past]

    with pytest.raises(UserError, match=r"the exported thinker gives .* for row 1 of rows.txt, and PyTorch"):
        onnx_folder.compare(part, run_without_past, rows)


def test_the_loss_is_that_of_the_model(tmp_path: Path):
    part, run = part_and_run(tmp_path / "a.ckpt")
    total, count = 0.0, 0
    for text in WORDS[:3]:
        tokens = torch.tensor([[1, *part.tokenizer.encode(text)]])
        logits = part.thinker(tokens).logits[0, :-1].detach()
        total, count = total + float(F.cross_entropy(logits, tokens[0, 1:], reduction="sum")), count + len(logits)
    quality = part.quality(run, WORDS[:3])
    assert quality.value == pytest.approx(total / count, rel=1e-5)
    assert quality.low < quality.value < quality.high


def test_accuracy_is_over_all_labels_in_any_order(pictures: Path):
    attributes = [("colour", ["blue", "red"], False), ("has", ["line", "spot"], True)]
    encoder = VisionEncoder(image_size=16, patch_size=8, stem_width=4, dim=16, num_layers=1, num_heads=2, ffn_dim=32)
    parts = {"vision_encoder": encoder, "classifier": Classifier(dim=16, num_classes=4)}
    state = {f"{name}.{key}": w for name, part in parts.items() for key, w in part.state_dict().items()}
    content = {
        "state_dict": state,
        "parts": {name: part.recipe for name, part in parts.items()},
        "tokenizer": ByteTokenizer().state(),
        "lineage": {},
        "images": {"size": 16, "fit": "pad", "attributes": attributes},
    }
    part = ImageClassifierPart(Checkpoint("a.ckpt", content))
    image = torch.zeros(3, 9, 4, dtype=torch.uint8)
    items = [
        Pictured(image, {"colour": "red", "has": ("spot", "line")}),  # both right
        Pictured(image, {"colour": "blue", "has": ("spot",)}),  # both wrong
        Pictured(image, {"colour": "red"}),
    ]
    scores = np.array([[-1.0, 1.0, 2.0, 3.0]] * 3, dtype=np.float32)
    quality = part.quality(lambda inputs: [scores[: len(inputs["images"])]], items)
    assert (quality.metric, quality.value, quality.rows) == ("accuracy", 3 / 5, 3)


@pytest.mark.parametrize(
    ("metric", "quality", "small", "fast", "chosen"),
    [
        ("wer", 0.04, 0.0429, 2.0, "int8"),
        ("wer", 0.04, 0.0431, 2.0, "fp32"),
        ("wer", 0.04, 0.03, 2.0, "int8"),
        ("wer", 0.04, 0.04, 1.05, "fp32"),
        ("accuracy", 0.8, 0.796, 2.0, "int8"),
        ("accuracy", 0.8, 0.794, 2.0, "fp32"),
    ],
)
def test_int8_is_chosen_only_where_it_is_faster_and_as_good(metric, quality, small, fast, chosen):
    allowed = 0.003 if metric == "wer" else 0.005
    measured = {
        "fp32": {"milliseconds": 10.0, "quality": {"metric": metric, "value": quality}},
        "int8": {"milliseconds": 10.0 / fast, "quality": {"metric": metric, "value": small}},
    }
    assert choose(allowed, measured)[0] == chosen
    worse = abs(small - quality) > allowed and (small < quality) == (metric == "accuracy")
    sized = {name: {**one, "bytes": size} for (name, one), size in zip(measured.items(), (40, 10), strict=True)}
    assert choose(allowed, sized, smaller=True)[0] == ("fp32" if worse else "int8")
    measured["int8"]["quality"] = None
    assert choose(allowed, measured)[0] == "fp32"


def test_rows_without_input_are_not_timed(tmp_path: Path):
    """A conversation without a picture has nothing for the graph of pictures."""
    part: Any = SimpleNamespace(inputs=lambda items: ({"x": np.full(1, one)} for one in items if one))
    (tmp_path / "a.onnx").write_bytes(b"1234")
    seen = []

    def run(inputs):
        seen.append(float(inputs["x"][0]))
        return []

    found = measure(part, {"fp32": Variant(tmp_path / "a.onnx", run)}, [0, 0, 3, 4])
    assert set(seen) == {3.0}
    assert found["fp32"]["bytes"] == 4
    assert found["fp32"]["milliseconds"] >= 0


@pytest.mark.parametrize(
    "vocabulary",
    [ByteTokenizer(), pieces(), CharacterVocabulary("ab'", TextNormalization(case="upper", digits="keep"))],
    ids=["bytes", "sentencepiece", "characters"],
)
def test_vocabularies_are_read_back_and_others_are_refused(tmp_path: Path, vocabulary: Any):
    entry = write_vocabulary(vocabulary, tmp_path, "part")
    assert read_vocabulary(tmp_path, entry).state() == vocabulary.state()
    with pytest.raises(UserError, match="another vocabulary"):
        read_vocabulary(tmp_path, {**entry, "fingerprint": "0" * 64})
    (tmp_path / entry["file"]).write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        read_vocabulary(tmp_path, entry)


class TestBadInput:
    @pytest.fixture
    def saved(self, workplace: Path) -> str:
        return save(Path("a.ckpt"), toy_thinker(), pieces())

    def test_opsets(self, saved: str, fails):
        assert "--opset 17 is too old: the graphs need 20" in fails(export, saved, "--opset", "17")
        assert "--opset 99 is not known to onnx" in fails(export, saved, "--opset", "99")
        assert not Path("out").exists()

    @pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
    def test_a_missing_package(self, saved: str, fails, monkeypatch, package: str):
        monkeypatch.setitem(sys.modules, package, None)
        line = fails(export, saved)
        assert "[export]" in line
        assert package in line

    def test_nothing_to_export(self, workplace: Path, fails):
        checkpoint = Checkpoint(save(Path("a.ckpt"), toy_thinker(), pieces()))
        recipe = {"class_path": "omni.models.pretrained.thinker.PretrainedThinker", "init_args": {}}
        content = checkpoint.content | {"parts": {"thinker": recipe, "talker": {}}}
        with pytest.raises(UserError, match=r"pretrained model.*its parts: talker, thinker; what can be exported: an"):
            onnx_folder.find_parts(Checkpoint("a.ckpt", content))

    def test_options_that_do_not_fit(self, saved: str, fails):
        assert "--opset is of --to onnx" in fails(main, ["export", saved, "--to", "hf", "--opset", "20"])
        assert "does not exist" in fails(export, saved, "--rows", "none.txt")
