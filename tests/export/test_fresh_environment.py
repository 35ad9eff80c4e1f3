"""Exported graphs run in a new virtual environment that has onnxruntime and readers of media, and neither PyTorch nor
omni's other dependencies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import tones
from PIL import Image
from test_whole import save_recognizer, save_vocoder
from toy_assistant import save_omni
from toy_export import WORDS, pieces, save, toy_thinker
from toy_voice import save_talker

import omni
from omni.cli import main
from omni.decoding.sampling_options import Sampling
from omni.models.classifier import Classifier
from omni.models.vision_encoder import VisionEncoder
from omni.text.tokenizer import ByteTokenizer

pytestmark = pytest.mark.slow
ROOT = Path(omni.__file__).parents[1]
HOST = Path(__file__).parents[1] / "fresh_host.py"
PACKAGES = ["numpy", "onnxruntime", "soundfile", "sentencepiece", "pillow"]
SAMPLINGS = [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2}]


@pytest.fixture(scope="module", name="python")
def fresh_environment(tmp_path_factory):
    """The interpreter of an environment that holds `PACKAGES` alone, in the versions of constraints.txt."""
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    options = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "30"]
    wanted = ["--constraint", str(ROOT / "constraints.txt"), *PACKAGES]
    done = subprocess.run(
        [str(python), "-m", "pip", "install", *options, *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"pip cannot install the packages: {done.stderr.strip().splitlines()[-1]}")
    return python


def save_classifier(path: Path) -> str:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "stem_width": 4, "dim": 16, "num_layers": 1, "num_heads": 2}
    parts = {"vision_encoder": VisionEncoder(**sizes, ffn_dim=32), "classifier": Classifier(dim=16, num_classes=4)}
    attributes = [("colour", ["blue", "red"], False), ("has", ["line", "spot"], True)]
    content = {
        "state_dict": {f"{name}.{key}": w for name, part in parts.items() for key, w in part.state_dict().items()},
        "parts": {name: part.recipe for name, part in parts.items()},
        "tokenizer": ByteTokenizer().state(),
        "lineage": {},
        "images": {"size": 16, "fit": "pad", "attributes": attributes},
    }
    torch.save(content, path)
    return str(path)


@pytest.fixture(scope="module", name="made")
def exported_folders(tmp_path_factory):
    """Checkpoints and exported folders: a whole model of four checkpoints, an image classifier, and a Thinker."""
    folder = tmp_path_factory.mktemp("made")
    save_talker(folder / "talker.ckpt", num_speakers=3)
    checkpoints = {
        "whole": save_omni(folder / "omni.ckpt"),
        "classifier": save_classifier(folder / "vision.ckpt"),
        "thinker": save(folder / "thinker.ckpt", toy_thinker(), pieces()),
        "recognizer": save_recognizer(folder / "audio.ckpt"),
    }
    speech = ["--voice", str(folder / "talker.ckpt"), "--vocoder", save_vocoder(folder / "vocoder.ckpt")]
    options = {
        "whole": [*speech, "--recognizer", checkpoints["recognizer"]],
        "classifier": ["--int8"],
        "thinker": ["--int8"],
    }
    for name, more in options.items():
        main(["export", checkpoints[name], "--to", "onnx", "--out", str(folder / name), *more])
    return {"folder": folder, "checkpoints": checkpoints}


def host(python: Path, *arguments: str, path: str | None = None):
    """The result of a job of `fresh_host.py`, which cannot import PyTorch.

    Args:
        python: The interpreter.
        arguments: The job.
        path: PYTHONPATH; without one, the interpreter is isolated from the environment's variables.
    """
    program = [str(python), *([] if path else ["-I"]), str(HOST), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env=environment | ({"PYTHONPATH": path} if path else {})
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["torch"]
    assert {*PACKAGES} <= {*found["packages"]}
    assert not {"torch", "pyyaml", "lightning", "jsonargparse", "inflect"} & {*found["packages"]}
    return found["result"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "whole",
            "image_embeddings audio_embeddings omni_thinker talker_text talker codec_encoder codec_decoder "
            "vocoder recognizer",
        ),
        ("classifier", "image_classifier"),
        ("thinker", "thinker"),
    ],
)
def test_every_graph_runs_by_onnxruntime_alone(python: Path, made, name: str, parts: str):
    folder = made["folder"] / name
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert [*manifest["parts"]] == parts.split()
    found = host(python, "graphs", str(folder))
    variants = ["fp32"] if name == "whole" else ["fp32", "int8"]
    assert [*found] == [f"{part} {variant}" for part in manifest["parts"] for variant in variants]
    for graph, run in found.items():
        declared = manifest["parts"][graph.split()[0]]["outputs"]
        assert len(run["outputs"]) == len(declared) > 0
        for output, one in zip(run["outputs"], declared, strict=True):
            assert output["finite"], (graph, one["name"])
            assert len(output["shape"]) == len(one["shape"])
            for size, axis in zip(output["shape"], one["shape"], strict=True):
                wanted = axis if isinstance(axis, int) else run["sizes"].get(axis)
                assert size == wanted or wanted is None, (graph, one["name"])  # None: a size that is computed


def test_omni_runtime_gives_what_omni_gives(python: Path, made, tmp_path: Path):
    folder, checkpoints = made["folder"], made["checkpoints"]
    noise = np.random.default_rng(0)
    for number, rate in enumerate((16_000, 22_050)):
        samples = 0.5 * np.asarray(tones("abc" if number else "cab"))
        soundfile.write(tmp_path / f"{number}.wav", samples + noise.normal(0, 0.02, len(samples)), rate)
    for number, shape in enumerate(((20, 33, 3), (40, 16, 3))):
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    given = {
        "recognizer": str(folder / "whole"),
        "audio": [str(tmp_path / f"{number}.wav") for number in range(2)],
        "classifier": str(folder / "classifier"),
        "images": [str(tmp_path / f"{number}.png") for number in range(2)],
        "generators": [str(folder / "thinker"), str(folder / "whole")],
        "prompts": WORDS[:3],
        "samplings": SAMPLINGS,
    }
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    found = host(python, "omni", str(tmp_path / "given.json"), path=str(ROOT))

    transcripts = omni.transcribe(given["audio"], checkpoints["recognizer"], device="cpu")
    assert found["transcripts"] == [one.text for one in transcripts]
    assert all(found["transcripts"])
    classes = omni.classify(given["images"], checkpoints["classifier"], device="cpu")
    for one, wanted in zip(found["classes"], classes, strict=True):
        assert [*one] == [*wanted] == ["colour", "has"]
        for attribute, shares in wanted.items():
            assert one[attribute] == pytest.approx(shares, abs=1e-3)
    models = [omni.load(checkpoints[name], device="cpu") for name in ("thinker", "whole")]
    assert found["texts"] == [
        model.generate(given["prompts"], max_tokens=24, sampling=Sampling(**sampling))
        for model in models
        for sampling in SAMPLINGS
    ]
    assert len({text for texts in found["texts"] for text in texts}) > 3
