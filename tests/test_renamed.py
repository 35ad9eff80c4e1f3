"""Renamed and removed arguments: old checkpoints load, and an old YAML key is refused with the new name."""

import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from toy_commands import CONFIGS
from toy_omni import PROJECTORS, toy_omni

import omni
from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.recipe import build
from omni.checkpoints.weights import with_current_names
from omni.cli import main
from omni.errors import UserError
from omni.models.audio_encoder import AudioEncoder
from omni.models.projector import Projector
from omni.renamed import MOVED, REMOVED, RENAMED, current_arguments, moved_class
from omni.stages.omni import OmniTuning

ROWS = [(name, old, new) for name, table in RENAMED.items() for old, new in table.items()]
TOY = {"num_mels": 16, "vocab_size": 5, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "conv_channels": 4}


@cache
def class_named(name: str) -> type:
    """The only class of omni with this name."""
    package = Path(omni.__path__[0])
    (path,) = [
        path for path in package.rglob("*.py") if re.search(rf"^class {name}\b", path.read_text(encoding="utf-8"), re.M)
    ]
    module = import_module(".".join(("omni", *path.relative_to(package).with_suffix("").parts)))
    return getattr(module, name)


@pytest.mark.parametrize(("name", "old", "new"), ROWS)
def test_the_new_name_is_an_argument_and_the_old_one_is_not(name, old, new):
    arguments = {key for cls in class_named(name).__mro__ for key in inspect.signature(cls).parameters}
    assert new in arguments
    assert old not in arguments


@pytest.mark.parametrize(("name", "old"), [(name, old) for name, table in REMOVED.items() for old in table])
def test_removed_arguments_do_not_exist(name, old):
    assert old not in inspect.signature(class_named(name)).parameters


def test_a_part_of_an_old_checkpoint_is_rebuilt():
    new = AudioEncoder(**TOY, intermediate_ctc_block=1)
    recipe = new.recipe
    recipe["init_args"]["inner_ctc"] = recipe["init_args"].pop("intermediate_ctc_block")
    old = build(recipe)
    assert isinstance(old, AudioEncoder)
    old.load_state_dict(new.state_dict())
    mels, lengths = torch.randn(2, 40, 16), torch.tensor([40, 24])
    assert torch.equal(old.eval()(mels, lengths).hidden, new.eval()(mels, lengths).hidden)


def test_a_removed_argument_is_dropped_only_where_it_changed_nothing(monkeypatch):
    monkeypatch.setitem(REMOVED, "AudioEncoder", {"attention_sink": 0})
    recipe = AudioEncoder(**TOY).recipe
    recipe["init_args"]["attention_sink"] = 0
    assert isinstance(build(recipe), AudioEncoder)
    recipe["init_args"]["attention_sink"] = 3
    with pytest.raises(UserError, match=r"was written by another version of omni.*attention_sink"):
        build(recipe)


def test_old_values_are_replaced():
    assert current_arguments("ImageData", {"bad_images": "fail", "fit": "pad"}) == {"bad_rows": "error", "fit": "pad"}


def test_other_classes_keep_an_argument_of_the_same_name():
    assert current_arguments("SpeechData", {"crop": 2.0}) == {"crop": 2.0}


OLD_PROJECTOR = {  # all its old arguments
    "in_dim": 24,
    "out_dim": 32,
    "hidden_dim": 16,
    "stack": 2,
    "places": 6,
    "num_experts": 3,
    "experts_per_token": 2,
    "queries": 3,
    "num_layers": 1,
    "num_heads": 2,
}


@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_projector_of_an_old_checkpoint_is_rebuilt(kind, tmp_path):
    own = inspect.signature(PROJECTORS[kind]).parameters.keys() & OLD_PROJECTOR.keys()
    options = {name: OLD_PROJECTOR[name] for name in ("in_dim", "out_dim", *own)}
    new = PROJECTORS[kind](**options, frame_stacking=2, learned_positions=6).eval()
    new.calibrate(0.3)
    weights = {f"audio_projector.{name}": weight for name, weight in new.state_dict().items()}
    weights = {name.replace("learned_positions", "places"): weight for name, weight in weights.items()}
    assert "audio_projector.places" in weights
    recipe = {"class_path": "omni.models.projector.Projector", "init_args": {"kind": kind, **OLD_PROJECTOR}}
    content = {"state_dict": weights, "parts": {"audio_projector": recipe}, "lineage": {"stage": "OmniTuning"}}
    torch.save(content, tmp_path / "old.ckpt")
    old = Checkpoint(tmp_path / "old.ckpt").part("audio_projector", Projector)
    assert type(old) is PROJECTORS[kind]
    features, lengths = torch.randn(2, 12, 24), torch.tensor([12, 7])
    assert torch.equal(old(features, lengths).tokens, new(features, lengths).tokens)


def test_an_old_projector_without_a_kind_has_two_layers():
    recipe = {"class_path": "omni.models.projector.Projector", "init_args": {"in_dim": 24, "out_dim": 32}}
    assert type(build(recipe)) is PROJECTORS["mlp"]


def test_a_run_is_resumed_from_the_old_names_of_weights():
    omni = toy_omni()
    projector = PROJECTORS["mlp"](in_dim=24, out_dim=32, learned_positions=4)
    stage = OmniTuning(omni.thinker, omni.vision_encoder, projector)
    weights = {name: weight + 1 for name, weight in stage.state_dict().items() if weight.dtype == torch.float32}
    stage.load_state_dict({name.replace("learned_positions", "places"): weight for name, weight in weights.items()})
    assert torch.equal(projector.learned_positions, weights["vision_projector.learned_positions"])


def test_a_front_end_has_the_old_name_of_its_weights():
    weight = torch.ones(1)
    assert with_current_names(
        {"audio_encoder.ear.model.conv1.weight": weight, "thinker.ear.weight": weight}
    ).keys() == {
        "audio_encoder.front_end.model.conv1.weight",
        "thinker.ear.weight",
    }


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            "vision_projector.init_args.kind=mlp",
            "`kind` is now the class_path: LinearProjector (linear), MLP",
        ),
        (
            'vision_projector={"in_dim": 512, "out_dim": 192, "kind": "mlp"}',
            "vision_projector: `kind` is now the class_path: LinearProjector (linear), MLPProjector (mlp), ",
        ),
        ("audio_projector.init_args.stack=2", "MLPProjector: `stack` is now called `frame_stacking`"),
    ],
)
def test_old_settings_of_projectors_are_refused_with_the_new_ones(settings, line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(CONFIGS / "world/omni.yaml"), f"--model.init_args.{settings}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("omni: model: OmniTuning: ")
    assert line in said


def test_an_old_file_of_a_projector_is_refused_with_the_classes(tmp_path, capsys):
    parts: dict = {name: str(CONFIGS / f"models/laptop/{name}.yaml") for name in ("thinker", "audio_encoder")}
    parts["audio_projector"] = {"in_dim": 192, "out_dim": 192, "kind": "mlp", "stack": 1}
    config = {"model": {"class_path": "OmniTuning", "init_args": parts}}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(tmp_path / "old.yaml")])
    assert ended.value.code == 2
    assert (
        "audio_projector: a projector needs a class_path, with its arguments in init_args: Linear"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"model__init_args__samples": 2}, "model: SpeechRecognition: `samples` is now called `shown`"),
        ({"data__init_args__bad_rows": "fail"}, "data: SpeechData: bad_rows: `fail` is now called `error`"),
        (
            {"model__init_args__audio_encoder__init_args__inner_ctc": 1},
            "model: SpeechRecognition: audio_encoder: AudioEncoder: `inner_ctc` is now called `intermediate_ctc_block`",
        ),
    ],
)
def test_an_old_key_is_refused_with_the_new_one(fit_audio, capsys, options, line):
    with pytest.raises(SystemExit) as ended:
        fit_audio(**options)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"omni: {line}")


def test_a_removed_key_is_refused_with_what_to_do(fit_audio, capsys, monkeypatch):
    monkeypatch.setitem(REMOVED, "SpeechRecognition", {"label_noise": 0})
    with pytest.raises(SystemExit):
        fit_audio(model__init_args__label_noise=2)
    assert "SpeechRecognition: `label_noise` no longer exists: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "present"),
    [
        ("omni.callbacks.StageCheckpoint", "omni.training.callbacks.StageCheckpoint"),
        ("omni.callbacks.CliffNote", "omni.training.callbacks.LossDropNote"),
    ],
)
def test_an_old_class_path_is_refused_with_the_new_one(fit, fails, path, present):
    message = fails(fit, trainer__callbacks=f'[{{"class_path": "{path}"}}]')
    assert message.startswith(f"omni: trainer.callbacks: `{path}` is now `{present}` (see ")


@pytest.mark.parametrize("path", [path for path in MOVED if path != "omni.callbacks"])
def test_a_moved_class_is_at_the_path_in_the_table(path):
    path = path if path.rpartition(".")[2][0].isupper() else f"{path}.CodesData"
    module, _, name = re.findall(r"`([\w.]+)`", moved_class(path))[1].rpartition(".")
    assert hasattr(import_module(module), name)
    assert moved_class(f"{module}.{name}") == ""
