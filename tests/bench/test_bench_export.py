"""`omni bench export`: every part in every runtime, compared with PyTorch."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy_export import SIZES, pieces, save, toy_thinker

from omni.bench import export
from omni.bench.export import ExportReport
from omni.bench.export_memory import peak_of
from omni.bench.export_runtimes import Omni, Runtime, Transformers
from omni.cli import main
from omni.devices import has_compiler
from omni.export.graphs import Graph

AUDIO = {"num_mels": 16, "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "conv_channels": 4}
CODEC = {"num_mels": 16, "dim": 16, "num_codebooks": 3, "codebook_size": 12}
VOCODER = {"num_mels": 16, "dim": 16, "num_layers": 1}
TALKER = {"vocab_size": 8, "num_codebooks": 3, "codebook_size": 12, "frame_rate": 25.0, "dim": 16, "num_layers": 1}
TALKER |= {"num_heads": 2, "num_kv_heads": 2, "ffn_dim": 24, "text_layers": 1, "text_ffn_dim": 24}
VISION = {"image_size": 16, "patch_size": 8, "stem_width": 4, "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}


@pytest.fixture
def configs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of toy sizes, as `configs`."""
    folder = workplace / "configs/models/toy"
    folder.mkdir(parents=True)
    sizes: dict[str, Any] = {"audio_encoder": AUDIO, "vision_encoder": VISION, "thinker": SIZES | {"vocab_size": 352}}
    sizes |= {"codec": CODEC, "vocoder": VOCODER, "talker": TALKER}
    for name, options in sizes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    monkeypatch.setattr("omni.bench.race.CONFIGS", workplace / "configs")
    return folder


def bench(*options: str) -> ExportReport:
    return main(
        ["bench", "export", "--size", "toy", "--repeats", "2", "--calls", "2", "--decode_tokens", "3", *options]
    )


def wrong(graph: Graph, folder: Path, **_: Any) -> dict[str, Any]:
    """PyTorch, and a runtime that is off by 0.5."""

    def run(**inputs: torch.Tensor) -> Any:
        found = graph.module(**inputs)
        if isinstance(found, tuple):
            return tuple(one + 0.5 if one.is_floating_point() else one for one in found)
        return found + 0.5

    return {"PyTorch": lambda: Runtime(graph.module), "wrong": lambda: Runtime(run, 2048)}


def test_all_parts_are_timed_and_compared(configs: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(export, "runtimes", wrong)
    monkeypatch.setattr(export, "peak_of", lambda kind, *_, **__: {"omni": 5 << 20}[kind])
    report = bench("--json", "found.json")
    assert [(one.part, one.runtime) for one in report.results] == [
        (part, name) for part in export.PARTS for name in ("PyTorch", "wrong", *(["omni"] if part == "thinker" else []))
    ]
    for one in report.results:
        assert one.milliseconds > 0
        assert len(one.speedups) == 2
        assert one.speedups == [1.0, 1.0] or one.runtime != "PyTorch"
        assert one.difference == pytest.approx(0.5 if one.runtime == "wrong" else 0, abs=1e-6)
    printed = capsys.readouterr().out
    assert "2.0 KiB" in printed or "2 KiB" in printed
    assert "5.0 MiB" in printed or "5 MiB" in printed
    written = json.loads(Path("found.json").read_text())["results"]
    assert [one["memory"] for one in written] == [None] * 6 + [5 << 20] + [None] * 8


def test_memory_is_the_peak_of_a_process_of_its_own(tmp_path: Path):
    helper = pytest.importorskip("onnx").helper
    values = [helper.make_tensor_value_info(name, 1, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negated", values[:1], values[1:])
    path = tmp_path / "graph.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString())
    small, large = (peak_of("onnx", path, {"x": np.ones(size, dtype=np.float32)}, threads=1) for size in (1, 16 << 20))
    assert small > 0
    assert large - small > 2 * (64 << 20)  # the input and the output
    path.write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match=r"cannot run as onnx in a process of its own"):
        peak_of("onnx", path, {"x": np.ones(1, dtype=np.float32)}, threads=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporters' own use of PyTorch
@pytest.mark.parametrize("part", export.PARTS)
def test_runtimes_equal_pytorch(part: str, configs: Path):
    report = bench("--parts", part, "--compiled", "false")
    found = {one.runtime: one for one in report.results}
    assert [*found] == ["PyTorch", "torch.export", "ONNX", "ONNX int8", *(["omni"] if part == "thinker" else [])]
    assert 1e-4 < found.pop("ONNX int8").difference < 1
    assert all(one.difference < 1e-4 for one in found.values())
    assert [name for name, one in found.items() if one.size] == ["torch.export", "ONNX"]
    memory = {name: one.memory or 0 for name, one in found.items()}
    assert min(memory.values()) > 0
    assert memory.pop("ONNX") < min(memory.values())  # it has no PyTorch


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the compilers' own
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_compilers_equal_pytorch(configs: Path):
    report = bench("--parts", "classifier")
    found = {one.runtime: one for one in report.results}
    assert [*found] == ["PyTorch", "compiled", "torch.export", "AOTInductor", "ONNX", "ONNX int8"]
    for name in ("compiled", "AOTInductor"):
        assert found[name].difference < 1e-4
        assert found[name].memory
        assert found[name].milliseconds > 0
    assert found["AOTInductor"].size


def test_engines_decode_alike(workplace: Path):
    pytest.importorskip("transformers")
    thinker = toy_thinker()
    main(["export", save(Path("a.ckpt"), thinker, pieces()), "--to", "hf", "--out", "out"])
    omni, transformers = Omni(thinker), Transformers(Path("out"))
    prompt = [1, 300, 301, 302]
    torch.testing.assert_close(omni.logits(prompt), transformers.logits(prompt), atol=1e-4, rtol=0)
    assert omni.decode(prompt, 12) == transformers.decode(prompt, 12)
    assert len(omni.decode(prompt, 12)) == 12


def test_a_missing_engine_is_reported_before_the_exports(configs: Path, fails, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("transformers")
    main(["export", save(Path("a.ckpt"), toy_thinker(), pieces()), "--to", "hf", "--out", "out"])
    monkeypatch.setattr(export, "runtimes", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    line = fails(bench, "--parts", "thinker", "--hf", "out", "--gguf", "a.gguf")
    assert "pip install llama-cpp-python" in line


def test_bad_input(configs: Path, fails):
    assert "'speaker' is none of recognizer" in fails(bench, "--parts", "thinker,speaker")
    assert "gguf needs hf" in fails(bench, "--gguf", "a.gguf")
    assert "seconds is 0.0" in fails(bench, "--seconds", "0")
    assert "is not a folder" in fails(bench, "--hf", "nowhere/at/all", "--parts", "thinker")
    assert "size 'huge' is neither" in fails(bench, "--size", "huge")
