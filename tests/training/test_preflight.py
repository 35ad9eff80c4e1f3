"""A pre-flight finds what would end a run, and leaves nothing behind."""

import shutil
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from toy_chain import two, written
from toy_commands import CONFIGS, TOY, arguments
from toy_runs import callback

from omni.cli import main
from omni.training.loggers_reachable import unreachable
from omni.training.preflight import Check

THINKER = ["--config", str(CONFIGS / "thinker.yaml")]


class Drift(Callback):
    """Changes weights by a number that no checkpoint keeps."""

    def __init__(self) -> None:
        self.steps = 0

    @torch.no_grad()
    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.steps += 1
        next(module.parameters()).add_(0.01 * self.steps)


class Fails(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise RuntimeError("out of\nmemory")


def check(*extra: str, **overrides: object) -> list[Check]:
    return main(["plan", "--check", *THINKER, *arguments(TOY, overrides), *extra])


@pytest.fixture
def failed(capsys):
    """The failed checks of a pre-flight that ends with exit code 2, by name."""

    def run(*extra: str, **overrides: object) -> dict[str, str]:
        with pytest.raises(SystemExit) as end:
            check(*extra, **overrides)
        assert end.value.code == 2
        lines = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "✓✗"]
        assert any(line.startswith("✓") for line in lines)
        return dict(line[2:].split(": ", 1) for line in lines if line.startswith("✗"))

    return run


def test_a_run_that_works_passes_and_is_not_touched(fit, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(Path("temporary").absolute()))
    Path("temporary").mkdir()
    fit(trainer__max_steps=1)
    before = {path: path.stat().st_mtime_ns for path in Path("lightning_logs").rglob("*")}
    capsys.readouterr()
    checks = check(trainer__accumulate_grad_batches=2, trainer__max_epochs=1)
    assert [each.name for each in checks] == ["data", "disk", "memory", "loggers", "train, evaluate", "resume"]
    assert all(each.passed for each in checks)
    assert "is the same, bit for bit" in checks[-1].reason
    assert "3 training and 2 validation batches: train/loss" in checks[-2].reason
    assert [line[:6] for line in capsys.readouterr().out.splitlines() if line.startswith("✓ data")] == ["✓ data"]
    assert {path: path.stat().st_mtime_ns for path in Path("lightning_logs").rglob("*")} == before
    assert not list(Path("temporary").iterdir())


def test_a_run_that_has_not_started_has_no_folder_afterwards(workplace):
    check()
    assert {path.name for path in Path().iterdir()} == {"corpus.txt", "data"}  # the cache of tokens


def test_missing_data(failed):
    found = failed(data__init_args__train="nothing.txt")
    assert found.keys() == {"data"}
    assert "nothing.txt" in found["data"]


def test_training_that_diverges(workplace, failed):
    found = failed(model__init_args__lr="1e30", model__init_args__warmup_steps=0)
    assert found.keys() == {"train, evaluate"}
    assert "not finite" in found["train, evaluate"]


def test_an_error_of_other_code_is_one_line(workplace, failed, monkeypatch):
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    found = failed(callback(f"{__name__}.Fails"))
    assert found.keys() == {"train, evaluate"}
    assert found["train, evaluate"].startswith("RuntimeError: out of")


def test_a_run_that_does_not_resume_exactly(workplace, failed):
    found = failed(callback(f"{__name__}.Drift"))
    assert found.keys() == {"resume"}
    assert "differs by 0.02 at step 3" in found["resume"]


def test_a_full_disk(workplace, failed, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1000))
    found = failed()
    assert found.keys() == {"disk"}
    assert "2 checkpoints of" in found["disk"]
    assert "of 1.0 KiB free" in found["disk"]


def test_too_little_memory(workplace, failed):
    found = failed("--gpu_memory=1kB")
    assert found.keys() == {"memory"}
    assert "of 1.0 KiB of the GPU: `omni plan --suggest --gpu_memory` finds" in found["memory"]


def test_a_logger_that_cannot_write(workplace, failed):
    found = failed("--trainer.logger.init_args.save_dir=corpus.txt")
    assert found.keys() >= {"loggers"}
    assert "corpus.txt is a file" in found["loggers"]


@pytest.mark.parametrize(
    ("name", "given", "environment", "problem"),
    [
        ("CSVLogger", {"save_dir": "new/folder"}, {}, None),
        ("CSVLogger", {"save_dir": "corpus.txt/folder"}, {}, "corpus.txt is a file: name another folder in CSVLogger"),
        ("WandbLogger", {"offline": True}, {}, None),
        ("WandbLogger", {}, {"WANDB_MODE": "offline"}, None),
        ("WandbLogger", {}, {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
        ("MLFlowLogger", {"tracking_uri": "http://127.0.0.1:9"}, {}, "cannot be reached"),
        ("MLFlowLogger", {"tracking_uri": "file:./ml-runs"}, {}, None),
    ],
)
def test_loggers(name, given, environment, problem, workplace, monkeypatch):
    for variable in ("WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    found = unreachable(f"lightning.pytorch.loggers.{name}", given)
    assert found is None if problem is None else problem in str(found)


def test_a_chain_is_checked_as_far_as_it_is_trained(workplace, capsys):
    checks = main(["plan", "--check", f"--chain={written(two())}"])
    assert len(checks) == 6
    assert "again: not checked: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--suggest", "--check"], "--suggest and --check: give one of them"),
        (["--check", "--write=a"], "belong to --s"),
    ],
)
def test_mistakes_end_in_one_line(args, complaint, workplace, capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", *THINKER, *arguments(TOY, {}), *args])
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err
