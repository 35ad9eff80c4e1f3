"""Every YAML that is shipped: it parses, builds what it names, and is counted."""

from pathlib import Path

import pytest
import torch
import yaml

from omni.models.audio_encoder import AudioEncoder
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.stages.stage import Stage

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(CONFIGS.glob("models/*/*.yaml"))
STAGES = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "models" not in path.parts and path.name != "base.yaml"]
PARTS = {"thinker": Thinker, "audio_encoder": AudioEncoder, "talker": Talker}


def test_all_files_were_found():
    assert len(MODELS) == 18
    assert len(STAGES) == 10
    assert {path for path in CONFIGS.rglob("*") if path.is_file()} == {*MODELS, *STAGES, CONFIGS / "base.yaml"}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_model_sizes_build(path):
    with torch.device("meta"):
        part = PARTS[path.stem](**yaml.safe_load(path.read_text(encoding="utf-8")))
    assert part.num_parameters > 1e6


@pytest.mark.parametrize("name", PARTS)
def test_sizes_of_a_part_name_the_same_arguments(name):
    """One size given over another is merged with it: an argument that only the other names would stay."""
    files = [path for path in MODELS if path.stem == name]
    assert len({frozenset(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files}) == 1


@pytest.mark.parametrize("path", STAGES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_stages_build(path, monkeypatch):
    from omni.training import OmniCLI

    monkeypatch.setattr(
        "sys.argv", ["omni", "--config", str(path), "--trainer.logger=false", "--trainer.accelerator=cpu"]
    )
    with torch.device("meta"):
        cli = OmniCLI(run=False)
    assert isinstance(cli.model, Stage)
    assert cli.model.parts
    assert cli.trainer.gradient_clip_val == 1.0  # base.yaml lies under it
