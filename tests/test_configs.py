"""Every YAML that is shipped: it parses, builds what it names, and is counted."""

from pathlib import Path

import pytest
import torch
import yaml

from omni.data.world.images import image_row
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec
from omni.models.discriminators import Discriminators
from omni.models.omni import Omni
from omni.models.projector import Projector
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.models.vocoder import Vocos
from omni.stages.stage import Stage

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(CONFIGS.glob("models/*/*.yaml"))
CHAINS = [CONFIGS / name for name in ("chain.yaml", "world/chain.yaml", "world/smoke.yaml")]
NO_STAGES = {CONFIGS / "base.yaml", *CHAINS}
STAGES = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "models" not in path.parts and path not in NO_STAGES]
PARTS = {
    "thinker": Thinker,
    "audio_encoder": AudioEncoder,
    "vision_encoder": VisionEncoder,
    "codec": Codec,
    "talker": Talker,
    "vision_projector": Projector,
    "audio_projector": Projector,
    "vocoder": Vocos,
    "discriminators": Discriminators,
}


def test_all_files_were_found():
    assert len(MODELS) == 54
    assert len(STAGES) == 22
    assert {path for path in CONFIGS.rglob("*") if path.is_file()} == {*MODELS, *STAGES, *NO_STAGES}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_model_sizes_build(path):
    with torch.device("meta"):
        part = PARTS[path.stem](**yaml.safe_load(path.read_text(encoding="utf-8")))
    assert part.num_parameters > (5e4 if isinstance(part, Projector) else 1e5)


def test_the_thinker_sees_an_image_as_49_to_64_tokens():
    for path in CONFIGS.glob("models/*/vision_encoder.yaml"):
        with torch.device("meta"):
            encoder = VisionEncoder(**yaml.safe_load(path.read_text(encoding="utf-8")))
            tokens = encoder.tokens(torch.zeros(1, 3, encoder.image_size, encoder.image_size))
        assert tokens.shape == (1, encoder.num_tokens, encoder.token_dim)
        assert 49 <= encoder.num_tokens <= 64


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODELS}), ids=lambda path: path.name)
def test_projectors_fit_the_parts_of_their_size(folder):
    with torch.device("meta"):
        parts = {name: PARTS[name](**yaml.safe_load((folder / f"{name}.yaml").read_text())) for name in PARTS}
    names = ("thinker", "vision_encoder", "vision_projector", "audio_encoder", "audio_projector")
    assert Omni(**{name: parts[name] for name in names}).layout.image_grid


@pytest.mark.parametrize("name", PARTS)
def test_sizes_of_a_part_name_the_same_arguments(name):
    """One size given over another is merged with it: an argument that only the other names would stay."""
    files = [path for path in MODELS if path.stem == name]
    assert len({frozenset(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files}) == 1


def test_the_world_has_as_many_classes_as_its_classifier():
    config = yaml.safe_load((CONFIGS / "world/vision.yaml").read_text(encoding="utf-8"))
    found = set()
    for index in range(600):
        for name, value in image_row(0, "train", index)["labels"].items():
            found |= {(name, each) for each in (value if isinstance(value, list) else [value])}
    assert config["model"]["init_args"]["classifier"]["init_args"]["num_classes"] == len(found)


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
