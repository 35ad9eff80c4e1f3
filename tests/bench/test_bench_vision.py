"""The benchmark of the vision encoder: equal sizes, and a table of the measurements."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from omni.bench.race import count_parameters
from omni.bench.vision import VisionRace, build_model
from omni.cli import main
from omni.devices import has_compiler

TOY = {"image_size": 32, "patch_size": 8, "dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 64, "stem_width": 4}


def test_models_have_equal_size_and_number_of_classes():
    tiny = Path(__file__).parents[2] / "configs/models/tiny/vision_encoder.yaml"
    for options in (TOY, yaml.safe_load(tiny.read_text(encoding="utf-8"))):
        patch, theirs = build_model("patch", options).eval(), build_model("torchvision", options).eval()
        sizes = [count_parameters(model) for model in (patch, theirs)]
        assert abs(sizes[0] - sizes[1]) <= 0.02 * sizes[1]
    images = torch.rand(2, 3, 32, 32)
    for name in ("patch", "conv", "torchvision"):
        assert build_model(name, TOY).eval()(images).shape == (2, 1000)


def test_the_race_prints_and_writes_its_table(workplace, capsys):
    Path("toy.yaml").write_text(yaml.safe_dump(TOY))
    options = "--size toy.yaml --repeats 1 --steps 1 --batch 2 --compiled false --json report.json"
    results = main(["bench", "vision", *options.split()]).results
    printed = capsys.readouterr().out
    measures = ["training", "inference", "inference"]
    assert [result.measure.split(",")[0] for result in results] == [*measures, *measures, "data pipeline"]
    for result, row in zip(results, json.loads(Path("report.json").read_text())["results"], strict=True):
        assert result.measure in printed
        omni, torchvision = result.values.values()
        assert row["ratios"] == result.ratios == {"torchvision": [pytest.approx(omni / torchvision)]}
        assert omni > 0


@pytest.mark.slow
@pytest.mark.filterwarnings(  # raised by the compiler itself
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.skipif(not has_compiler("cpu"), reason="there is no C++ compiler")
def test_training_is_compared_compiled_too(workplace):
    Path("toy.yaml").write_text(yaml.safe_dump(TOY))
    results = VisionRace(size="toy.yaml", repeats=1, steps=1, batch=2).run().results
    found = [result.measure for result in results if result.measure.endswith("both compiled")]
    assert found == ["training, patch stem, both compiled", "training, conv stem, both compiled"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--size", "huge"], "neither a folder of configs/models"), (["--repeats", "0"], "repeats is 0")],
)
def test_bad_arguments_end_in_one_line(fails, arguments, words):
    assert words in fails(main, ["bench", "vision", *arguments])
