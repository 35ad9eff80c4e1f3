"""Renamed and removed arguments: old checkpoints load, and an old YAML key is refused with a line that helps."""

import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch

import omni
from omni.checkpoints.recipe import build
from omni.errors import UserError
from omni.models.audio_encoder import AudioEncoder
from omni.renamed import MOVED, REMOVED, RENAMED, current_arguments, moved_class

ROWS = [(name, old, new) for name, table in RENAMED.items() for old, new in table.items()]
TOY = {"num_mels": 16, "vocab_size": 5, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "conv_channels": 4}


@cache
def class_named(name: str) -> type:
    """The class of omni with this name; it is the only one."""
    package = Path(omni.__path__[0])
    (path,) = [
        path for path in package.rglob("*.py") if re.search(rf"^class {name}\b", path.read_text(encoding="utf-8"), re.M)
    ]
    module = import_module(".".join(("omni", *path.relative_to(package).with_suffix("").parts)))
    return getattr(module, name)


@pytest.mark.parametrize(("name", "old", "new"), ROWS)
def test_the_present_name_is_an_argument_and_the_old_one_is_not(name, old, new):
    arguments = inspect.signature(class_named(name)).parameters
    assert new in arguments
    assert old not in arguments


@pytest.mark.parametrize(("name", "old"), [(name, old) for name, table in REMOVED.items() for old in table])
def test_removed_arguments_are_gone(name, old):
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


def test_other_classes_keep_an_argument_of_the_same_name():
    assert current_arguments("SpeechData", {"crop": 2.0}) == {"crop": 2.0}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"model__init_args__samples": 2}, "model: SpeechRecognition: `samples` is now called `shown`"),
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
def test_an_old_path_of_a_class_is_refused_with_the_new_one(fit, fails, path, present):
    message = fails(fit, trainer__callbacks=f'[{{"class_path": "{path}"}}]')
    assert message.startswith(f"omni: trainer.callbacks: `{path}` is now `{present}` (")


@pytest.mark.parametrize("path", [path for path in MOVED if path != "omni.callbacks"])
def test_a_moved_class_is_where_the_table_says(path):
    path = path if path.rpartition(".")[2][0].isupper() else f"{path}.CodesData"
    module, _, name = re.findall(r"`([\w.]+)`", moved_class(path))[1].rpartition(".")
    assert hasattr(import_module(module), name)
    assert moved_class(f"{module}.{name}") == ""
