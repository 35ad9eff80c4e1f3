"""Pipelines of real stages: killed and started again, failed, stopped."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from stage_process import launch
from toy_chain import NAME, stage, two, written

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.pipeline.definition import read_pipeline
from omni.pipeline.launcher import Launcher, exclusive, last_error
from omni.pipeline.timings import StageTimings


class KillOnce(Callback):
    """Kills its process at a training step if a file exists, and removes the file."""

    def __init__(self, step: int, file: str) -> None:
        self.step, self.file = step, Path(file)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step and self.file.exists():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def fast_stages(monkeypatch):
    """Stages run in processes that have everything imported."""
    monkeypatch.setattr(Launcher, "__call__", launch)


def report(folder: str = "lightning_logs") -> dict[str, Any]:
    """The report, without what may differ between two runs."""
    content = json.loads(Path(folder, "toy/report.json").read_text(encoding="utf-8"))
    del content["date"], content["seconds"]
    for each in content["stages"]:
        assert each.pop("seconds") > 0
        del each["attempts"]
    return content


def test_the_error_of_a_resumed_stage_is_its_own(tmp_path):
    log = tmp_path / "stage.log"
    log.write_text("$ omni fit\nomni: stopped at step 4 by SIGINT\n$ omni fit --ckpt_path last.ckpt\nKilled\n")
    assert last_error(log) == "Killed"
    log.write_text("$ omni fit\nomni: no rows\nsome more\n")
    assert last_error(log) == "no rows"
    log.write_text("$ omni fit\nomni: old\n$ omni fit --ckpt_path last.ckpt\n")
    assert last_error(log) == "no output"


def test_a_file_system_without_locks_is_told_once(workplace, monkeypatch):
    def no_locks(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    pipeline, told = read_pipeline(Path(written(two()))), []
    monkeypatch.setattr("omni.pipeline.launcher.fcntl.flock", no_locks)
    with exclusive(pipeline, waiting=lambda: told.append("wait"), unlocked=lambda: told.append("no locks")):
        pass
    assert told == ["no locks"]


def test_killed_and_started_again_ends_with_the_same_report(fast_stages, workplace, capfd):
    kill = {"class_path": "test_pipeline_runs.KillOnce", "init_args": {"step": 7, "file": "kill"}}
    often = {"filename": "last", "every_n_train_steps": 2}
    every = {"class_path": "omni.training.callbacks.StageCheckpoint", "init_args": often}
    stages = two(**{"trainer.max_steps": 12, "trainer.callbacks+": [every]})
    stages["again"]["overrides"]["trainer.callbacks+"] = [kill, every]
    stages["thinker"]["expected_loss"] = {"50%": 0.5}
    path = str(written(stages))
    main(["train", path])
    whole = report()
    weights = Checkpoint("lightning_logs/again/last.ckpt").weights
    weights = {name: weight.clone() for name, weight in weights.items()}
    assert [(each["name"], each["reached"]) for each in whole["stages"]] == [("thinker", True), ("again", None)]
    Path("lightning_logs").rename("whole")

    Path("kill").touch()
    with pytest.raises(SystemExit) as stop:
        main(["train", path])
    assert stop.value.code == 128 + signal.SIGKILL
    output = capfd.readouterr()
    assert "killed by SIGKILL; lightning_logs/toy/again.log" in output.err
    cut = Checkpoint("lightning_logs/again/last.ckpt").lineage["step"]
    assert 2 < cut < 8

    main(["train", path])
    output = capfd.readouterr().out
    assert "thinker  done before" in output
    assert "again  resumed" in output
    assert report() == whole
    resumed = Checkpoint("lightning_logs/again/last.ckpt").weights
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert StageTimings(Path("lightning_logs/toy/chain.json")).attempts("again") == 2
    text = Path("lightning_logs/toy/report.md").read_text(encoding="utf-8")
    assert "| thinker (`ThinkerPretraining`) | `val/perplexity` | < 1000 | **" in text
    assert " in 2 attempts | " in text
    assert "| training loss at | 1% | 10% | 50% | 100% of the steps |" in text
    assert re.search(r"\| thinker \| [\d.]+ \| [\d.]+ \| [\d.]+ \(0.5 expected\) \| [\d.]+ \|", text), text

    main(["train", path])
    assert capfd.readouterr().out.count("done before") == 2


def test_a_failed_stage_is_reported_with_its_line_its_log_and_its_exit_code(fast_stages, workplace, fails):
    stages = two(**{"model.init_args.thinker.init_args.vocab_size": 100})
    stages["other"] = stage(overrides={NAME: "other"})
    message = fails(main, ["train", str(written(stages))])
    assert message.startswith("omni: stage thinker failed: the tokenizer has 288 tokens and the Thinker 100: set ")
    assert message.endswith("(exit code 2; lightning_logs/toy/thinker.log)")
    assert Path("lightning_logs/other/best.ckpt").exists()
    assert not Path("lightning_logs/toy/report.md").exists()


@pytest.mark.slow
def test_processes_save_at_ctrl_c_and_when_their_chain_is_killed(workplace):
    options = {"trainer.max_steps": 4000, "trainer.val_check_interval": 4000}
    path = str(written({"thinker": stage(overrides=options)}))
    progress, last = Path("lightning_logs/thinker/progress.json"), Path("lightning_logs/thinker/last.ckpt")
    for signum, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        progress.unlink(missing_ok=True)
        before = Checkpoint(last).lineage["step"] if last.exists() else 0
        chain = subprocess.Popen([sys.executable, "-m", "omni.cli", "train", path], stdout=subprocess.PIPE, text=True)
        while not progress.exists() or json.loads(progress.read_text())["step"] <= before + 20:
            time.sleep(0.1)
        chain.send_signal(signum)
        output, _ = chain.communicate(timeout=120)
        assert chain.returncode == code
        if signum == signal.SIGINT:
            assert "stopped and saved; run the same command to resume" in output
        with exclusive(read_pipeline(Path(path)), waiting=lambda: None, unlocked=lambda: None):
            assert before + 20 < Checkpoint(last).lineage["step"] < 4000
