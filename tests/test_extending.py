"""The examples of CONTRIBUTING.md: classes of a user's package are configured, trained and used like omni's own."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from toy_commands import TOY_SPEECH, arguments

from omni.cli import main
from omni.inference.assistant import Assistant

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```\w+\n# ([\w/.]+)\n(.*?)```", PAGE, re.S))
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package `mine` of the page, importable for the whole session: the parser keeps subclasses of a stage."""
    folder = tmp_path_factory.mktemp("package")
    for name, text in EXAMPLES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    entries = tomllib.loads(EXAMPLES["pyproject.toml"])["project"]["entry-points"]["omni.verbs"]
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    lines = ["[omni.verbs]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    sys.path.insert(0, str(folder))
    return folder


@pytest.fixture(autouse=True)
def configurations(package, workplace):
    """The configurations of the page, in the current folder."""
    for path in package.glob("*.yaml"):
        shutil.copy(path, workplace)


def test_all_examples_are_found_and_short():
    python = {name: text for name, text in EXAMPLES.items() if name.endswith(".py")}
    assert {Path(name).stem for name in python} == {*("projector", "encoder", "data", "stage", "metric", "words")}
    for name, text in python.items():
        lines = [line for line in text.splitlines() if line and not re.match("from |import ", line)]
        assert len(lines) < 15, name


def test_an_encoder_and_a_projector(speech):
    config = yaml.safe_load(EXAMPLES["mine.yaml"])
    config["init_from"] = {}
    config["trainer"] = {"max_steps": 4, "val_check_interval": 2}
    config["model"]["init_args"]["audio_encoder"]["init_args"] = {"num_mels": 16, "dim": 24}
    config["model"]["init_args"]["audio_projector"]["init_args"].update(in_dim=24, out_dim=32)
    thinker = {"vocab_size": 288, "dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "ffn_dim": 48}
    config["model"]["init_args"] |= {"thinker": thinker, "answer_tokens": 4, "shown": 1}
    config["data"] = {"init_args": {"train": "speech/train.jsonl", "val": "speech/val.jsonl", "tokenizer": "bytes"}}
    config["data"]["init_args"] |= {"num_mels": 16, "max_tokens": 96, "batch_tokens": 512}
    Path("mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    cli = main(["fit", "--config", "mine.yaml", *CPU])
    assert type(cli.model.audio_encoder).__name__ == "MeanEncoder"
    assert type(cli.model.audio_projector).__name__ == "GatedProjector"
    assert "val/wer" in cli.trainer.callback_metrics
    main(["plan", "--config", "mine.yaml"])
    assistant = Assistant.from_pretrained("lightning_logs/omni/last.ckpt", device="cpu")
    assert type(assistant.responder.omni.audio_encoder).__name__ == "MeanEncoder"
    assert assistant.responder.omni.audio_projector.gate == 0.5


def test_a_stage_and_data(capsys):
    cli = main(["fit", "--config", "counting.yaml", *CPU, "--trainer.max_steps=6", "--trainer.val_check_interval=3"])
    assert type(cli.model).__name__ == "Denoising"
    assert cli.trainer.callback_metrics["val/loss"] > 0
    assert Path("lightning_logs/counting/best.ckpt").is_file()
    plan = main(["plan", "--config", "counting.yaml"])
    assert plan.batch["tokens"] == (8, 32)


def test_a_metric(speech):
    options = arguments(TOY_SPEECH, {"model__class_path": None})
    cli = main(["fit", "--config", "audio.yaml", "--model.class_path=mine.metric.Recognition", *options])
    assert 0 <= cli.trainer.callback_metrics["val/mer"] <= 1
    assert "val/mer" in Path("lightning_logs/audio/config.yaml").read_text(encoding="utf-8")


def test_a_verb(capsys):
    Path("text.txt").write_text("a b a c a b", encoding="utf-8")
    main(["words", "--file", "text.txt", "--top", "2"])
    assert capsys.readouterr().out == "a 3\nb 2\n"
    main(["--help"])
    assert "words" in capsys.readouterr().out


def test_a_class_that_is_no_encoder_is_refused_in_one_line(fails):
    option = '--model.init_args.audio_encoder={"class_path": "mine.projector.GatedProjector"}'
    assert "GatedProjector is not a SpeechEncoder" in fails(main, ["fit", "--config", "omni.yaml", option])
