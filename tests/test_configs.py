"""Every shipped YAML file parses, builds its classes, and can be planned."""

import inspect
import json
from pathlib import Path

import pytest
import torch
import toy_pretrained as toy
import yaml
from resolved import CHANGED, KEPT, flat, renamed, resolve, stage_files

from omni.models import projector as projectors
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec
from omni.models.discriminators import Discriminators
from omni.models.omni import Omni
from omni.models.projector import HiddenProjector, Projector
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.models.vocoder import Vocos
from omni.stages.stage import Stage
from omni.sweeps.checks import check_values
from omni.sweeps.definition import read_sweep
from omni.synthetic.images import image_row
from omni.training.configuration import Configuration

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(CONFIGS.glob("models/*/*.yaml"))
LAUNCH = sorted((CONFIGS / "launch").iterdir())  # tested in test_launch.py
_WORLD_CHAINS = ("world/chain", "world/language", "world/smoke", "world/speedrun")
_REAL_CHAINS = ("real/chain", "real/local", "real/medium", "real/small")
CHAINS = [CONFIGS / f"{name}.yaml" for name in ("chain", *_REAL_CHAINS, *_WORLD_CHAINS, "voice", "voice/base")]
SWEEPS = sorted(CONFIGS.glob("sweeps/*.yaml"))
NO_STAGES = {CONFIGS / "base.yaml", *CHAINS, *LAUNCH, *SWEEPS}
STAGES = stage_files()
KINDS = CONFIGS / "models/projector"
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


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Arguments that replace models of the Hub by toys of the width that the projector has."""
    folder = tmp_path_factory.mktemp("elsewhere")
    sources = {"audio_encoder": toy.encoder(folder / "encoder"), "thinker": toy.llm(folder / "llm")}
    pairs = {f"model.init_args.{part}.init_args.source": source for part, source in sources.items()}
    pairs |= {"model.init_args.audio_projector.init_args.in_dim": 16}
    pairs |= {"model.init_args.audio_projector.init_args.out_dim": 32}
    return [f"--{name}={value}" for name, value in pairs.items()]


def test_all_files_were_found():
    assert len(MODELS) == 61
    assert len(STAGES) == 45
    assert {path for path in CONFIGS.rglob("*") if path.is_file()} == {*MODELS, *STAGES, *NO_STAGES}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_sweeps_are_short_and_every_value_is_accepted(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stage in ("thinker", "audio"):  # that the speech LLM starts from: trained before the sweep
        folder = tmp_path / "lightning_logs/world" / stage
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    sweep = read_sweep(path)
    check_values(sweep)
    assert len(path.read_text(encoding="utf-8").splitlines()) < 25
    assert len(SWEEPS) == 9


def part_of(path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "class_path" in config:
        return getattr(projectors, config["class_path"])(**config["init_args"])
    return PARTS[path.stem.removesuffix("_with_thinker")](**config)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_model_sizes_build(path):
    with torch.device("meta"):
        part = part_of(path)
    assert part.num_parameters > (5e4 if isinstance(part, Projector) else 1e5)


def test_tiny_parts_have_the_documented_parameters_or_their_headers_say_how_many():
    documented = {"thinker": 20.3, "audio_encoder": 2.05, "vision_encoder": 0.91, "talker": 2.24}  # millions
    for name, millions in documented.items():
        path = CONFIGS / f"models/tiny/{name}.yaml"
        with torch.device("meta"):
            count = part_of(path).num_parameters / 1e6
        assert f"{count:.2f} M parameters" in path.read_text(encoding="utf-8") or name == "thinker"
        assert (abs(count / millions - 1) < 0.05) == (name in ("thinker", "vision_encoder"))


def test_a_talker_with_a_thinker_is_the_same_and_fits_it():
    plain, told, thinker = (
        yaml.safe_load((CONFIGS / f"models/laptop/{name}.yaml").read_text(encoding="utf-8"))
        for name in ("talker", "talker_with_thinker", "thinker")
    )
    assert told == {**plain, "thinker_dim": thinker["dim"], "thinker_dropout": 0.5}


def test_an_image_is_49_to_64_tokens_and_an_image_of_the_world_16():
    for path in CONFIGS.glob("models/*/vision_encoder.yaml"):
        with torch.device("meta"):
            encoder = VisionEncoder(**yaml.safe_load(path.read_text(encoding="utf-8")))
            tokens = encoder.tokens(torch.zeros(1, 3, encoder.image_size, encoder.image_size))
        assert tokens.shape == (1, encoder.num_tokens, encoder.token_dim)
        least = 16 if path.parent.name == "laptop" else 49
        assert least <= encoder.num_tokens <= 64


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODELS} - {KINDS}), ids=lambda path: path.name)
def test_projectors_fit_the_parts_of_their_size(folder):
    with torch.device("meta"):
        parts = {name: part_of(folder / f"{name}.yaml") for name in PARTS}
    names = ("thinker", "vision_encoder", "vision_projector", "audio_encoder", "audio_projector")
    assert Omni(**{name: parts[name] for name in names}).layout.image_grid


@pytest.mark.parametrize("name", PARTS)
def test_sizes_of_a_part_set_the_same_arguments(name):
    """A size that overrides another is merged with it: an argument that only the other one sets would stay."""
    files = [path for path in MODELS if path.stem == name]
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    assert len({frozenset(config.get("init_args", config)) for config in configs}) == 1


def test_every_projector_has_a_file_with_its_arguments():
    found = {path.stem: part_of(path) for path in KINDS.iterdir()}
    classes = [*Projector.__subclasses__(), *HiddenProjector.__subclasses__()]
    known = {cls for cls in classes if cls.__module__.startswith("omni.") and not inspect.isabstract(cls)}
    assert {type(part) for part in found.values()} == known
    assert all(f"{name}projector" == type(part).__name__.lower() for name, part in found.items())
    for path in KINDS.iterdir():
        shown = yaml.safe_load(path.read_text(encoding="utf-8"))["init_args"].keys()
        own = inspect.signature(type(found[path.stem])).parameters.keys() - {"kwargs"}
        assert shown == own | {"in_dim", "out_dim", "frame_stacking"}, path.stem


def test_the_world_has_as_many_classes_as_its_classifier():
    config = resolve(CONFIGS / "world/vision.yaml")
    found = set()
    for index in range(600):
        for name, value in image_row(0, "train", index)["labels"].items():
            found |= {(name, each) for each in (value if isinstance(value, list) else [value])}
    assert config["model"]["init_args"]["classifier"]["init_args"]["num_classes"] == len(found)


@pytest.mark.parametrize("path", STAGES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_stages_build(path, elsewhere):
    pretrained = path.name.startswith("asr_llm") and path.parent == CONFIGS
    configuration = Configuration(["--config", str(path), *(elsewhere if pretrained else [])])
    with torch.device("meta"):
        stage = configuration.make("model")
    assert isinstance(stage, Stage)
    assert stage.parts
    assert configuration.make("data")
    assert configuration.config["trainer"]["gradient_clip_val"] == 1.0  # set by base.yaml


@pytest.mark.parametrize(
    "line", KEPT.read_text(encoding="utf-8").splitlines(), ids=lambda line: json.loads(line)["name"]
)
def test_resolved_values_are_unchanged(line):
    before = json.loads(line)
    name = before.pop("name")
    old, new = dict(flat(renamed(before))), dict(flat(resolve(CONFIGS / name)))
    differences = {
        key: (old.get(key, "not there"), new.get(key, "not there"))
        for key in old.keys() | new.keys()
        if old.get(key, "not there") != new.get(key, "not there") and not key.startswith(CHANGED.get(name, ()))
    }
    assert not differences


def test_every_configuration_is_compared():
    names = [json.loads(line)["name"] for line in KEPT.read_text(encoding="utf-8").splitlines()]
    assert names == [str(path.relative_to(CONFIGS)) for path in STAGES]


@pytest.mark.parametrize("path", [path for path in STAGES if path.parent.name == "world"], ids=lambda path: path.stem)
def test_files_of_the_world_hold_only_what_they_change(path):
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = dict(flat(resolve((path.parent / own.pop("base")).resolve())))
    own.pop("init_from", None)  # always set as a whole
    assert not [key for key, value in flat(own) if key in base and base[key] == value]
