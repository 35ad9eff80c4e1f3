"""Every configuration of the world trains on two ranks and ends without a timeout."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import yaml
from processes import Ranks
from toy_commands import CONFIGS

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main

FEW = {"documents": 300, "val_documents": 20, "utterances": 80, "val_utterances": 12, "narrations": 40}
FEW |= {"val_narrations": 8, "pictures": 300, "val_pictures": 40, "conversations": 200, "val_conversations": 24}
STAGES = ("thinker", "audio", "vision", "codec", "vocoder", "talker", "omni", "talker_tuned", "asr_llm")  # in order
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=4"]
SHORT = ["--trainer.val_check_interval=2", "--trainer.accumulate_grad_batches=1", "--trainer.log_every_n_steps=1"]
# All alignments pass: those of a recognizer that has learned nothing are wrong.
UNFILTERED = [f"--data.init_args.{name}" for name in ("min_score=0", "min_speed=0", "max_speed=1000")]


def fit(command):
    warnings.simplefilter("default")  # for rows that are left out
    main(command)


@pytest.mark.slow
def test_all_stages_train_on_two_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["data", "world", *(f"--{name}={number}" for name, number in FEW.items())])
    configs = {path.stem for path in (CONFIGS / "world").glob("*.yaml") if "model" in yaml.safe_load(path.read_text())}
    assert configs == set(STAGES)
    for stage in STAGES:
        extra = UNFILTERED if "talker" in stage else []
        command = ["fit", "--config", str(CONFIGS / f"world/{stage}.yaml"), *TWO, *SHORT, *extra]
        with Ranks(partial(fit, command)) as ranks:
            assert ranks.wait(600) == [0, 0], ranks.output(0) + ranks.output(1)
        folder = Path("lightning_logs/world") / stage
        assert Checkpoint(folder / "last.ckpt").lineage["step"] == 4
        assert Checkpoint(folder / "best.ckpt").content["metrics"]
